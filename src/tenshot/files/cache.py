"""Where Tenshot keeps what can be made again."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def root() -> Path:
    """$TENSHOT_CACHE/tenshot, or the user's cache folder."""
    base = os.environ.get("TENSHOT_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tenshot"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time works in `folder`, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
