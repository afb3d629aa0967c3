"""One net alone: an autoencoder or a ControlNet, folder <-> file of the original layout."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel

from tenshot.checkpoints import whole
from tenshot.convert.options import ConvertOptions
from tenshot.errors import Fault, Refusal
from tenshot.events import Events
from tenshot.families import dialects, layout, original, shapes
from tenshot.families.original import Line
from tenshot.files import tensors, writing
from tenshot.files.containers import Container


@dataclass(frozen=True)
class Net:
    """kind: its class in diffusers. root: before every original name; landmark: a name that no other file has.

    place: what user interfaces call it.
    """

    place: str
    kind: Any
    root: str
    landmark: str
    lines: Callable[[Mapping[str, Any], Iterable[str]], list[Line]]
    config: Callable[[Mapping[str, tuple[int, ...]]], dict[str, Any]]


ENCODER, HINT = "encoder.down.0.block.0.norm1.weight", "input_hint_block.0.weight"
NETS = (
    Net("vae", AutoencoderKL, "", "encoder.down.0.block.0.norm1.weight", original.vae, shapes.vae),
    Net("vae", AutoencoderKL, "first_stage_model.", "encoder.down.0.block.0.norm1.weight", original.vae, shapes.vae),
    Net(
        "controlnet",
        ControlNetModel,
        "control_model.",
        "input_hint_block.0.weight",
        original.controlnet,
        shapes.controlnet,
    ),
    Net("controlnet", ControlNetModel, "", "input_hint_block.0.weight", original.controlnet, shapes.controlnet),
)


def recognised(source: Container) -> Net | None:
    return next((net for net in NETS if net.root + net.landmark in source.tensors), None)


def of_folder(place: Path, config: Mapping[str, Any]) -> Net:
    """Raises Refusal where a folder's configuration is of another net."""
    net = next((net for net in NETS if net.kind.__name__ == config.get("_class_name")), None)
    if net is None:
        found = f"a {config.get('_class_name') or 'net of no known kind'}"
        fits = ", ".join(dict.fromkeys(net.kind.__name__ for net in NETS))
        do = "where it is part of a model, name the whole model's folder"
        raise Refusal(Fault(str(place), found, fits, do))
    return net


def to_file(
    place: Path, net: Net, config: Mapping[str, Any], dtype: torch.dtype | None, target: Path, events: Events
) -> dict[str, Any]:
    """A folder with config.json and weights becomes one file."""
    config = {name: value for name, value in config.items() if name != "_name_or_path"}
    content = layout.contents(place)
    try:
        table = net.lines(config, content)
    except KeyError as error:
        found, do = f"{error} has no original name", "keep it as a folder: diffusers loads that"
        raise Refusal(Fault(str(place), found, "a released architecture", do)) from None
    made = {net.root + line.theirs: dialects.as_theirs(line, content) for line in table}
    about = {"format": "pt", whole.TOLD: json.dumps({"configs": {"net": config}}, sort_keys=True)}
    writing.write(target, dialects.cast(made, dtype), about, events)
    return {"what": net.kind.__name__, "file": str(target), "ledger": {"used": len(content)}}


def to_folder(
    source: Container, net: Net, options: ConvertOptions, dtype: torch.dtype | None, target: Path, events: Events
) -> dict[str, Any]:
    """One file becomes a folder that diffusers opens."""
    inner = {name.removeprefix(net.root): lazy for name, lazy in source.tensors.items() if name.startswith(net.root)}
    config = _config(source, net, options, {name: lazy.shape for name, lazy in inner.items()})
    wanted = dialects.skeleton(net.kind, config)
    found, ledger = dialects.from_table(net.lines(config, wanted), wanted, inner, net.kind.__name__)
    with tensors.replacing_folder(target) as folder:
        whole.write_net(folder, net.kind, config, dialects.cast(found, dtype), events)
    return {"what": net.kind.__name__, "folder": str(target), "ledger": ledger.told()}


def _config(
    source: Container, net: Net, options: ConvertOptions, inner: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    if options.config:
        return tensors.read_json(options.config / "config.json")
    told = whole.said(source).get("configs", {}).get("net", {})
    return {**dialects.by_shapes(net.config, inner, str(source.place)), **told}
