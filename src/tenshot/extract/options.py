"""What `tenshot extract` and `tenshot resize` are told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from tenshot import next_commands
from tenshot.core.errors import Fault
from tenshot.core.options import Options
from tenshot.io import destinations
from tenshot.option_types import LoraFile, ModelPath, Rank, VaePath


class RankOptions(Options):
    """How large the factors may be."""

    rank: Rank | None = Field(None, description="at most; default: 16 where --keep does not say it")
    keep: float | None = Field(None, gt=0, le=1, description="of each layer's energy (squared singular values): 0.98")
    out: Path = Field(description="the LoRA: a .safetensors file")
    overwrite: bool = Field(False, description="replace the result")

    def obstacles(self) -> Iterator[Fault]:
        yield from destinations.hurdles("--out", self.out, self.overwrite, self.sources)

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        if self.out.suffix != ".safetensors":
            do = f"--out {self.out}.safetensors"
            yield Fault("--out", str(self.out), "a name that ends with .safetensors", do)

    def next_commands(self) -> Sequence[str]:
        base = getattr(self, "base", "MODEL")
        return next_commands.draw("lora", self.out, model=base), next_commands.hand_over(self.out)


class ExtractOptions(RankOptions):
    """The difference of two models as a LoRA: tenshot extract TUNED --base BASE --out FILE."""

    words: ClassVar[tuple[str, ...]] = ("tuned",)
    also: ClassVar[Mapping[str, str]] = {"model_tuned": "tuned", "model_org": "base", "save_to": "out", "dim": "rank"}

    tuned: ModelPath = Field(description="the fine-tuned model: a folder or a file")
    base: ModelPath = Field(description="the model it was made of")
    vae: VaePath | None = Field(None, description="a VAE, file or folder, in place of both models' own")
    config: ModelPath | None = Field(None, description="a model folder that tells what a file cannot")


class ResizeOptions(RankOptions):
    """A LoRA of another rank, also of a LoHa or LoKr: tenshot resize FILE --rank 8 --out FILE."""

    words: ClassVar[tuple[str, ...]] = ("file",)
    also: ClassVar[Mapping[str, str]] = {"model": "file", "save_to": "out", "new_rank": "rank"}

    file: LoraFile = Field(description="the LoRA, LoHa or LoKr")
    config: ModelPath | None = Field(None, description="the model that it belongs to, where it does not say it")
