"""Pictures on disk become latents in memory: encoded once, kept as the VAE's mean and standard deviation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from tenshot.events import Events, watched
from tenshot.files.pictures import Example, as_tensor, fit_picture, open_picture
from tenshot.model import Model
from tenshot.train.denoise import Latents

CROPS = (0.0, 0.5, 1.0)  # where an oblong picture is cropped when it is not cropped at the centre


def views(image: Image.Image, side: int, center_crop: bool) -> list[Image.Image]:
    """The squares of `side` pixels that a picture is learned as: three along an oblong one, or its centre."""
    if center_crop or image.width == image.height:
        return [fit_picture(image, side)]
    return [fit_picture(image, side, center_crop=False, at=(at, at)) for at in CROPS]


def encoded(
    model: Model, examples: Sequence[Example], side: int, center_crop: bool, events: Events
) -> tuple[Latents, list[int]]:
    """Latents of every view of every example, and for each view the example it shows."""
    images, shown = [], []
    for number, example in enumerate(examples):
        squares = views(open_picture(example.path), side, center_crop)
        images += squares
        shown += [number] * len(squares)
    return encode(model, images, events), shown


@torch.no_grad()
def encode(model: Model, images: Sequence[Image.Image], events: Events) -> Latents:
    """Latents of `images`, scaled as the UNet knows them, float32 on the CPU."""
    vae = model["vae"]
    means, stds = [], []
    for image in watched(images, "encoding pictures", len(images), events):
        posterior = vae.encode(as_tensor(image)[None].to(vae.device, vae.dtype)).latent_dist
        means.append(posterior.mean.float().cpu() * vae.config.scaling_factor)
        stds.append(posterior.std.float().cpu() * vae.config.scaling_factor)
    return Latents(torch.cat(means), torch.cat(stds))


def exact(latents: torch.Tensor) -> Latents:
    """Latents that are known exactly, such as those a picture was decoded from."""
    return Latents(latents, torch.zeros_like(latents))


def together(*sets: Latents) -> Latents:
    """Several sets as one."""
    return Latents(torch.cat([each.mean for each in sets]), torch.cat([each.std for each in sets]))
