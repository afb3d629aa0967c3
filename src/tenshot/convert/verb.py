"""`tenshot convert`: what the source is decides what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tenshot.convert import checkpoint
from tenshot.convert.options import ConvertOptions
from tenshot.errors import Fault, Refusal
from tenshot.events import Events
from tenshot.files import containers

FILES = (".safetensors", ".ckpt")


def convert(options: ConvertOptions, events: Events) -> dict[str, Any]:
    """Raises Refusal with nothing written."""
    source = options.src
    if (source / "model_index.json").is_file():
        return checkpoint.to_file(source, options, _target(options, f"{source.resolve().name}.safetensors"), events)
    opened = containers.opened(source)
    if family := checkpoint.family_of(opened):
        return checkpoint.to_folder(opened, family, options, _target(options, source.stem), events)
    names = ", ".join(sorted(opened.tensors)[:3]) or "none"
    raise Refusal(Fault(str(source), f"tensors of no known kind ({names}, ...)", "a checkpoint"))


def _target(options: ConvertOptions, usual: str) -> Path:
    """Where the result goes. Raises Refusal where something is there already."""
    target = options.dst or options.src.resolve().parent / usual
    if target.exists() and not options.overwrite:
        raise Refusal(Fault("dst", f"{target} exists", "a new name", "--overwrite replaces it"))
    return target
