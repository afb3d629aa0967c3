"""What `tenshot evaluate` is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from tenshot.core.errors import Fault
from tenshot.core.options import Options
from tenshot.io import destinations
from tenshot.option_types import Device, Few, FilePath, FolderPath, LoraPath, Model, NetFolder, WordPath


class EvaluateOptions(Options):
    """Measure what models learned of a subject: likeness, prompts, and what became of the subject's class."""

    words: ClassVar[tuple[str, ...]] = ("model",)
    half_serves: ClassVar[bool] = True

    model: list[Model] = Field(
        ["pocket"], min_length=1, description="one or more: pocket, folders, files, or org/name of the hub; a row each"
    )
    lora: list[LoraPath] = Field(
        [], description="FILE=0.8, FOLDER, or org/name: every model with these in a further row"
    )
    embedding: list[WordPath] = Field([], description="a learned word, likewise")
    pictures: FolderPath = Field(description="of the subject, from which was learned")
    unseen: FolderPath | None = Field(None, description="of the subject, from which was not: likeness is to these")
    others: FolderPath | None = Field(
        None, description="folders of other subjects, which it must not be taken for; default: those that ship"
    )
    subject: str = Field(min_length=1, description="the class word of what the pictures show, as in cat")
    name: str | None = Field(None, min_length=1, description="what prompts call it; default: az and the class word")
    prompts: FilePath | None = Field(None, description="a prompt a line, with {} where the subject is named")
    clip: NetFolder | None = Field(
        None, description="judge by CLIP: org/name or a folder; default: the judge that ships"
    )
    dino: NetFolder | None = Field(None, description="beside it, tell subjects apart by DINO: org/name or a folder")
    seeds: Few = Field(4, description="pictures for each prompt")
    seed: int = Field(0, ge=0, lt=2**62, description="of the first picture of each prompt")
    steps: int = Field(20, ge=1, le=1000, description="denoising steps")
    batch_size: Few = Field(4, description="pictures drawn at once")
    device: Device = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    out: Path | None = Field(None, description="a new PNG, with all that was drawn")

    @property
    def called(self) -> str:
        """The subject's name in prompts."""
        return self.name or f"az {self.subject}"

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        if self.dino and not self.clip:
            yield Fault("--dino", "DINO reads no prompts", "--clip beside it", "--clip openai/clip-vit-large-patch14")
        if self.out and self.out.suffix.lower() != ".png":
            yield Fault(f"--out {self.out}", f"ends in {self.out.suffix or 'nothing'}", "a file.png", "name it so")

    def obstacles(self) -> Iterator[Fault]:
        if self.out and (hurdle := destinations.misnamed(self.out) or destinations.obstacle(self.out.parent)):
            yield Fault("--out", f"{self.out}: {hurdle}", "a path through folders", "choose another name")
        elif self.out and self.out.exists():
            yield Fault("--out", f"{self.out} is there", "a new file", "choose another name")

    def notes(self) -> Iterator[str]:
        if not self.clip and any(each != "pocket" for each in self.model):
            yield "the judge that ships knows emoji alone; for photographs: --clip NAME --dino NAME"
