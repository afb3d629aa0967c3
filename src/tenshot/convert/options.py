"""What `tenshot convert` is told."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tenshot.core.errors import Fault
from tenshot.core.options import Options
from tenshot.export.ui_folders import FOLDERS, UIFolder, places
from tenshot.io import destinations
from tenshot.option_types import FilePath, ModelPath, Rank, VaePath

if TYPE_CHECKING:
    import torch

Dtype = Literal["keep", "fp32", "fp16", "bf16"]


class ConvertOptions(Options):
    """Translate a model, or what belongs to one, into another form: tenshot convert SRC DST."""

    words: ClassVar[tuple[str, ...]] = ("src", "dst")
    also: ClassVar[Mapping[str, str]] = {"model_path": "src", "checkpoint_path": "dst", "file": "src"}

    src: ModelPath = Field(
        description="what to translate, as its content says: a folder, a file, or org/name of the hub"
    )
    dst: Path | None = Field(None, description="the result: a .safetensors or .ckpt file, or else a folder")
    dtype: Dtype = Field("keep", description="numbers in the result")
    ema: bool = Field(False, description="take the running average of the denoiser's weights, where there is one")
    config: ModelPath | None = Field(
        None, description="a model folder that tells what SRC cannot, and has the nets that SRC, part of a model, lacks"
    )
    vae: VaePath | None = Field(None, description="a VAE, file or folder, in place of the model's own")
    form: Literal["kohya", "diffusers"] | None = Field(
        None,
        description="a LoRA's names, default: the other ones; diffusers, of a word of two text encoders: two files",
    )
    to: list[str] = Field(
        [], description="webui DIR or comfyui DIR: the result goes where that user interface, in DIR, looks for it"
    )
    name: str | None = Field(None, min_length=1, description="with --to: how the result is called there")
    trigger: str = Field("", description="with --to: the words that call it up, beside it for the user interface")
    preview: FilePath | None = Field(None, description="with --to: a picture that the user interface shows for it")
    bake_dora: ModelPath | None = Field(
        None, description="of a DoRA: a plain LoRA for this model, the nearest there is"
    )
    rank: Rank | None = Field(None, description="with --bake_dora: of the result; default: that of each layer")
    use_safetensors: bool = Field(False, description="DST is safetensors, whatever its name says")
    half: bool = Field(False, description="the same as --dtype fp16")
    overwrite: bool = Field(False, description="replace DST")

    @property
    def export(self) -> str:
        """--to as --export would say it."""
        return ":".join(self.to)

    @property
    def place(self) -> UIFolder | None:
        """The user interface that --to names."""
        return next(iter(places([self.export])), None)

    def obstacles(self) -> Iterator[Fault]:
        if self.dst and not self.to:
            yield from destinations.hurdles("dst", self.dst, self.overwrite, self.sources)

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        if self.rank and not self.bake_dora:
            do = "tenshot resize changes a LoRA's rank"
            yield Fault("--rank", "is given without --bake_dora", "--bake_dora MODEL", do)
        if not self.to:
            for name in ("name", "trigger", "preview"):
                if getattr(self, name):
                    yield Fault(
                        f"--{name}", "is given without --to", "--to webui DIR or --to comfyui DIR", "leave it out"
                    )
            return
        if place := self.place:
            yield from place.faults("--to")
        else:
            do = ", or ".join(f"--to {program} DIR" for program in FOLDERS)
            yield Fault("--to", " ".join(self.to), "a user interface and its folder", do)
        if self.dst:
            found = f"{self.dst}, but --to says where the result goes"
            yield Fault("dst", found, "one of the two", "leave DST out; --name says what the result is called")
        if self.name and Path(self.name).name != self.name:
            do = f"--name {shlex.quote(Path(self.name).name or 'NAME')}"
            yield Fault("--name", f"{self.name!r} is a path", "a name without folders", do)

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """None: every tensor as it is."""
        from tenshot.core.device import DTYPES

        return None if self.dtype == "keep" and not self.half else DTYPES["fp16" if self.half else self.dtype]
