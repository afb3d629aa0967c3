"""Who may work where: locks that the system takes back from a process that dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from filelock import Timeout as Timeout

LOCK = ".lock"


@contextmanager
def alone(folder: Path, patience: float = -1) -> Iterator[None]:
    """One process at a time works in `folder`, which is made if it is not there.

    patience: seconds to wait for another one; below 0: as long as it takes. Raises Timeout after them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCK, timeout=patience):
        yield
