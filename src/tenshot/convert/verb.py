"""`tenshot convert`: what the source is decides what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tenshot import model
from tenshot.adapters import embedding, factors, lora
from tenshot.checkpoints import whole
from tenshot.convert import adapters, nets
from tenshot.convert.options import ConvertOptions
from tenshot.errors import Fault, Refusal
from tenshot.events import Events
from tenshot.files import containers


def convert(options: ConvertOptions, events: Events) -> dict[str, Any]:
    """Raises Refusal with nothing written."""
    source = _file(options.src)
    dtype = options.torch_dtype
    if str(source) == "pocket" or (source / "model_index.json").is_file():
        found = whole.of_folder(model.find(str(source)))
        return _whole(found, options, _target(options, f"{found.place.resolve().name}.safetensors"), events)
    if (source / "config.json").is_file():
        return nets.to_file(source, dtype, _target(options, f"{source.resolve().name}.safetensors"), events)
    opened = containers.opened(source)
    if factors.is_lora(opened.tensors):
        usual = f"{source.stem}-converted.safetensors"
        return adapters.convert_lora(opened, options, _target(options, usual), dtype, events)
    if embedding.is_embedding(opened):
        return adapters.convert_embedding(opened, options, _target(options, f"{source.stem}.safetensors"), dtype)
    if family := whole.family_of(opened):
        found = whole.of_file(opened, family, options.config, options.ema)
        return _whole(found, options, _target(options, source.stem), events)
    if kind := nets.recognised(opened):
        return nets.to_folder(opened, kind, options, dtype, _target(options, source.stem), events)
    names = ", ".join(sorted(opened.tensors)[:3]) or "none"
    fits = "a checkpoint, a VAE, a ControlNet, a LoRA or an embedding"
    raise Refusal(Fault(str(source), f"tensors of no known kind ({names}, ...)", fits))


def _whole(found: whole.Whole, options: ConvertOptions, target: Path, events: Events) -> dict[str, Any]:
    found = found.cast(options.torch_dtype)
    ledger = found.ledger
    written = whole.write_file if options.use_safetensors else whole.write
    made = written(found, target, events)
    told = {"used": made.used, **{key: value for key, value in ledger.told().items() if key != "used"}}
    return {"what": "checkpoint", "family": found.family.title, "written": str(target), "ledger": told}


def _file(source: Path) -> Path:
    """The file that a folder with nothing else stands for: a LoRA's, or the index of shards."""
    names = (lora.FILE, "pytorch_lora_weights.bin")
    return next((source / name for name in names if source.is_dir() and (source / name).is_file()), source)


def _target(options: ConvertOptions, usual: str) -> Path:
    """Where the result goes. Raises Refusal where something is there already."""
    target = options.dst or options.src.resolve().parent / usual
    if target.exists() and not options.overwrite:
        raise Refusal(Fault("dst", f"{target} exists", "a new name", "--overwrite replaces it"))
    return target
