"""Where Tenshot keeps what can be made again. Every entry has a digest: what does not match it is made anew."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch

from tenshot.core.errors import Refusal
from tenshot.io import hashes, tensors


class Seen(TypedDict):
    """A file as it was when its digest was taken; a folder, with its files."""

    sha256: str
    facts: NotRequired[list[int]]
    files: NotRequired[Mapping[str, Seen]]


TICK = 50_000_000  # nanoseconds in which a file system's clock certainly goes on


def root() -> Path:
    """$TENSHOT_CACHE/tenshot, or the user's cache folder."""
    base = os.environ.get("TENSHOT_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tenshot"


def holds(place: Path) -> bool:
    """Is `place` in the cache, and so nobody's but ours?"""
    return root() in place.parents


def folder(place: Path) -> Path:
    """`place`, a folder of the cache, made; what else is in its way there goes."""
    for each in (*reversed([each for each in place.parents if holds(each)]), place):
        if not each.is_dir():
            clear(each)
            each.mkdir(parents=True, exist_ok=True)
    return place


def clear(place: Path) -> None:
    """Remove whatever is there; a link is not followed."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    if not path.is_file():
        clear(path)
    tensors.write_json(path, {"content": value, "sha256": _digest(value)})


def read_json(path: Path) -> Any:
    """What `write_json` wrote; None where it is missing or altered."""
    try:
        told: Any = tensors.read_json(path) if path.is_file() else None
        return told["content"] if told["sha256"] == _digest(told["content"]) else None
    except (Refusal, LookupError, TypeError, RecursionError):
        return None


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digest(named: Mapping[str, torch.Tensor], key: str = "") -> str:
    """The SHA-256 of tensors and their names, hex. key: what they are kept under."""
    found = hashlib.sha256(key.encode())
    for name, tensor in sorted(named.items()):
        found.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def seen(path: Path, before: Seen | None = None) -> Seen:
    """The SHA-256 of a file; that of `before` where nothing says that the file has changed since.

    Whoever writes into a file changes the time of its last change (ctime), which nobody can set.
    """
    about = path.stat()
    facts = [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]
    if before and before.get("facts") == facts:
        return before
    if abs(time.time_ns() - max(facts[1:3])) < TICK:
        time.sleep(TICK / 1e9)  # a change right after this one has to bear another time
    return {"facts": facts, "sha256": hashes.sha256(path)}


def listed(place: Path, before: Mapping[str, Seen]) -> dict[str, Seen]:
    """The files of a model's folder. before: as they were; none of that: it is new.

    What was laid beside the model's parts since counts for nothing.
    """
    files = {path.relative_to(place).as_posix(): path for path in sorted(place.rglob("*")) if not path.is_dir()}
    ours = {name: path for name, path in files.items() if "/" in name or name in before or not before}
    return {name: _seen(path, before.get(name)) for name, path in ours.items()}


def _seen(path: Path, before: Seen | None) -> Seen:
    """What is no plain file is never what was written."""
    return seen(path, before) if path.is_file() and not path.is_symlink() else {"facts": [], "sha256": ""}


def same(one: Mapping[str, Seen], other: Mapping[str, Seen]) -> bool:
    """The same files with the same content?"""
    digests = [{name: each["sha256"] for name, each in files.items()} for files in (one, other)]
    return digests[0] == digests[1] and "" not in digests[0].values()
