"""`tenshot convert`: what the source is decides what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tenshot.adapters import embedding, factors, lora
from tenshot.convert import adapters, checkpoint, nets
from tenshot.convert.options import ConvertOptions
from tenshot.errors import Fault, Refusal
from tenshot.events import Events
from tenshot.files import containers


def convert(options: ConvertOptions, events: Events) -> dict[str, Any]:
    """Raises Refusal with nothing written."""
    source = _file(options.src)
    dtype = checkpoint.dtype_of(options)
    if (source / "model_index.json").is_file():
        return checkpoint.to_file(source, options, _target(options, f"{source.resolve().name}.safetensors"), events)
    if (source / "config.json").is_file():
        return nets.to_file(source, dtype, _target(options, f"{source.resolve().name}.safetensors"), events)
    opened = containers.opened(source)
    if factors.is_lora(opened.tensors):
        return adapters.convert_lora(
            opened, options, _target(options, f"{source.stem}-converted.safetensors"), dtype, events
        )
    if embedding.is_embedding(opened):
        return adapters.convert_embedding(opened, options, _target(options, f"{source.stem}.safetensors"), dtype)
    if family := checkpoint.family_of(opened):
        return checkpoint.to_folder(opened, family, options, _target(options, source.stem), events)
    if kind := nets.recognised(opened):
        return nets.to_folder(opened, kind, options, dtype, _target(options, source.stem), events)
    names = ", ".join(sorted(opened.tensors)[:3]) or "none"
    fits = "a checkpoint, a VAE, a ControlNet, a LoRA or an embedding"
    raise Refusal(Fault(str(source), f"tensors of no known kind ({names}, ...)", fits))


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
