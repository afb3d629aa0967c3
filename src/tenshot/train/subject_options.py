"""What every verb is told that tries several methods of training on one subject."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from tenshot.core.errors import Fault
from tenshot.core.options import Options
from tenshot.option_types import POCKET, Device, FolderPath, Model

Method = Literal["dreambooth", "dreambooth-no-prior", "lora", "textual-inversion", "full"]
METHODS: tuple[Method, ...] = ("dreambooth", "dreambooth-no-prior", "lora", "textual-inversion", "full")


class SubjectOptions(Options):
    """The pictures, the model, and how each method is trained."""

    pictures: FolderPath = Field(description="folder with 5-10 pictures of the subject")
    subject: str = Field(min_length=1, description="the class word of what they show, as in cat")
    model: Model = Field("pocket", description="pocket, a model folder, a checkpoint file, or org/name of the hub")
    identifier: str = Field("az", min_length=1, description="the rare word that becomes the subject's name")
    methods: list[Method] = Field(list(METHODS), min_length=1, description="which to train")
    max_train_steps: int | None = Field(None, ge=1, le=100_000_000, description="of all; default: by method and model")
    num_class_images: int = Field(48, ge=2, le=1_000_000, description="class pictures for prior preservation")
    num_validation_images: int = Field(2, ge=0, le=1024, description="drawn five times in each training; 0: none")
    seed: int = Field(0, ge=0, lt=2**62, description="all randomness follows from it")
    device: Device = Field("auto", description="auto, cpu, cuda, cuda:1, ...")

    @property
    def noun(self) -> str:
        """The subject's name where a model learned what its class word means."""
        return f"{self.identifier} {self.subject}"

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        if len({*self.methods}) < len(self.methods):
            yield Fault("--methods", "one of them twice", "each once", "name it once")

    def notes(self) -> Iterator[str]:
        if self.model == "pocket":
            yield POCKET
