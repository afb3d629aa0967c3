"""Kinds of values that several verbs take."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PlainSerializer

from tenshot.core import shipped
from tenshot.core.hub_names import HubName, Kind
from tenshot.core.option_markers import Computes, There
from tenshot.diffusion import upscalers
from tenshot.diffusion.upscalers import UPSCALERS
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


def _controlnet(place: Path) -> None:
    from diffusers import ControlNetModel

    from tenshot.model import single_nets

    single_nets.read(place, kind=ControlNetModel)


def _upscaler(place: Path) -> None:
    from tenshot.model import upscaler

    upscaler.read(place)


def _with_sign(value: str) -> str:
    """What to do where the part of the steps follows without a sign: cn@0-0.5."""
    name, at, part = value.rpartition("@")
    meant = name and at and "=" not in value and re.fullmatch(r"[\d.]+-[\d.]+", part)
    return f"write a sign before the part of the steps: {name}=@{part}" if meant else ""


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


def _asked(name: HubName, kind: Kind, where: str) -> None:
    from tenshot.model import hub

    hub.look(name, kind, half=True, where=where)


def _shipped(place: Path) -> Path:
    return Path(shipped.controlnet(str(place)))


PresetKind = Literal["same", "good"]  #: what a preset is certified for: the same pictures, or as good ones
Device = Annotated[str, AfterValidator(_device), Computes()]  #: what torch calls it, or auto
Backend = Annotated[str, AfterValidator(_backend)]  #: a row of BACKENDS, or the module of another
#: In JSON, as in a recipe, what came from the hub is spelled by its name and commit, what ships by its own.
_Spelled = PlainSerializer(lambda value: shipped.spelled(str(value)), when_used="json", return_type=str)
Model = Annotated[str, There("model", reader=_model, hub="model", asker=_asked), _Spelled]
ModelPath = Annotated[
    Path,
    AfterValidator(_shipped),
    There("model", besides=(shipped.CANNY.name,), reader=_weights, hub="any", asker=_asked),
    _Spelled,
]
BenchModel = Annotated[str, There("model", besides=("sd15", "sdxl"), hub="model", asker=_asked), _Spelled]
LoraFile = Annotated[Path, There("file or folder", reader=_lora, hub="lora", asker=_asked), _Spelled]
LoraPath = Annotated[str, There("file or folder", strength=True, reader=_lora, hub="lora", asker=_asked), _Spelled]
WordPath = Annotated[Path, There("file or folder", reader=_word, hub="word", asker=_asked), _Spelled]
VaePath = Annotated[Path, There("file or folder", reader=_vae, hub="net", asker=_asked), _Spelled]
ControlNetUnit = Annotated[
    str,
    AfterValidator(shipped.controlnet),
    There(
        "file or folder",
        besides=(shipped.CANNY.name,),
        strength=True,
        reader=_controlnet,
        hub="net",
        asker=_asked,
        hint=_with_sign,
    ),
    _Spelled,
]
ControlNetPath = Annotated[
    Path,
    AfterValidator(_shipped),
    There("folder", besides=(shipped.CANNY.name,), hub="net", asker=_asked),
    _Spelled,
]
SomeModel = Annotated[
    Path,
    AfterValidator(_shipped),
    There("file or folder", besides=("pocket", shipped.CANNY.name), hub="any", asker=_asked),
    _Spelled,
]
UpscalerName = Annotated[
    str,
    There("file", besides=(*UPSCALERS,), reader=_upscaler, hub="any", asker=_asked, hint=upscalers.meant),
    _Spelled,
]
NetFolder = Annotated[Path, There("folder", hub="transformers", asker=_asked), _Spelled]
FilePath = Annotated[Path, There("file")]
FolderPath = Annotated[Path, There("folder")]
Side = Annotated[int, Field(ge=8, le=16384, multiple_of=8)]  #: of a picture, in pixels
Ratio = Annotated[float, Field(ge=-1000, le=1000)]  #: how strongly something counts
Few = Annotated[int, Field(ge=1, le=1024)]  #: what memory or patience has to hold
Rank = Annotated[int, Field(ge=1, le=65536)]  #: of a matrix
