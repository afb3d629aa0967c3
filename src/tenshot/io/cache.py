"""Where Tenshot keeps what can be made again. Every entry has a digest: what does not match it is made anew."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from tenshot.core.errors import Refusal
from tenshot.io import hashes, tensors, text_files


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


def trim(used: Mapping[Path, float], limit: int, wanted: Collection[Path] = ()) -> None:
    """Remove the files and folders that were not used for longest, but none `wanted`, until `limit` bytes are left.

    used: when each was.
    """
    total = 0
    for place in sorted(used, key=lambda each: (each in wanted, used[each]), reverse=True):
        with suppress(OSError):
            total += sum(each.lstat().st_size for each in (place, *place.rglob("*")))
        if total > limit and place not in wanted:
            clear(place)


def write_json(path: Path, value: object) -> None:
    if not path.is_file():
        clear(path)
    tensors.write_json(path, {"content": value, "sha256": hashes.of_json(value)})


def read_json(path: Path) -> Any:
    """What `write_json` wrote; None where it is missing or altered."""
    try:
        told: Any = text_files.read_json(path) if path.is_file() else None
        return told["content"] if told["sha256"] == hashes.of_json(told["content"]) else None
    except (Refusal, LookupError, TypeError):
        return None


def seen(path: Path, before: Seen | None = None) -> Seen:
    """The SHA-256 of a file, or one over the files of a folder; of `before` where nothing says that they have changed.

    Whoever writes into a file changes the time of its last change (ctime), which nobody can set.
    """
    if path.is_dir():
        files = listed(path, before.get("files", {}) if before else {})
        told = (f"{name} {each['sha256']}" for name, each in sorted(files.items()))
        return {"files": files, "sha256": hashes.of_values(*told)}
    about = path.stat()
    facts = [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]
    if before and before.get("facts") == facts:
        return before
    if abs(time.time_ns() - max(facts[1:3])) < TICK:
        time.sleep(TICK / 1e9)  # a change right after this one has to bear another time
    return {"facts": facts, "sha256": hashes.of_file(path)}


def listed(place: Path, before: Mapping[str, Seen]) -> dict[str, Seen]:
    """The files of a model's folder. before: as they were; none of that: it is new.

    What was laid beside the model's parts since counts for nothing. What is no plain file is never what was written.
    """
    files = {path.relative_to(place).as_posix(): path for path in sorted(place.rglob("*")) if not path.is_dir()}
    ours = {name: path for name, path in files.items() if "/" in name or name in before or not before}
    plain = {name for name, path in ours.items() if path.is_file() and not path.is_symlink()}
    none: Seen = {"facts": [], "sha256": ""}
    return {name: seen(path, before.get(name)) if name in plain else none for name, path in ours.items()}


def same(one: Mapping[str, Seen], other: Mapping[str, Seen]) -> bool:
    """The same files with the same content?"""
    digests = [{name: each["sha256"] for name, each in files.items()} for files in (one, other)]
    return digests[0] == digests[1] and "" not in digests[0].values()
