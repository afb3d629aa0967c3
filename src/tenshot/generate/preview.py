"""A picture that shows what is drawn while it is drawn: one file beside the results, there until they are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from PIL import Image, ImageOps

from tenshot import __version__
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.io import infotext
from tenshot.io.png import read_infotext, square_sheet, write_picture

TITLE = "a preview of what is being drawn"
ENLARGED = 4  # small pictures have a pixel for 8


def place(out: Path, is_file: bool) -> Path:
    """Of the picture: out/cat.preview.png for the file out/cat.png, else preview.png in the folder."""
    return out.with_suffix(".preview.png") if is_file else out / "preview.png"


def is_one(file: Path) -> bool:
    """Is it such a picture, left by a run that was ended at once?"""
    with suppress(Refusal):
        return (read_infotext(file) or "").startswith(TITLE)
    return False


class Preview(Events):
    """Writes it every `every` units of drawing; after its `with` the file is gone."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every
        self.alone = not path.parent.exists()

    def watches(self, done: int) -> bool:
        return self.every > 0 and done % self.every == 0

    def drawing(self, done: int, total: int, images: Sequence[Image.Image]) -> None:
        told = infotext.written(TITLE, "", {"Steps": f"{done} of {total}", "Version": f"tenshot {__version__}"})
        write_picture(self.path, _shown(images), told)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.every:
            self.path.unlink(missing_ok=True)
            if self.alone:
                with suppress(OSError):  # there are results in it
                    self.path.parent.rmdir()


def _shown(images: Sequence[Image.Image]) -> Image.Image:
    """Enlarged; several of them on a sheet."""
    side = ENLARGED * max(images[0].size)
    return square_sheet(images, side) if len(images) > 1 else ImageOps.contain(images[0], (side, side))
