"""A model by its name: the built-in one, a folder, or one file, which becomes a folder in the cache first."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tenshot import __version__
from tenshot.checkpoints import folders, whole
from tenshot.errors import Fault, Refusal
from tenshot.events import Events
from tenshot.files import cache, hashes, locks, tensors

STAMP = "source.json"  # beside a folder in the cache: which file it was made of
LIMIT = 30_000_000_000  # bytes of such folders that are kept, besides the one in use


def find(name: str, events: Events | None = None) -> Path:
    """The folder of the model called `name`: "pocket", a folder, or a checkpoint file of the original layout.

    A file's folder is made once and kept in the cache until the file changes. Raises Refusal where there is no such
    model, or the file is none.
    """
    path = Path(name)
    if name == "pocket" or not path.is_file():
        return folders.find(name)
    home = cache.root() / "models"
    place = home / hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:24] / path.stem
    with locks.alone(home):
        if not _facts(path).items() <= _stamp(place).items():
            _convert(path, place, events or Events())
        (place.parent / STAMP).touch()
        _trim(home, place.parent)
    return place


def model_hash(place: Path) -> str | None:
    """The SHA-256 of the file that a folder in the cache was made of; None for other folders."""
    return _stamp(place).get("sha256") if cache.root() in place.parents else None


def _facts(path: Path) -> dict[str, Any]:
    about = path.stat()
    return {"file": str(path.resolve()), "size": about.st_size, "changed": about.st_mtime_ns, "tenshot": __version__}


def _stamp(place: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        return json.loads((place.parent / STAMP).read_text(encoding="utf-8"))
    return {}


def _convert(path: Path, place: Path, events: Events) -> None:
    try:
        found = whole.read(path)
        shutil.rmtree(place.parent, ignore_errors=True)
        whole.write_folder(found, place, events)
    except Refusal as refusal:
        raise Refusal(*(_here(path, fault) for fault in refusal.faults)) from None
    tensors.write_json(place.parent / STAMP, {**_facts(path), "sha256": hashes.sha256(path)})


def _here(path: Path, fault: Fault) -> Fault:
    """The same fault where there is no --config."""
    if "--config" not in fault.do:
        return fault
    return replace(fault, do=f"tenshot convert {path} FOLDER --config MODEL, with a model folder like it; give FOLDER")


def _trim(home: Path, used: Path) -> None:
    """Let the folders go whose file is gone, and those that were not used for longest."""
    stamps = sorted(home.glob(f"*/{STAMP}"), key=lambda each: each.stat().st_mtime, reverse=True)
    total = 0
    for folder in (stamp.parent for stamp in stamps if stamp.parent != used):
        total += sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
        if total > LIMIT or not Path(_stamp(folder / "any").get("file", "?")).exists():
            shutil.rmtree(folder, ignore_errors=True)
