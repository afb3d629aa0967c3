"""The picture that drawing begins with, the part of it that may change, and how what was drawn goes back into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.nn import functional

from tenshot.core.errors import Fault, Refusal, all_or_refuse, refuse_if
from tenshot.core.size import Size
from tenshot.io.images import fit_picture, open_mask, open_picture
from tenshot.model.sides import Sides

MOST_SIDE = 16384  # pixels, as of --width


@dataclass(frozen=True)
class Canvas:
    """image, mask: of the size that is drawn. whole: the picture that what is drawn goes back into.

    soft: where it goes, of the whole picture's size, blurred. box: left, top, right, bottom of the part that is drawn;
    None: all of it.
    """

    image: Image.Image
    mask: Image.Image | None = None
    whole: Image.Image | None = None
    soft: Image.Image | None = None
    box: tuple[int, int, int, int] | None = None

    def finished(self, drawn: Image.Image) -> Image.Image:
        """What was drawn, with what must not change as it was."""
        if self.soft is None or self.whole is None:
            return drawn
        if self.box is None:
            return Image.composite(drawn, self.whole, self.soft)
        left, top, right, bottom = self.box
        placed = self.whole.copy()
        placed.paste(drawn.resize((right - left, bottom - top), Image.Resampling.LANCZOS), (left, top))
        return Image.composite(placed, self.whole, self.soft)

    def beside(self, size: Size, fitted: Callable[[Size], Image.Image]) -> Image.Image:
        """Of another picture what belongs to what is drawn, of `size`. fitted: the picture, of a size."""
        if self.box is None or self.whole is None:
            return fitted(size)
        whole = fitted(Size.from_pillow(self.whole.size))
        return whole.resize(size.pillow, Image.Resampling.LANCZOS, self.box)


@dataclass(frozen=True)
class Pictures:
    """What was given: the picture, and the mask, white where it may change."""

    image: Image.Image
    mask: Image.Image | None

    def size(self, sides: Sides) -> Size:
        """Of the picture's shape, as large as a square picture of the model, as far as it can be."""
        ratio, multiple = (self.image.width / self.image.height) ** 0.5, sides.multiple
        most = min(MOST_SIDE, sides.most or MOST_SIDE) // multiple * multiple
        height, width = (
            min(max(multiple, round(each / multiple) * multiple), most)
            for each in (sides.resolution / ratio, sides.resolution * ratio)
        )
        return Size(height, width)

    def canvas(self, size: Size, blur: float, only_masked: bool, padding: int, fill: bool = False) -> Canvas:
        """size: that is drawn. The picture is scaled and cropped to its shape; with `only_masked` a part is drawn.

        fill: drawing begins with the colours around the mask.
        """
        if self.mask is None:
            return Canvas(fit_picture(self.image, size))
        if not only_masked:
            image, mask = fit_picture(self.image, size), _blurred(fit_picture(self.mask, size), blur)
            _refuse_nothing_white(mask, blur)
            return Canvas(surroundings(image, mask) if fill else image, mask, image, mask)
        soft = _blurred(self.mask, blur)
        box = _around(soft, padding, size)
        image, mask = (each.resize(size.pillow, Image.Resampling.LANCZOS, box) for each in (self.image, soft))
        _refuse_nothing_white(mask, blur)
        return Canvas(surroundings(image, mask) if fill else image, mask, self.image, soft, box)


def read(image: Path, mask: Path | None) -> Pictures:
    """Raises Refusal where one is no picture, they do not belong together, or the mask lets nothing change."""
    found, white = all_or_refuse(lambda: open_picture(image), lambda: open_mask(mask) if mask else None)
    if white:
        refuse_if(_mask_faults(found, white))
    return Pictures(found, white)


def _mask_faults(image: Image.Image, mask: Image.Image) -> Iterator[Fault]:
    if image.size != mask.size:
        told = "{0.width}x{0.height}"
        yield Fault(
            "--mask", f"{told.format(mask)} pixels, and the picture has {told.format(image)}", told.format(image)
        )
    if not _white(mask):
        yield Fault("--mask", "nothing in it is white", "white where the picture may change", "paint it white there")


def _white(mask: Image.Image) -> bool:
    return mask.getextrema()[1] >= 128  # type: ignore[operator]  # of one channel


def _refuse_nothing_white(mask: Image.Image, blur: float) -> None:
    """mask: of the size that is drawn, blurred."""
    if not _white(mask):
        found = f"nothing in it stays white, scaled and blurred by {blur:g} pixels: nothing would change"
        raise Refusal(Fault("--mask", found, "a larger white part", "--mask_blur 0, or paint more of it white"))


def surroundings(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture with the colours around it where `mask` is white: smoother, the farther in (pull-push)."""
    known = 1 - torch.from_numpy(np.array(mask, dtype=np.float32))[None, None] / 255
    pixels = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1)[None]
    levels = [(pixels * known, known)]
    while max(levels[-1][1].shape[-2:]) > 1:
        levels.append(_halved(*levels[-1]))
    colour, known = levels.pop()
    filled = colour / known.clamp(min=1e-6)
    for colour, known in reversed(levels):
        filled = functional.interpolate(filled, size=colour.shape[-2:], mode="bilinear")
        filled = colour + (1 - known) * filled
    return Image.fromarray(filled[0].permute(1, 2, 0).clamp(0, 255).round().byte().numpy())


def _halved(*each: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    colour, known = (functional.avg_pool2d(one, 2, ceil_mode=True) for one in each)
    return colour, known


def _blurred(mask: Image.Image, blur: float) -> Image.Image:
    return mask.filter(ImageFilter.GaussianBlur(blur)) if blur else mask


def _around(mask: Image.Image, padding: int, size: Size) -> tuple[int, int, int, int]:
    """The part with all that is not black, and `padding` pixels around; of the shape of `size`, where it can be."""
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    left, right = max(left - padding, 0), min(right + padding, mask.width)
    top, bottom = max(top - padding, 0), min(bottom + padding, mask.height)
    wanted = size.width / size.height
    if (right - left) / (bottom - top) < wanted:
        left, right = _widened(left, right, round((bottom - top) * wanted), mask.width)
    else:
        top, bottom = _widened(top, bottom, round((right - left) / wanted), mask.height)
    return left, top, right, bottom


def _widened(start: int, end: int, length: int, most: int) -> tuple[int, int]:
    length = min(length, most)
    start = min(max(start - (length - (end - start)) // 2, 0), most - length)
    return start, start + length
