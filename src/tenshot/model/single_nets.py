"""One net alone, a denoiser, a VAE or a ControlNet: a folder, or a file of original names or of diffusers' own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, ControlNetModel

from tenshot.adapters import lora_keys
from tenshot.core.errors import Fault, Refusal
from tenshot.core.json_types import Config
from tenshot.families import (
    components,
    config_from_shapes,
    conversion,
    keymaps,
    partial_checkpoints,
    registry,
    validate,
)
from tenshot.families.base import Family
from tenshot.families.conversion import Ledger
from tenshot.families.keymaps import Line
from tenshot.io import tensor_files, text_files
from tenshot.io.tensor_files import Container, Lazy
from tenshot.model import header


def _today(config: Config, names: Iterable[str]) -> list[Line]:
    """Lines of a file that has diffusers' own names."""
    return [Line(name, (name,)) for name in names]


@dataclass(frozen=True)
class Net:
    """kind: its class in diffusers. root: before every name in a file; landmark: a name that no other file has.

    place: what user interfaces call it. lines: of its (configuration, names). config: what shapes say.
    """

    place: str
    kind: type[components.Net]
    root: str
    landmark: str
    lines: Callable[[Config, Iterable[str]], list[Line]]
    config: Callable[[Mapping[str, tuple[int, ...]]], dict[str, Any]]

    @property
    def original(self) -> bool:
        """Are its names those of the original layout?"""
        return self.lines is not _today


_ENCODER, _HINT = "encoder.down.0.block.0.norm1.weight", "input_hint_block.0.weight"
#: One of each kind of denoiser, whose tensors all have the same names.
_ALONE = {family.parts[family.denoiser]: family for family in registry.FAMILIES}


def _denoisers(family: Family) -> Iterator[Net]:
    """A family's denoiser: under its original names, behind their root or bare, and under diffusers' own."""
    root, dialect = family.original[family.denoiser]
    known, kind = conversion.DIALECTS[dialect], family.parts[family.denoiser]
    yield Net(family.denoiser, kind, root, known.landmark, known.lines, known.config)
    yield Net(family.denoiser, kind, "", known.landmark, known.lines, known.config)
    if known.today:
        landmark, config = known.today
        yield Net(family.denoiser, kind, "", landmark, _today, config)


NETS = (
    Net("vae", AutoencoderKL, "", _ENCODER, keymaps.vae, config_from_shapes.vae),
    Net("vae", AutoencoderKL, "first_stage_model.", _ENCODER, keymaps.vae, config_from_shapes.vae),
    Net("controlnet", ControlNetModel, "control_model.", _HINT, keymaps.controlnet, config_from_shapes.controlnet),
    Net("controlnet", ControlNetModel, "", _HINT, keymaps.controlnet, config_from_shapes.controlnet),
    *(each for family in _ALONE.values() for each in _denoisers(family)),
    Net("vae", AutoencoderKL, "", "encoder.down_blocks.0.resnets.0.norm1.weight", _today, config_from_shapes.vae_today),
    Net(
        "controlnet",
        ControlNetModel,
        "",
        "controlnet_cond_embedding.conv_in.weight",
        _today,
        config_from_shapes.controlnet_today,
    ),
)


@dataclass(frozen=True)
class Read:
    """A net's tensors under our names, not read yet."""

    net: Net
    config: Config
    content: Mapping[str, Lazy]
    place: Path
    ledger: Ledger


def recognised(source: Container) -> Net | None:
    return next((net for net in NETS if net.root + net.landmark in source.tensors), None)


def read(place: Path, config: Path | None = None, kind: type[components.Net] | None = None) -> Read:
    """A net's folder, or a file with nothing but a net. config: a net's folder that tells what a file cannot.

    kind: the class that it has to be. Raises Refusal where it is something else, or not whole.
    """
    if (place / "config.json").is_file():
        told = {name: value for name, value in text_files.read_object(place / "config.json").items() if name[:1] != "_"}
        net = of_folder(place, text_files.read_object(place / "config.json"))
        found = Read(net, told, validate.contents(place), place, Ledger())
    else:
        _, files = validate.weights(place) if place.is_dir() else (None, [place])
        found = of_file(tensor_files.opened(files[0] if files else place), config)
    if kind is not None and found.net.kind is not kind:
        fits, do = f"an {kind.__name__}, a file or a folder", f"tenshot inspect {place} says what it is"
        raise Refusal(Fault(str(place), f"is a {found.net.kind.__name__}", fits, do))
    return found


def of_folder(place: Path, config: Config) -> Net:
    """Raises Refusal where a folder's configuration is of another net."""
    net = next((net for net in NETS if net.kind.__name__ == config.get("_class_name")), None)
    if net is None:
        found = f"a {config.get('_class_name') or 'net of no known kind'}"
        fits = ", ".join(dict.fromkeys(net.kind.__name__ for net in NETS))
        do = "where it is part of a model, name the whole model's folder"
        raise Refusal(Fault(str(place), found, fits, do))
    return net


def of_file(source: Container, config: Path | None = None) -> Read:
    """Raises Refusal where the file is no net, not whole, or more than a net."""
    partial_checkpoints.refuse(source.place, source.tensors)
    net = recognised(source)
    if net is None and any(map(lora_keys.parse, source.tensors)):
        do = f"give it as --lora {source.place}, or in the prompt: <lora:{source.place.stem}>"
        raise Refusal(Fault(str(source.place), "is a LoRA, no net", "a UNet, a transformer, a VAE, a ControlNet", do))
    if net is None:
        names = ", ".join(sorted(source.tensors)[:3]) or "none"
        fits = "a checkpoint, a UNet, a transformer, a VAE, a ControlNet, a LoRA or an embedding"
        do = "where it is part of a model folder, name that folder"
        raise Refusal(Fault(str(source.place), f"tensors of no known kind ({names}, ...)", fits, do))
    inner = {validate.today(name.removeprefix(net.root)): lazy for name, lazy in source.tensors.items()}
    told = _config(source, net, config, {name: lazy.shape for name, lazy in inner.items()})
    wanted = conversion.skeleton(net.kind, told)
    content, ledger = conversion.from_table(net.lines(told, wanted), wanted, inner, net.kind.__name__)
    return Read(net, told, content, source.place, ledger)


def _config(source: Container, net: Net, config: Path | None, inner: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """From the folder that was named, or the file beside, or our own header, over what the shapes say."""
    if config:
        own = config / net.place / "config.json"
        return dict(text_files.read_object(own if own.is_file() else config / "config.json"))
    beside = source.place.parent / "config.json"
    told = header.read(source).get("configs", {}).get("net", {})
    if not told and not net.original and beside.is_file():
        said = text_files.read_json(beside)
        told = said if isinstance(said, dict) and said.get("_class_name") == net.kind.__name__ else {}
    return {**conversion.by_shapes(net.config, inner, str(source.place)), **told}
