"""Pictures on disk become latents: encoded once, kept as the VAE's mean and standard deviation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image, ImageOps

from tenshot.core.events import Events, track
from tenshot.core.size import Size
from tenshot.families.base import MicroConditioning
from tenshot.io import hashes
from tenshot.io.image_folder import Example, unchanged
from tenshot.io.images import as_tensor, covering, fit_picture, open_mask
from tenshot.model.model import Model
from tenshot.train.data.latents_cache import CachedPosteriors, TensorCache, named
from tenshot.train.engine.denoising import Latents, Posterior

SEEN = 2  # counts up where the same file comes to be seen as other pixels
CROPS = (0.0, 0.5, 1.0)  # where an oblong picture is cropped when it is not cropped at the centre


@dataclass(frozen=True)
class View:
    """One way in which a picture is learned: scaled to cover `size`, cropped `at` (0 to 1 on both sides), mirrored."""

    size: Size
    at: float = 0.5
    mirrored: bool = False

    def of(self, image: Image.Image) -> Image.Image:
        seen = fit_picture(image, self.size, center_crop=False, at=(self.at, self.at))
        return ImageOps.mirror(seen) if self.mirrored else seen

    def frame(self, own: Size) -> MicroConditioning:
        """What becomes of a picture of size `own`. Mirrored, it is the crop of a mirrored picture."""
        whole, (top, left) = covering(own, self.size, (self.at, self.at))
        if self.mirrored:
            left = whole.width - self.size.width - left
        return MicroConditioning(own, (top, left), self.size)


Views = Callable[[Size], list[View]]  #: from a picture's size to the ways in which it is learned


def squares(side: int, center_crop: bool = True, flip: bool = False) -> Views:
    """Squares of `side` pixels: three along an oblong picture, or its centre."""

    def views(size: Size) -> list[View]:
        places = CROPS if size.height != size.width and not center_crop else (0.5,)
        return [
            View(Size.square(side), at, mirrored) for at in places for mirrored in ((False, True) if flip else (False,))
        ]

    return views


def buckets(side: int, step: int, flip: bool = False) -> Views:
    """The shape nearest to the picture's own, of about side x side pixels, its sides multiples of `step`."""
    shapes = shapes_of(side, step)

    def views(size: Size) -> list[View]:
        shape = min(shapes, key=lambda each: (abs(_ratio(each) - _ratio(size)), each.pillow))
        return [View(shape, 0.5, mirrored) for mirrored in ((False, True) if flip else (False,))]

    return views


def shapes_of(side: int, step: int) -> list[Size]:
    """Every width with the greatest height that makes no more than side x side pixels, to proportions of 1 : 2."""
    wide = [Size(side * side // width // step * step, width) for width in range(side, 2 * side + 1, step)]
    landscape = [each for each in wide if each.height and each.width <= 2 * each.height]
    return sorted({*landscape, *(Size(*each.pillow) for each in landscape), Size.square(side)})


def _ratio(size: Size) -> float:
    """How oblong, so that landscape and portrait are equally far from a square."""
    height, width = size
    return width / height - 1 if width >= height else 1 - height / width


def encode(
    base: Model, examples: Sequence[Example], views: Views, events: Events, cache: TensorCache | None = None
) -> tuple[Latents, list[int]]:
    """Latents of every view of every example, and for each row the example it shows."""
    shown = [(number, view) for number, each in enumerate(examples) for view in views(each.size)]
    frames = [view.frame(examples[number].size) for number, view in shown]
    factor = base.vae_scale_factor
    sizes = [Size(view.size.height // factor, view.size.width // factor) for _, view in shown]
    again = partial(_again, base, examples, shown)
    if cache is None:
        each: Sequence[Posterior] = [again(row) for row in track(range(len(shown)), JOB, len(shown), events)]
    else:
        each = _kept(base, examples, shown, cache, again, events)
    masks = [_mask(examples[number], view, factor) for number, view in shown]
    repeats = [examples[number].repeats for number, _ in shown]
    masks = masks if any(mask is not None for mask in masks) else []
    return Latents(each, sizes, frames, masks, repeats), [number for number, _ in shown]


JOB = "encoding pictures"


def _kept(
    base: Model,
    examples: Sequence[Example],
    shown: Sequence[tuple[int, View]],
    cache: TensorCache,
    again: Callable[[int], Posterior],
    events: Events,
) -> CachedPosteriors:
    """Everything that is shown, in the cache; what is not yet there is encoded."""
    coder = hashes.of_model(base.place, "vae")
    keys = [hashes.of_values(examples[number].digest, SEEN, view, coder, base["vae"].dtype) for number, view in shown]
    kept = CachedPosteriors(cache, keys, again)
    missing = [row for row, each in enumerate(keys) if cache.read(each) is None]
    for row in track(missing, JOB, len(missing), events):
        cache.write(keys[row], named(again(row)))
    for each in keys:
        cache.use(each)
    cache.trim(set(keys))
    return kept


@torch.no_grad()
def _again(base: Model, examples: Sequence[Example], shown: Sequence[tuple[int, View]], row: int) -> Posterior:
    """Encode one view, as the denoiser knows it, float32 on the CPU."""
    number, view = shown[row]
    pixels = as_tensor(view.of(unchanged(examples[number])))
    with torch.autocast(base.device.type, enabled=False):  # it may be asked for in the middle of a training step
        mean, std = base.encode(pixels[None])
    return mean[0], std[0]


def _mask(example: Example, view: View, factor: int) -> torch.Tensor | None:
    """What counts of a view, [1, h/8, w/8] from 0 to 1."""
    if example.mask is None:
        return None
    grey = as_tensor(view.of(open_mask(example.mask)))[:1] / 2 + 0.5
    return torch.nn.functional.avg_pool2d(grey, factor)


def exact(latents: torch.Tensor, factor: int) -> Latents:
    """Latents [n, c, h/8, w/8] that are known exactly, such as those a picture was decoded from."""
    return Latents.of(latents, torch.zeros_like(latents), factor)


def together(*sets: Latents) -> Latents:
    """Several sets as one, without masks."""
    each = [posterior for latents in sets for posterior in latents.each]
    sizes = [size for latents in sets for size in latents.sizes]
    return Latents(each, sizes, [frame for latents in sets for frame in latents.frames])
