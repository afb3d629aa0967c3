"""A result of ours, put where user interfaces look for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tenshot.adapters import embedding
from tenshot.core.errors import refuse_if
from tenshot.core.events import Events
from tenshot.export import compatibility, kohya, webui_config
from tenshot.export.ui_folders import Shown, UIFolder, accompany, faults, phrase, places
from tenshot.families import validate
from tenshot.io import tensor_files
from tenshot.model import checkpoint


@dataclass(frozen=True)
class Result:
    """kind: checkpoint, lora or embedding. path: a model folder or a file. name: what it is called elsewhere."""

    kind: str
    path: Path
    name: str
    trigger: str = ""


def check(export: Sequence[str], results: Sequence[Result]) -> None:
    """Raises Refusal where --export cannot be done."""
    refuse_if(faults(export, [(each.kind, each.name) for each in results]))


def put(
    export: Sequence[str],
    results: Sequence[Result],
    events: Events,
    preview: Path | None = None,
    base: Path | None = None,
    about: Mapping[str, str] | None = None,
) -> list[str]:
    """Put models, LoRAs and learned words into every place that `export` names. The files come back.

    preview: a picture to show with them. base: the model that LoRAs and words were made for. about: of the training,
    for the metadata.
    """
    return [_put(each, place, preview, base, about or {}, events) for place in places(export) for each in results]


def _put(
    result: Result, place: UIFolder, preview: Path | None, base: Path | None, about: Mapping[str, str], events: Events
) -> str:
    target = place.file(result.kind, result.name)
    about = {**about, **phrase(result.trigger)}
    if result.kind == "lora":
        family = kohya.write(tensor_files.opened(result.path), target, base, None, about)["family"]
    elif result.kind == "embedding":
        embedding.write(target, *embedding.read(result.path))
        family = validate.examine(base).title if base else ""
    else:
        found = checkpoint.read(result.path)
        checkpoint.write_file(found, target, events, about=about)
        if place.program == "webui":
            webui_config.write(found, target)
        family = found.family.title
    if why := compatibility.mistaken_at(target, place.program):
        events.say(why)
    use = accompany(place, target, Shown(result.trigger, preview), family)
    events.say(
        "; ".join(
            [f"put at {target}", *(f"in the prompt: {text}" for text in filter(None, [use.get("in_the_prompt")]))]
        )
    )
    return str(target)
