"""Where Tenshot keeps what can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def root() -> Path:
    """$TENSHOT_CACHE/tenshot, or the user's cache folder."""
    base = os.environ.get("TENSHOT_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tenshot"
