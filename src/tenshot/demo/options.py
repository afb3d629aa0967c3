"""What `tenshot demo` is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from tenshot import next_commands
from tenshot.core.options import Options
from tenshot.option_types import POCKET, Device, Few, FolderPath, Model, VaePath


class DemoOptions(Options):
    """Teach a model a subject and see what it learned, on one page."""

    pictures: FolderPath | None = Field(
        None, description="folder with 5-10 pictures; default: a subject that ships inside"
    )
    subject: str = Field("animal", min_length=1, description="the class word of what the pictures show")
    model: Model = Field("pocket", description="pocket, a model folder, a checkpoint file, or org/name of the hub")
    vae: VaePath | None = Field(None, description="a VAE, file or folder, in place of the model's own")
    identifier: str = Field("az", min_length=1, description="the rare word that becomes the subject's name")
    max_train_steps: int | None = Field(
        None, ge=1, le=100_000_000, description="optimizer steps; default: by the model"
    )
    learning_rate: float | None = Field(None, gt=0, le=100, description="default: by the model")
    num_class_images: int = Field(48, ge=2, le=1_000_000, description="class pictures for prior preservation")
    seeds: Few = Field(4, description="pictures for each prompt")
    seed: int = Field(0, ge=0, lt=2**62, description="all randomness follows from it")
    device: Device = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    out: Path = Field(Path("out/demo"), description="folder for the page and the two tuned models")

    @property
    def home(self) -> Path:
        return self.out

    def notes(self) -> Iterator[str]:
        if self.model == "pocket":
            yield POCKET

    def next_commands(self) -> Sequence[str]:
        tuned, prompt = self.out / "with-prior", f"a photo of {self.identifier} {self.subject}"
        return (
            next_commands.draw("checkpoint", tuned, prompt),
            next_commands.hand_over(tuned, prompt),
            next_commands.compiled(tuned),
        )
