"""What training will see of each picture, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tenshot.io.image_folder import Example
from tenshot.io.images import as_rgb, open_picture
from tenshot.train.data.image_latents import Views

FEW, MANY = 5, 30  # pictures of one subject: with fewer it is learned from one side, with more captions help
REACH = 9  # pixels over which a picture is blurred once more, to see what it loses
BLURRED = 0.6  # of the differences between neighbours that outlast it: a blur by two pixels and more
ALIKE = 0.04  # mean difference of thumbnails, of 1: copies in another size or quality are nearer
DARK, BRIGHT = 0.35, 0.75  # grey that nearly all pixels are below, or above
THUMBNAIL = (32, 32)


@dataclass(frozen=True)
class Seen:
    """views: as training sees the picture. faults: what is wrong with it, in words."""

    example: Example
    views: Sequence[Image.Image]
    faults: Sequence[str]


def look(examples: Sequence[Example], views: Views) -> list[Seen]:
    """Every picture, in order. Raises Refusal where one is no whole picture any more."""
    images = [as_rgb(open_picture(each.path)) for each in examples]
    thumbnails = [np.asarray(each.resize(THUMBNAIL, Image.Resampling.BOX), np.float32) / 255 for each in images]
    found = []
    for number, (example, image) in enumerate(zip(examples, images, strict=True)):
        shown = [view.of(image) for view in views(example.size)]
        copies = [
            f"the same as {examples[n].path.name}"
            for n in range(number)
            if float(np.abs(thumbnails[n] - thumbnails[number]).mean()) < ALIKE
        ]
        found.append(Seen(example, shown, [*_faults(example, shown), *copies[:1]]))
    return found


def notes(seen: Sequence[Seen]) -> Iterator[str]:
    """What is to be said of all of them together."""
    count, own = len(seen), sum(bool(each.example.caption) for each in seen)
    if count < FEW:
        few = "1 picture" if count == 1 else f"{count} pictures"
        yield f"{few}: with {FEW} to 10, from several sides, more is learned"
    if count > MANY:
        yield f"{count} pictures are many for one subject: write captions, and consider full fine-tuning"
    if own:
        yield f"{own} of {count} have a caption of their own, which is learned in place of the usual one"


def _faults(example: Example, shown: Sequence[Image.Image]) -> Iterator[str]:
    side = min(shown[0].size)
    if min(example.size) < side:
        yield f"too small: enlarged to {side} pixels"
    grey = [np.asarray(each.convert("L"), np.float64) / 255 for each in shown]
    if min(blur(each) for each in grey) > BLURRED:
        yield "blurred"
    low, high = np.percentile(np.concatenate([each.ravel() for each in grey]), (2, 98))
    if high < DARK:
        yield "very dark"
    if low > BRIGHT:
        yield "very bright"


def blur(grey: np.ndarray) -> float:
    """From 0 (sharp) to 1: how little a picture [height, width] changes where it is blurred once more.

    The share of the differences between neighbours that stays (Crété et al. 2007, "The blur effect").
    """
    return max(_outlasts(grey), _outlasts(grey.T))


def _outlasts(grey: np.ndarray) -> float:
    """Down the columns."""
    sums = np.cumsum(np.insert(grey, 0, 0.0, axis=0), axis=0)
    blurred = (sums[REACH:] - sums[:-REACH]) / REACH
    middle = grey[REACH // 2 : REACH // 2 + len(blurred)]
    sharp, soft = np.abs(np.diff(middle, axis=0)), np.abs(np.diff(blurred, axis=0))
    whole = float(sharp.sum())
    return 1 - float(np.maximum(0, sharp - soft).sum()) / whole if whole > 1e-6 else 0.0
