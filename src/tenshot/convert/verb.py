"""`tenshot convert`: what the source is decides what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tenshot import device, model
from tenshot.adapters import embedding, lora, reading
from tenshot.checkpoints import whole
from tenshot.convert import adapters, nets
from tenshot.convert.options import ConvertOptions
from tenshot.errors import Fault, Refusal, refuse_if
from tenshot.events import Events
from tenshot.export import sidecar
from tenshot.export.places import Shown, accompany, companions, phrase
from tenshot.families.dialects import cast
from tenshot.files import containers, targets, tensors, writing
from tenshot.files.containers import Container


def convert(options: ConvertOptions, events: Events) -> dict[str, Any]:
    """Raises Refusal with nothing written."""
    refuse_if(options.faults())
    source = _file(options.src)
    dtype = options.torch_dtype
    if str(source) == "pocket" or (source / "model_index.json").is_file():
        found = whole.of_folder(model.find(str(source)))
        name = found.place.resolve().name
        return _whole(found, options, _target(options, "checkpoint", f"{name}.safetensors"), events)
    if (source / "config.json").is_file():
        config = tensors.read_json(source / "config.json")
        kind = nets.of_folder(source, config)
        target = _target(options, kind.place, f"{source.resolve().name}.safetensors")
        return _told(options, nets.to_file(source, kind, config, dtype, target, events), target)
    return _of_file(containers.opened(source), options, dtype, events)


def _of_file(opened: Container, options: ConvertOptions, dtype: torch.dtype | None, events: Events) -> dict[str, Any]:
    stem = opened.place.stem
    if reading.is_lora(opened.tensors):
        target = _target(options, "lora", f"{stem}-converted.safetensors")
        return _told(options, adapters.convert_lora(opened, options, target, dtype, events), target)
    if embedding.is_embedding(opened):
        target = _target(options, "embedding", f"{stem}.safetensors")
        return _told(options, adapters.convert_embedding(opened, options, target, dtype), target)
    if family := whole.family_of(opened):
        found = whole.of_file(opened, family, options.config, options.ema)
        return _whole(found, options, _target(options, "checkpoint", stem), events)
    if kind := nets.recognised(opened):
        target = _target(options, kind.place, stem)
        if options.to:
            writing.write(target, cast(opened.tensors, dtype), opened.about, events)
            return _told(options, {"what": kind.kind.__name__, "file": str(target)}, target)
        return nets.to_folder(opened, kind, options, dtype, target, events)
    names = ", ".join(sorted(opened.tensors)[:3]) or "none"
    fits = "a checkpoint, a VAE, a ControlNet, a LoRA or an embedding"
    do = "where it is part of a model folder, name that folder"
    raise Refusal(Fault(str(opened.place), f"tensors of no known kind ({names}, ...)", fits, do))


def _whole(found: whole.Whole, options: ConvertOptions, target: Path, events: Events) -> dict[str, Any]:
    found = found.cast(options.torch_dtype)
    if options.use_safetensors or options.to:
        made = whole.write_file(found, target, events, about=phrase(options.trigger))
    else:
        made = whole.write(found, target, events)
    ledger = {**found.ledger.told(), "used": made.used}
    peak = f"{device.peak_memory() / 1e6:.0f} MB"
    told = {
        "what": "checkpoint",
        "family": found.family.title,
        "written": str(target),
        "ledger": ledger,
        "peak memory": peak,
    }
    if (place := options.place) and place.program == "webui":
        sidecar.write(found, target)
    return _told(options, told, target)


def _told(options: ConvertOptions, told: dict[str, Any], target: Path) -> dict[str, Any]:
    """What was done; in a user interface's folder with its companions."""
    if not (place := options.place):
        return told
    shown = Shown(options.trigger, options.preview)
    return {**told, **accompany(place, target, shown, str(told.get("family", "")))}


def _file(source: Path) -> Path:
    """The file that a folder with nothing else stands for: a LoRA's, or the index of shards."""
    names = (lora.FILE, "pytorch_lora_weights.bin")
    return next((source / name for name in names if source.is_dir() and (source / name).is_file()), source)


def _target(options: ConvertOptions, kind: str, usual: str) -> Path:
    """Where the result goes. Raises Refusal where something is there already."""
    name = options.name or options.src.resolve().name.removesuffix(options.src.suffix)
    place = options.place
    target = place.file(kind, name) if place else options.dst or options.src.resolve().parent / usual
    read = (options.src, options.config, options.preview)
    option = "--name" if place else "dst"
    refuse_if(targets.faults(option, target, options.overwrite, read))
    if place and not options.overwrite:
        beside = [each for each in companions(target) if each.exists()]
        refuse_if(Fault(option, f"{each} exists", "a new name", "--overwrite replaces it") for each in beside)
    return target
