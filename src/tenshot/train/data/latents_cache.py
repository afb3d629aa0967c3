"""Encoded pictures on disk, found by what they are: the picture's bytes, how it was cut, the VAE's weights.

Nothing is found by its place in an order, so no shuffling can pair a picture with another one's latents. Files appear
whole or not at all: several processes may share a folder.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.io import cache, hashes, tensors
from tenshot.train.engine.denoising import Posterior

DIGEST = "sha256"  # the name in an entry's metadata
LIMIT = 20_000_000_000  # bytes kept on disk; what the running job needs stays however much it is
IN_MEMORY = 1_000_000_000  # bytes of latents that a job keeps in memory; more are read when their turn comes


class TensorCache:
    """A folder of named tensors by key. limit: how many bytes `trim` leaves. events: hear of what is damaged."""

    def __init__(self, folder: Path | None = None, limit: int = LIMIT, events: Events | None = None) -> None:
        self.folder = folder or cache.root() / "latents"
        self.limit = limit
        self.events = events or Events()

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def read(self, key: str) -> dict[str, torch.Tensor] | None:
        """What is kept under `key`; None where nothing is, or not what was written."""
        path = self.path(key)
        with contextlib.suppress(Refusal, ValueError):
            if path.is_file():
                found = tensors.read(path)
                if tensors.metadata(path).get(DIGEST) == hashes.of_tensors(found, key):
                    return found
        if os.path.lexists(path):
            self.events.say(f"{path} in the cache is damaged; it is made anew")
            cache.clear(path)
        return None

    def write(self, key: str, named: Mapping[str, torch.Tensor]) -> None:
        path = self.path(key)
        cache.folder(path.parent)
        tensors.write(path, named, {DIGEST: hashes.of_tensors(named, key)}, lasting=False)

    def use(self, key: str) -> None:
        """Note that it was wanted: what was wanted last is trimmed last."""
        with contextlib.suppress(OSError):
            os.utime(self.path(key))

    def trim(self, wanted: Collection[str]) -> None:
        """Remove what was not used for longest, but nothing `wanted`, until `limit` holds."""
        used = {}
        for path in self.folder.glob("*/[!.]*"):
            with contextlib.suppress(OSError):
                used[path] = path.lstat().st_mtime
        cache.trim(used, self.limit, {path for path in used if path.stem in wanted})


def named(posterior: Posterior) -> dict[str, torch.Tensor]:
    """As a cache keeps it."""
    return dict(zip(("mean", "std"), posterior, strict=True))


class CachedPosteriors(Sequence[Posterior]):
    """Posteriors in a cache, in memory while they are few. again: makes the one at a row anew, should it be gone."""

    def __init__(self, cache: TensorCache, keys: Sequence[str], again: Callable[[int], Posterior]) -> None:
        self.cache, self.keys, self.again = cache, list(keys), again
        self.near: dict[int, Posterior] = {}
        self.room = IN_MEMORY
        self.reader = ThreadPoolExecutor(1)
        self.coming: dict[int, Future[dict[str, torch.Tensor] | None]] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def read_ahead(self, rows: Sequence[int]) -> None:
        """Begin to read those that are wanted next, unless they are in memory."""
        for row in rows:
            if row not in self.near and row not in self.coming:
                self.coming[row] = self.reader.submit(self.cache.read, self.keys[row])

    def __getitem__(self, row: int) -> Posterior:  # type: ignore[override]  # one row at a time
        if row in self.near:
            return self.near[row]
        kept = self.coming.pop(row).result() if row in self.coming else self.cache.read(self.keys[row])
        found = (kept["mean"], kept["std"]) if kept else self.again(row)
        if not kept:
            self.cache.write(self.keys[row], named(found))
        self.room -= sum(part.nbytes for part in found)
        if self.room >= 0:
            self.near[row] = found
        return found
