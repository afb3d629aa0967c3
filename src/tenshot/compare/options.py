"""What `tenshot compare` is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from tenshot.core.errors import Fault, some
from tenshot.core.options import Options
from tenshot.io import destinations
from tenshot.option_types import POCKET, Device, Few, FolderPath, Model, NetFolder

Method = Literal["dreambooth", "dreambooth-no-prior", "lora", "textual-inversion", "full"]
METHODS: tuple[Method, ...] = ("dreambooth", "dreambooth-no-prior", "lora", "textual-inversion", "full")
OWN = ("runs", "cells", "class", "captioned", "index.html", "compare.json", "tenshot.log")  # what lies in --out
FITS = "a new folder, or that of an earlier comparison"


class CompareOptions(Options):
    """Train every method on your pictures, and see on one page which of them serves you."""

    pictures: FolderPath = Field(description="folder with 5-10 pictures of the subject")
    subject: str = Field(min_length=1, description="the class word of what they show, as in cat")
    model: Model = Field("pocket", description="pocket, a model folder, a checkpoint file, or org/name of the hub")
    identifier: str = Field("az", min_length=1, description="the rare word that becomes the subject's name")
    methods: list[Method] = Field(list(METHODS), min_length=1, description="which to train")
    trainings: Few = Field(1, description="trainings of each method, from different seeds: shows how much is chance")
    max_train_steps: int | None = Field(None, ge=1, le=100_000_000, description="of all; default: by method and model")
    num_class_images: int = Field(48, ge=2, le=1_000_000, description="class pictures for prior preservation")
    unseen: FolderPath | None = Field(None, description="of the subject, not learned from: likeness is to these")
    clip: NetFolder | None = Field(None, description="judge by CLIP, org/name or a folder; default: the one that ships")
    dino: NetFolder | None = Field(None, description="beside it, tell subjects apart by DINO")
    seeds: Few = Field(4, description="pictures for each prompt")
    seed: int = Field(0, ge=0, lt=2**62, description="all randomness follows from it")
    device: Device = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    out: Path = Field(Path("out/compare"), description="folder for the page and all that was trained")

    @property
    def home(self) -> Path:
        return self.out

    @property
    def noun(self) -> str:
        """The subject's name where a model learned what its class word means."""
        return f"{self.identifier} {self.subject}"

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        if self.dino and not self.clip:
            yield Fault("--dino", "DINO reads no prompts", "--clip beside it", "--clip openai/clip-vit-large-patch14")
        if len({*self.methods}) < len(self.methods):
            yield Fault("--methods", "one of them twice", "each once", "--trainings 2 trains each twice")

    def obstacles(self) -> Iterator[Fault]:
        if hurdle := destinations.misnamed(self.out) or destinations.obstacle(self.out):
            yield Fault("--out", f"{self.out}: {hurdle}", FITS, "name another folder")
            return
        names = sorted(path.name for path in self.out.iterdir()) if self.out.is_dir() else []
        if strange := [name for name in names if name not in OWN]:
            yield Fault("--out", f"{self.out} holds other files: {some(strange)}", FITS, "name another folder")

    def notes(self) -> Iterator[str]:
        if self.model == "pocket":
            yield POCKET
