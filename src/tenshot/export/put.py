"""A result of ours, put where user interfaces look for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tenshot.adapters import embedding, reading
from tenshot.checkpoints import whole
from tenshot.events import Events
from tenshot.export import kohya
from tenshot.export.places import Place, Shown, accompany, places
from tenshot.files import containers


def put(
    source: Path, name: str, export: Sequence[str], shown: Shown, events: Events, base: Path | None = None
) -> list[str]:
    """Put a model, a LoRA or a learned word into every place that `export` names. The files come back.

    base: the model that a LoRA or a word was made for.
    """
    return [_put(source, name, place, shown, events, base) for place in places(export)]


def _put(source: Path, name: str, place: Place, shown: Shown, events: Events, base: Path | None) -> str:
    opened = None if source.is_dir() else containers.opened(source)
    if opened and reading.is_lora(opened.tensors):
        target = place.file("lora", name)
        family = kohya.write(opened, target, base, None)["family"]
    elif opened and embedding.is_embedding(opened):
        target = place.file("embedding", name)
        embedding.write(target, *embedding.of(opened))
        family = whole.read(base).family.title if base else ""
    else:
        target, found = place.file("checkpoint", name), whole.read(source)
        whole.write_file(found, target, events)
        family = found.family.title
    accompany(place, target, shown, family)
    events.say(f"put at {target}")
    return str(target)
