"""What ships with Tenshot beside its code, and the names by which it is meant everywhere."""

from __future__ import annotations

from pathlib import Path

import tenshot
from tenshot.core import hub_names

ASSETS = Path(tenshot.__file__).parent / "assets"
CANNY = ASSETS / "pocket-canny"  #: pocket's ControlNet


def controlnet(value: str) -> str:
    """A value that names it, pocket-canny or pocket-canny=0.8, with its place instead; another one as it is."""
    name, sign, behind = value.partition("=")
    return f"{CANNY}{sign}{behind}" if name == CANNY.name else value


def spelled(value: str) -> str:
    """A value as one would type it: what ships, and what came from the hub, by its name."""
    return value.replace(str(CANNY), CANNY.name, 1) if value.startswith(str(CANNY)) else hub_names.spelled(value)
