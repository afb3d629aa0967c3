"""Pictures side by side: the sheets of a matrix, or of all pictures of a command."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from PIL import Image, ImageOps

from tenshot.generate.matrix import Axis
from tenshot.io import infotext
from tenshot.io.png import contact_sheet, square_sheet, write_picture

LARGEST = 512  # pixels of a picture on a sheet
WIDEST = 12_000  # pixels of all pictures beside each other
AXES = "XYZ"


@dataclass
class Board:
    """What was drawn, by its place. axes: the first goes across, the second down, of the others each value has a sheet.

    number: the pictures of a cell have a sheet each, too. Whatever was not drawn stays empty.
    """

    axes: Sequence[Axis]
    drawn: dict[tuple[int, ...], dict[tuple[int, int], Image.Image]] = field(default_factory=lambda: defaultdict(dict))
    told: dict[tuple[int, ...], str] = field(default_factory=dict)

    def add(self, at: tuple[int, ...], number: int, image: Image.Image, text: str) -> None:
        across, down, *others = (*at, 0, 0)[: max(2, len(at))]
        sheet = (*others, number)
        self.drawn[sheet][down, across] = _small(image, max(len(each.values) for each in self.axes))
        self.told.setdefault(sheet, text)

    def write(self, folder: Path) -> list[str]:
        """The files."""
        files = []
        for sheet, images in self.drawn.items():
            path = _free(folder)
            write_picture(path, self._image(sheet, images), self._text(self.told[sheet]))
            files.append(str(path))
        return files

    def _image(self, sheet: tuple[int, ...], images: dict[tuple[int, int], Image.Image]) -> Image.Image:
        columns = self.axes[0].labels
        rows = self.axes[1].labels if len(self.axes) > 1 else [""]
        title = ", ".join(axis.labels[at] for axis, at in zip(self.axes[2:], sheet[:-1], strict=True))
        cells = [[images.get((down, across)) for across in range(len(columns))] for down in range(len(rows))]
        return contact_sheet(cells, rows, columns, max(max(each.size) for each in images.values()), title)

    def _text(self, first: str) -> str:
        """The text of the first picture, and the axes as WebUI tells them."""
        found = infotext.parsed(first)
        told: dict[str, object] = {"Script": "X/Y/Z plot"}
        for letter, axis in zip(AXES, self.axes, strict=False):
            told |= {f"{letter} Type": axis.name, f"{letter} Values": ", ".join(axis.values)}
        version = {"Version": found.facts["Version"]}
        facts = {name: value for name, value in found.facts.items() if name != "Version"}
        return infotext.written(found.prompt, found.negative_prompt, {**facts, **told, **version})


@dataclass
class Grid:
    """All pictures of a command on one sheet, as square as may be, with the first one's infotext, as in WebUI."""

    count: int
    images: list[Image.Image] = field(default_factory=list)
    told: str = ""

    def add(self, image: Image.Image, text: str) -> None:
        self.images.append(_small(image, math.isqrt(self.count - 1) + 1))
        self.told = self.told or text

    def write(self, folder: Path) -> list[str]:
        """The file; none where nothing was drawn."""
        if not self.images:
            return []
        side = max(max(each.size) for each in self.images)
        path = _free(folder)
        write_picture(path, square_sheet(self.images, side, self.count), self.told)
        return [str(path)]


def _small(image: Image.Image, beside: int) -> Image.Image:
    """As it may be where so many are beside each other."""
    cell = max(16, min(LARGEST, WIDEST // beside))
    return ImageOps.contain(image, (cell, cell)) if max(image.size) > cell else image


def _free(folder: Path) -> Path:
    return next(each for number in count() if not (each := folder / f"grid-{number:04d}.png").exists())
