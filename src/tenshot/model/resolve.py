"""A model by its name: the built-in one, a folder, or one file, which becomes a folder in the cache first."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

from tenshot import __version__
from tenshot.core import hub_names
from tenshot.core.errors import Fault, Refusal
from tenshot.core.events import Events
from tenshot.io import cache, hashes, locks
from tenshot.model import checkpoint, folders, hub

OURS = re.compile(r"[0-9a-f]{24}")  # the names of folders in the cache, each with a model's folder within
LIMIT = 30_000_000_000  # bytes of such folders that are kept, besides the one in use


class Stamp(TypedDict, total=False):
    """What a folder in the cache was made of, and its files; empty where that is not known."""

    tenshot: str
    file: str
    source: cache.Seen
    vae: cache.Seen | None
    files: dict[str, cache.Seen]
    hub: str | None


def find(name: str, events: Events | None = None, vae: Path | None = None, half: bool = False) -> Path:
    """The folder of the model called `name`: "pocket", a folder, a checkpoint file of the original layout, or org/name.

    vae: a file or folder whose VAE takes the place of the model's own. half: do the hub's weights in float16 serve?
    A file's folder, and one with another VAE, is made once and kept in the cache until what it is made of changes.
    Raises Refusal where there is no such model, or the file is none.
    """
    path = Path(name) if name == "pocket" else hub.find(name, "model", half, events)
    vae = vae and hub.find(vae, "net", half, events)
    if name == "pocket" or not path.is_file():
        path = folders.find(str(path))
        if vae is None:
            return path
    home = cache.folder(cache.root() / "models")
    named = hub_names.called(path) if hub_names.of_path(path) else path.name
    digest = hashes.of_values(*(each.resolve() for each in (path, vae) if each))
    place = home / digest[:24] / (named if path.is_dir() else Path(named).stem)
    with locks.alone(home):
        before = _stamp(place)
        stamp: Stamp = {**_about(path, vae, before), "files": cache.listed(place, before.get("files", {}))}
        if why := _unfit(place, stamp, before):
            if os.path.lexists(place.parent) and events:
                events.say(f"{path.name}: {why}; it is made anew")
            stamp["files"] = _convert(path, vae, place, events or Events())
        if stamp != before:
            cache.write_json(stamp_file(place), stamp)
        stamp_file(place).touch()
        _trim(home, place.parent)
    return place


def model_hash(place: Path) -> str | None:
    """The SHA-256 of the file that a folder in the cache was made of; None for other folders."""
    source = _stamp(place).get("source") if cache.holds(place) else None
    return source["sha256"] if source else None


def vae_hash(place: Path) -> str | None:
    """The SHA-256 of the file whose VAE a folder in the cache has; None where it was no file."""
    vae = _stamp(place).get("vae") if cache.holds(place) else None
    return vae["sha256"] if vae and "facts" in vae else None


def file_of(digest: str) -> Path | None:
    """A checkpoint file that was used here before, by the beginning of its SHA-256; None where none is there now."""
    stamps = [_stamp(each / "any") for each in (cache.root() / "models").glob("*") if OURS.fullmatch(each.name)]
    files = [Path(each["file"]) for each in stamps if each and each["source"]["sha256"].startswith(digest)]
    return next((each for each in files if each.is_file()), None)


def source(place: Path) -> str | None:
    """What a model's folder is of the hub: org/name@commit, with :file where it was made of one."""
    found = hub_names.of_path(place)
    return str(found) if found else (_stamp(place).get("hub") if cache.holds(place) else None)


def _about(path: Path, vae: Path | None, before: Stamp) -> Stamp:
    return {
        "tenshot": __version__,
        "file": str(path.resolve()),
        "hub": str(hub_names.of_path(path) or "") or None,
        "source": cache.seen(path, before.get("source")),
        "vae": cache.seen(vae, before.get("vae")) if vae else None,
    }


def _unfit(place: Path, now: Stamp, before: Stamp) -> str:
    """Why the folder in the cache is not that of the file, in words; empty where it is."""
    if not before:
        return "what is known of its folder in the cache is missing or damaged"
    pairs = ((now["source"], before["source"]), (now["vae"], before["vae"]))
    if any((one and one["sha256"]) != (other and other["sha256"]) for one, other in pairs):
        return "the file has changed since its folder in the cache was made"
    return "" if cache.same(now["files"], before["files"]) else "its folder in the cache has missing or altered files"


def stamp_file(place: Path) -> Path:
    """The file that says what a folder in the cache was made of; not within, where the file's own name rules."""
    return place.parent.with_suffix(".json")


def _stamp(place: Path) -> Stamp:
    """What is known of a folder in the cache; nothing where that is damaged, or another version's."""
    found: Stamp = cache.read_json(stamp_file(place))
    return found if isinstance(found, dict) and found.get("tenshot") == __version__ else {}


def _convert(path: Path, vae: Path | None, place: Path, events: Events) -> dict[str, cache.Seen]:
    try:
        found = checkpoint.read(path, vae=vae)
        cache.clear(place.parent)
        checkpoint.write_folder(found, place, events)
    except Refusal as refusal:
        raise Refusal(*(_here(path, fault) for fault in refusal.faults)) from None
    return cache.listed(place, {})


def _here(path: Path, fault: Fault) -> Fault:
    """The same fault where there is no --config."""
    if "--config" not in fault.do:
        return fault
    return replace(fault, do=f"tenshot convert {path} FOLDER --config MODEL, with a model folder like it; give FOLDER")


def _trim(home: Path, used: Path) -> None:
    """Let the folders go whose file is gone, and those that were not used for longest."""
    others = [each for each in home.iterdir() if OURS.fullmatch(each.name) and each != used]
    for folder in others:
        if not os.path.exists(_stamp(folder / "any").get("file", "")):
            cache.clear(folder)
    cache.trim({folder: _last_use(folder) for folder in others}, LIMIT)
    for folder in others:
        if not folder.exists():
            cache.clear(stamp_file(folder / "any"))


def _last_use(folder: Path) -> float:
    stamp = stamp_file(folder / "any")
    return stamp.stat().st_mtime if stamp.is_file() else 0.0
