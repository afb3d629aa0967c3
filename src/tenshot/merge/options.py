"""What `tenshot merge` is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from tenshot import next_commands
from tenshot.core.errors import Fault
from tenshot.core.option_text import command
from tenshot.export.options import ExportOptions
from tenshot.io import destinations
from tenshot.option_types import ModelPath, Rank, Ratio, VaePath


class MergeOptions(ExportOptions):
    """LoRAs into a model (--sd_model), LoRAs into one LoRA, or models into one: each at its ratio."""

    also: ClassVar[Mapping[str, str]] = {"model": "sd_model", "out": "save_to", "lora": "models"}

    sd_model: ModelPath | None = Field(
        None, description="the model that LoRAs or other models go into; none: LoRAs only"
    )
    models: list[ModelPath] = Field(min_length=1, description="LoRAs, or models of the same family as --sd_model")
    ratios: list[Ratio] = Field([], description="how strongly each counts (default: 1 each)")
    text_ratios: list[Ratio] = Field([], description="the same in text encoders (default: as --ratios)")
    blocks: dict[str, Ratio] = Field({}, description="further factors by how layers begin: mid_block=0.5 up_blocks.1=0")
    method: Literal["sum", "difference"] = Field(
        "sum", description="models: (1 - ratios) sd_model + each; or sd_model + ratio (first - second)"
    )
    rank: Rank | None = Field(None, description="of LoRAs merged into one; default: exact, all ranks together")
    precision: Literal["keep", "fp32", "fp16", "bf16"] = Field("keep", description="numbers in the result")
    config: ModelPath | None = Field(None, description="a model folder that tells what a file cannot")
    vae: VaePath | None = Field(None, description="a VAE, file or folder, in place of every model's own")
    save_to: Path = Field(description="the result: a .safetensors or .ckpt file, or else a folder")
    overwrite: bool = Field(False, description="replace the result")

    def obstacles(self) -> Iterator[Fault]:
        yield from destinations.hurdles("--save_to", self.save_to, self.overwrite, self.sources)

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        count = len(self.models)
        for name in ("ratios", "text_ratios"):
            given = getattr(self, name)
            if given and len(given) != count:
                do = f"--{name} {' '.join(['1'] * count)}"
                yield Fault(
                    f"--{name}", f"{len(given)} numbers for {count} files", f"{count}, one for each of --models", do
                )
        if self.sd_model is None and self.save_to.suffix != ".safetensors":
            do = "--sd_model MODEL, or a name that ends with .safetensors"
            yield Fault("--save_to", str(self.save_to), "LoRAs merged into one make a .safetensors file", do)
        if self.sd_model is not None and self.rank:
            do = "leave it out, or leave --sd_model out"
            yield Fault("--rank", "is given, but a model has none", "LoRAs merged into one", do)
        if self.method == "difference" and count != 2:
            yield Fault("--method", f"difference of {count} models", "two models", "--models NEW OLD")

    def next_commands(self) -> Sequence[str]:
        inspect = command("inspect", self.save_to)
        if self.sd_model is None:
            return next_commands.draw("lora", self.save_to), inspect
        return next_commands.draw("checkpoint", self.save_to), inspect
