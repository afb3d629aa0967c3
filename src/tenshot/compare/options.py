"""What `tenshot compare` is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from tenshot.core.errors import Fault, some
from tenshot.io import destinations
from tenshot.option_types import Few, FolderPath, NetFolder
from tenshot.train.subject_options import SubjectOptions

OWN = ("runs", "cells", "class", "captioned", "index.html", "compare.json", "tenshot.log")  # what lies in --out
FITS = "a new folder, or that of an earlier comparison"


class CompareOptions(SubjectOptions):
    """Train every method on your pictures, and see on one page which of them serves you."""

    trainings: Few = Field(1, description="trainings of each method, from different seeds: shows how much is chance")
    few_steps: bool = Field(False, description="make what is recommended a LoRA that draws it in 8 steps, and judge it")
    unseen: FolderPath | None = Field(None, description="of the subject, not learned from: likeness is to these")
    clip: NetFolder | None = Field(None, description="judge by CLIP, org/name or a folder; default: the one that ships")
    dino: NetFolder | None = Field(None, description="beside it, tell subjects apart by DINO")
    seeds: Few = Field(4, description="pictures for each prompt")
    out: Path = Field(Path("out/compare"), description="folder for the page and all that was trained")

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
