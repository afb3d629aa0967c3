"""What `tenshot convert` is told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field

from tenshot.device import DTYPES
from tenshot.options import Options

Dtype = Literal["keep", "fp32", "fp16", "bf16"]


class ConvertOptions(Options):
    """Translate a model, or what belongs to one, into another form: tenshot convert SRC DST."""

    words: ClassVar[tuple[str, ...]] = ("src", "dst")
    also: ClassVar[Mapping[str, str]] = {"model_path": "src", "checkpoint_path": "dst", "file": "src"}

    src: Path = Field(description="what to translate: a folder or a file; what it is, its content says")
    dst: Path | None = Field(None, description="the result: a .safetensors or .ckpt file, or else a folder")
    dtype: Dtype = Field("keep", description="numbers in the result")
    ema: bool = Field(False, description="take the running average of the UNet's weights, where there is one")
    config: Path | None = Field(None, description="a model folder whose configurations and tokenizer are those of SRC")
    form: Literal["kohya", "diffusers"] | None = Field(
        None, description="names in a LoRA: kohya's for user interfaces; default: the one that SRC does not have"
    )
    to: list[str] = Field(
        [], description="webui DIR or comfyui DIR: the result goes where that user interface, in DIR, looks for it"
    )
    name: str | None = Field(None, min_length=1, description="with --to: how the result is called there")
    trigger: str = Field("", description="with --to: the words that call it up, beside it for the user interface")
    preview: Path | None = Field(None, description="with --to: a picture that the user interface shows for it")
    use_safetensors: bool = Field(False, description="DST is safetensors, whatever its name says")
    half: bool = Field(False, description="the same as --dtype fp16")
    overwrite: bool = Field(False, description="replace DST")

    @property
    def export(self) -> str:
        """--to as --export would say it."""
        return ":".join(self.to)

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """None: every tensor as it is."""
        return None if self.dtype == "keep" and not self.half else DTYPES["fp16" if self.half else self.dtype]
