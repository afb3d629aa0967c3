"""Latents as small pictures, at next to no cost: a linear map, fitted to what the model's own VAE makes of colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import avg_pool2d, interpolate

from tenshot.families import latents
from tenshot.io.images import as_image
from tenshot.model.model import Model

PICTURES, SIDE = 24, 8  # that it is fitted to, and their side in latents
RIDGE = 1e-3  # of the latents' variance, so that what colours say nothing about adds nothing


@dataclass(frozen=True)
class LatentRGB:
    """factors: [channels + 1, 3], the last row is added."""

    factors: torch.Tensor

    @classmethod
    @torch.no_grad()
    def fitted(cls, model: Model) -> LatentRGB:
        vae: Any = getattr(model.vae, "eager", model.vae)  # no program is compiled for so small a size
        pictures = _coloured(SIDE * model.vae_scale_factor)
        found = vae.encode(pictures.to(vae.device, vae.dtype)).latent_dist.mean
        rows = _rows(latents.normalized(vae, found)).double()
        wanted = _rows(avg_pool2d(pictures, model.vae_scale_factor)).double()
        mean, middle = rows.mean(0), wanted.mean(0)
        rows, variance = rows - mean, float(rows.var(0).mean())
        ridge = max(RIDGE * variance, 1e-12) * len(rows) * torch.eye(rows.shape[1], dtype=torch.float64)
        factors = torch.linalg.solve(rows.T @ rows + ridge, rows.T @ (wanted - middle))
        return cls(torch.cat([factors, (middle - mean @ factors)[None]]).float())

    def __call__(self, x: torch.Tensor) -> list[Image.Image]:
        """Clean latents [n, channels, h, w], as the denoiser knows them, as pictures of w x h pixels."""
        colours = torch.einsum("nchw,ck->nkhw", x.float().cpu(), self.factors[:-1]) + self.factors[-1].view(3, 1, 1)
        return [as_image(each) for each in colours]


def _coloured(side: int) -> torch.Tensor:
    """Soft and rough patches of colour, [pictures, 3, side, side] in -1..1, always the same."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(PICTURES, 3, 1, 1, generator=generator) * 2 - 1
    sides: Sequence[int] = [2**power for power in range(1, side.bit_length())]
    for small in sides:  # natural pictures have as much of each
        noise = torch.randn(PICTURES, 3, small, small, generator=generator) * 0.25
        pictures = pictures + interpolate(noise, size=(side, side), mode="bilinear")
    return pictures.clamp(-1, 1)


def _rows(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1).flatten(0, 2)
