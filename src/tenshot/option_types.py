"""Kinds of values that several verbs take."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from tenshot.core.option_markers import Computes, There
from tenshot.runtime.registry import BACKENDS

#: What to expect of the model that is built in.
POCKET = "pocket draws emoji of 128 pixels, and what photographs teach it comes out as emoji: for photos give a model"


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|mps|cpu|(cuda|xpu)(:[0-9]{1,2})?", name):
        raise ValueError("no device that computes")
    return name


def _backend(name: str) -> str:
    if name not in BACKENDS and "." not in name:
        raise ValueError(f"{name!r} is none of {', '.join(BACKENDS)}")
    return name


def _lora(place: Path) -> None:
    from tenshot.adapters import adapter_files, parsing

    parsing.read(adapter_files.opened(place))


def _word(place: Path) -> None:
    from tenshot.adapters import embedding

    embedding.read(place)


def _vae(place: Path) -> None:
    from tenshot.model import single_nets

    single_nets.read(place)


def _model(place: Path) -> None:
    """Whatever VAE it is to have."""
    from tenshot.io import tensor_files
    from tenshot.model import checkpoint
    from tenshot.runtime import compiled_model

    if place.is_dir():
        compiled_model.examine(place)
    else:
        checkpoint.known(tensor_files.opened(place), place)


def _weights(place: Path) -> None:
    """A LoRA, a model, or a part of one."""
    from tenshot.adapters import adapter_files, parsing
    from tenshot.families import validate
    from tenshot.io import tensor_files

    if (place / "model_index.json").is_file():
        validate.examine(place)
    elif place.is_file() and parsing.is_lora((source := tensor_files.opened(place)).tensors):
        parsing.read(adapter_files.with_settings(source))


Device = Annotated[str, AfterValidator(_device), Computes()]  #: what torch calls it, or auto
Backend = Annotated[str, AfterValidator(_backend)]  #: a row of BACKENDS, or the module of another
Model = Annotated[str, There("model", reader=_model)]
ModelPath = Annotated[Path, There("model", reader=_weights)]
BenchModel = Annotated[str, There("model", besides=("sd15", "sdxl"))]
LoraFile = Annotated[Path, There("file or folder", reader=_lora)]
LoraPath = Annotated[str, There("file or folder", strength=True, reader=_lora)]
WordPath = Annotated[Path, There("file or folder", reader=_word)]
VaePath = Annotated[Path, There("file or folder", reader=_vae)]
SomeModel = Annotated[Path, There("file or folder", besides=("pocket",))]
FilePath = Annotated[Path, There("file")]
FolderPath = Annotated[Path, There("folder")]
Side = Annotated[int, Field(ge=8, le=16384, multiple_of=8)]  #: of a picture, in pixels
Ratio = Annotated[float, Field(ge=-1000, le=1000)]  #: how strongly something counts
Few = Annotated[int, Field(ge=1, le=1024)]  #: what memory or patience has to hold
Rank = Annotated[int, Field(ge=1, le=65536)]  #: of a matrix
