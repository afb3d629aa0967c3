"""Everything that people name by a Hugging Face id, where it lies on this machine, fetched first if need be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from tenshot.core import hub_names
from tenshot.core.errors import Fault, Refusal, all_or_refuse, refuse_if
from tenshot.core.events import Events
from tenshot.core.hub_names import HubName, Kind
from tenshot.core.option_markers import Computes, There, marked
from tenshot.core.options import Options
from tenshot.io import hub
from tenshot.io.hub import Repository
from tenshot.model import hub_files
from tenshot.model.hub_files import Needed

Record = TypeVar("Record", bound=Options)


@dataclass(frozen=True)
class Found:
    """What a name means, before any of it is fetched. where: who named it, for a refusal."""

    repository: Repository
    needed: Needed
    where: str

    @property
    def place(self) -> Path:
        return self.repository.folder / self.needed.place

    def fetched(self, events: Events) -> Path:
        """Its place, once it is there. Raises Refusal, Cancelled."""
        if self.repository.away:
            events.say(
                f"{self.repository.name}: {self.repository.away}; the cache has commit {self.repository.commit[:12]}"
            )
        hub.fetch(self.repository, self.needed.files, self.where, events)
        return self.place


def find(name: str | Path, kind: Kind, half: bool = False, events: Events | None = None) -> Path:
    """The file or folder that `name` means: a path that is there, or what of a repository a `kind` needs.

    half: do weights in float16 serve? Other paths come back as they are. Raises Refusal.
    """
    meant = None if Path(name).exists() else hub_names.parse(name)
    return look(meant, kind, half, "Hugging Face hub").fetched(events or Events()) if meant else Path(name)


def look(name: HubName, kind: Kind, half: bool, where: str) -> Found:
    """What a name means, and that it can be had. Raises Refusal."""
    if name.odd:
        raise Refusal(Fault(where, f"{name}: {name.odd}", hub_names.FORMS, "correct it"))
    repository = hub.look(name, where)
    folder = repository.folder
    chosen = hub_files.needed(repository.files, name.inner, kind, half, lambda file: (folder / file).is_file())
    if not isinstance(chosen, Needed):
        do = chosen.do.replace("NAME", str(replace(name, inner="")))
        away = f"{repository.away}, and of what the cache has: " if repository.away else ""
        found = f"{name}: {away}{chosen.found}"
        raise Refusal(Fault(where, found, chosen.fits, do))
    hub.admitted(repository, chosen.files, where)
    return Found(repository, chosen, where)


def fetched(options: Record, events: Events) -> Record:
    """The same options with a place on this machine for every name of the hub, which is fetched.

    Before anything is, all that can be told of the options is, with what the hub says. Raises Refusal with every fault.
    """
    named = [*_named(options)]
    found = _looked(options)
    if not found:
        return options
    fetched = [each.fetched(events) for each in found]
    places = {(each.field, each.value): f"{place}{each.behind}" for each, place in zip(named, fetched, strict=False)}
    fields = dict.fromkeys(each.field for each in named)
    return options.model_copy(update={field: _placed(field, getattr(options, field), places) for field in fields})


def check(several: Sequence[Options]) -> None:
    """What `fetched` checks, of several options before anything is fetched for one of them.

    Raises Refusal with the faults of all, where any names something of the hub.
    """
    if any(all_or_refuse(*(partial(_looked, each) for each in several))):
        refuse_if(fault for each in several for fault in _faults(each))


def _looked(options: Options) -> list[Found]:
    """What the options name of the hub: first the values that are names, then what is named within others."""
    named = [(each.field, each.name, each.kind) for each in _named(options)]
    named += options.named_within()
    if not named:
        return []
    *found, _ = all_or_refuse(
        *(partial(look, name, kind, options.half_serves, f"--{field}") for field, name, kind in named),
        lambda: refuse_if(_faults(options)),
    )
    return found


@dataclass(frozen=True)
class _Named:
    """An option that names something of the hub. kind: what it is to be. behind: what follows the name in its value."""

    field: str
    value: str
    name: HubName
    kind: Kind
    behind: str


def _named(options: Options) -> Iterator[_Named]:
    for field, about in type(options).model_fields.items():
        for mark, value in marked(about, getattr(options, field), There):
            if mark.hub and (name := mark.on_hub(value)):
                yield _Named(field, value, name, mark.hub, value.removeprefix(mark.path(value)))


def _placed(field: str, given: object, places: Mapping[tuple[str, str], str]) -> object:
    """An option's value with places for names."""
    if isinstance(given, list | tuple):
        return [_placed(field, each, places) for each in given]
    place = places.get((field, str(given)))
    return given if place is None else Path(place) if isinstance(given, Path) else place


def _faults(options: Options) -> Iterator[Fault]:
    """All that can be told of options before any work."""
    yield from options.faults()
    yield from options.obstacles()
    yield from options.contents()
    for field, about in type(options).model_fields.items():
        value, said = getattr(options, field), about.description or ""
        for there, each in marked(about, value, There):
            yield from there.faults(f"--{field}", each, said)
            yield from there.contents(f"--{field}", each, said) if not there.on_hub(each) else ()
        for computes, each in marked(about, value, Computes):
            yield from computes.faults(f"--{field}", each, said)
