"""Pictures on disk become latents: encoded once, kept as the VAE's mean and standard deviation."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from PIL import Image, ImageOps

from tenshot.core import distributed
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
JOB = "encoding pictures"
AHEAD = 4  # pictures that are opened and cut while the VAE looks at others
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

    def pixels(row: int) -> torch.Tensor:
        number, view = shown[row]
        return as_tensor(view.of(unchanged(examples[number])))

    def posteriors(rows: Sequence[int]) -> Iterator[tuple[int, Posterior]]:
        for row, each in track(made_ahead(pixels, rows), JOB, len(rows), events):
            yield row, _encoded(base, each)

    if cache is None:
        found: Sequence[Posterior] = [posterior for _, posterior in posteriors(range(len(shown)))]
    else:
        facts = hashes.of_model(base.place, "vae", events), base.vae.dtype
        keys = [hashes.of_values(examples[number].digest, SEEN, view, *facts) for number, view in shown]
        # Every process its share. One by one: in batches the VAE's answers would differ in their last bits.
        share = range(distributed.rank(), len(keys), distributed.world_size())
        for row, posterior in posteriors([row for row in share if cache.read(keys[row]) is None]):
            cache.write(keys[row], named(posterior))
        distributed.wait_for_everyone()
        if distributed.is_main_process():
            for name in keys:
                cache.use(name)
            cache.trim(set(keys))
        found = CachedPosteriors(cache, keys, lambda row: _encoded(base, pixels(row)))
    masks = [_mask(examples[number], view, factor) for number, view in shown]
    repeats = [examples[number].repeats for number, _ in shown]
    masks = masks if any(mask is not None for mask in masks) else []
    ahead = found.read_ahead if isinstance(found, CachedPosteriors) else None
    return Latents(found, sizes, frames, masks, repeats, ahead), [number for number, _ in shown]


@torch.no_grad()
def _encoded(base: Model, pixels: torch.Tensor) -> Posterior:
    """One view as the denoiser knows it, float32 on the CPU."""
    with torch.autocast(base.device.type, enabled=False):  # it may be asked for in the middle of a training step
        mean, std = base.encode(pixels[None])
    return mean[0], std[0]


def made_ahead(make: Callable[[int], torch.Tensor], rows: Iterable[int]) -> Iterator[tuple[int, torch.Tensor]]:
    """Each row with what `make` makes of it; a thread makes the next few while one is used."""
    with ThreadPoolExecutor(1) as thread:
        coming: deque[tuple[int, Future[torch.Tensor]]] = deque()
        try:
            for row in rows:
                coming.append((row, thread.submit(make, row)))
                if len(coming) > AHEAD:
                    first, made = coming.popleft()
                    yield first, made.result()
            for first, made in coming:
                yield first, made.result()
        finally:
            thread.shutdown(cancel_futures=True)


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
