"""Which of the text files in a folder says what of which picture."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tenshot.core.errors import Fault, refuse_if
from tenshot.io import text_files

SUFFIXES = frozenset((".txt", ".caption"))
FITS = "a caption in UTF-8"
T = TypeVar("T")


def read(file: Path) -> str:
    """Raises Refusal where it is no text, or no file."""
    return text_files.text(file, FITS, text_files.CAPTION).strip()


def beside(pictures: Sequence[Path], files: Sequence[Path]) -> tuple[dict[Path, Path], list[Path]]:
    """For each picture its caption's file, and the files that belong to no picture.

    `cat.txt` and `cat.jpg.txt` are `cat.jpg`'s. Raises Refusal where a picture has two.
    """
    exact, alike = by_name({picture: picture for picture in pictures})
    found: dict[Path, list[Path]] = defaultdict(list)
    idle = []
    for file in files:
        owners = exact.get(file.stem) or alike.get(folded(file.stem), [])
        for picture in owners:
            found[picture].append(file)
        if not owners:
            idle.append(file)
    refuse_if(_twice(found))
    return {picture: file for picture, (file, *_) in found.items()}, idle


def by_name(named: Mapping[Path, T]) -> tuple[dict[str, list[T]], dict[str, list[T]]]:
    """What is found under a path's name with its suffix and without it; and the same whatever way that is written."""
    exact, alike = defaultdict(list), defaultdict(list)
    for path, value in named.items():
        for name in (path.name, path.stem):
            exact[name].append(value)
            alike[folded(name)].append(value)
    return exact, alike


def folded(name: str) -> str:
    """One spelling for the many of a name: systems differ in case, and in how they write an umlaut."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _twice(found: Mapping[Path, Sequence[Path]]) -> Iterator[Fault]:
    for picture, files in found.items():
        if len(files) > 1:
            names = " and ".join(file.name for file in files)
            yield Fault(str(picture), f"has {len(files)} captions: {names}", "one", "move the others elsewhere")
