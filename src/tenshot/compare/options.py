"""What `tenshot compare` is told."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from tenshot.core.errors import Fault, some
from tenshot.io import destinations
from tenshot.option_types import Few, FolderPath, NetFolder, Rank
from tenshot.train.options import MOST_STEPS, Optimizer
from tenshot.train.subject_options import Method, SubjectOptions

Search = Literal["grid", "random", "optuna"]
Rate = Annotated[float, Field(gt=0, le=100)]
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]

OWN = (
    "runs",
    "cells",
    "class",
    "captioned",
    "index.html",
    "compare.json",
    "sweep.json",
    "tenshot.log",
)  # what lies in --out
FITS = "a new folder, or that of an earlier comparison"


class JudgedOptions(SubjectOptions):
    """How what was learned is judged, and where all of it lies."""

    unseen: FolderPath | None = Field(None, description="of the subject, not learned from: likeness is to these")
    clip: NetFolder | None = Field(None, description="judge by CLIP, org/name or a folder; default: the one that ships")
    dino: NetFolder | None = Field(None, description="beside it, tell subjects apart by DINO")
    seeds: Few = Field(4, description="pictures for each prompt")
    out: Path = Field(Path("out/judged"), description="folder for the page and all that was trained")

    @property
    def home(self) -> Path:
        return self.out

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        if self.dino and not self.clip:
            yield Fault("--dino", "DINO reads no prompts", "--clip beside it", "--clip openai/clip-vit-large-patch14")

    def obstacles(self) -> Iterator[Fault]:
        if hurdle := destinations.misnamed(self.out) or destinations.obstacle(self.out):
            yield Fault("--out", f"{self.out}: {hurdle}", FITS, "name another folder")
            return
        names = sorted(path.name for path in self.out.iterdir()) if self.out.is_dir() else []
        if strange := [name for name in names if name not in OWN]:
            yield Fault("--out", f"{self.out} holds other files: {some(strange)}", FITS, "name another folder")


class CompareOptions(JudgedOptions):
    """Train every method on your pictures, and see on one page which of them serves you."""

    trainings: Few = Field(1, description="trainings of each method, from different seeds: shows how much is chance")
    few_steps: bool = Field(False, description="make what is recommended a LoRA that draws it in 8 steps, and judge it")
    out: Path = Field(Path("out/compare"), description="folder for the page and all that was trained")


class SweepOptions(JudgedOptions):
    """Train one method with many settings, and see which of them teach it your pictures best."""

    methods: list[Method] = Field(["lora"], min_length=1, max_length=1, description="the one to train")
    search: Search = Field(
        "optuna", description="of settings: grid, all in turn; random; optuna, by what was found before (TPE)"
    )
    trials: Few = Field(12, description="trainings at most")
    rank: list[Rank] = Field([4, 8, 16], min_length=1, description="of a LoRA")
    learning_rate: list[Rate] = Field(
        [], description="to try; random, optuna: from the least to the greatest; default: about the usual one"
    )
    train_steps: list[Steps] = Field(
        [], description="optimizer steps to try; default: half as many as usual, and those"
    )
    optimizer: list[Optimizer] = Field(["adamw"], min_length=1, description="to try")
    prune: bool = Field(True, description="stop trainings early that are behind most others at the same share of steps")
    out: Path = Field(Path("out/sweep"), description="folder for the page and all that was trained")

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        if self.max_train_steps:
            yield Fault(
                "--max_train_steps", "what is swept over", "--train_steps", f"--train_steps {self.max_train_steps}"
            )
        if self.prune and not self.num_validation_images:
            do = "--no-prune, or --num_validation_images 2"
            yield Fault("--num_validation_images", "0, and nothing to see while training", "1 or more", do)

    def obstacles(self) -> Iterator[Fault]:
        yield from super().obstacles()
        if find_spec("optuna") is None:
            yield Fault("--search", "optuna is not installed", "its package", 'pip install "tenshot[sweep]"')
