"""Latents as small pictures: near to what the VAE decodes, for any VAE, and only where somebody watches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tenshot import pipeline
from tenshot.core.events import EventGroup, Events
from tenshot.core.size import Size
from tenshot.model import latent_rgb, model
from tenshot.model.latent_rgb import LatentRGB
from tenshot.pipeline import Request, SamplingSettings


class Watching(Events):
    def __init__(self, every: int) -> None:
        self.every, self.shown = every, []

    def watches(self, done: int) -> bool:
        return done % self.every == 0

    def drawing(self, done: int, total: int, images: Any) -> None:
        self.shown.append((done, total, [*images]))


def test_the_pocket_model_shows_its_colours():
    """More than half of what differs between small parts of pictures is told by four numbers each."""
    whole = model.load("pocket")
    prompts = ["a 3d emoji of a cat on a blue background", "a flat emoji of a panda on a red background"]
    latents = pipeline.latents(whole, [Request(each, 1) for each in prompts], SamplingSettings("Euler", 6))
    with torch.no_grad():
        decoded = whole.decode(latents).clamp(-1, 1)
    wanted = torch.nn.functional.avg_pool2d(decoded, whole.vae_scale_factor)
    shown = torch.stack([torch.tensor(np.array(each)) for each in LatentRGB.fitted(whole)(latents)])
    found = shown.permute(0, 3, 1, 2) / 127.5 - 1
    left = ((found - wanted) ** 2).sum() / ((wanted - wanted.mean((0, 2, 3), keepdim=True)) ** 2).sum()
    assert left < 0.3


@pytest.mark.parametrize("place", ["sd1", "sdxl", "sd3"])
def test_any_vae_gets_its_own_map(place: str, request: pytest.FixtureRequest):
    """A VAE whose latents are known mixtures of colours, scaled and shifted as each family has it."""
    whole = model.load(str(request.getfixturevalue(place)))
    factor, channels = whole.vae_scale_factor, whole.latent_channels
    mixed = torch.randn(channels, 3, generator=torch.Generator().manual_seed(1))

    class Encoded:
        def __init__(self, pixels: torch.Tensor) -> None:
            colours = torch.nn.functional.avg_pool2d(pixels, factor)
            self.latent_dist = self
            self.mean = torch.einsum("nkhw,ck->nchw", colours, mixed) + 2

    whole.vae.encode = Encoded
    pictures = torch.rand(2, 3, 8, 6, generator=torch.Generator().manual_seed(2)) * 1.6 - 0.8
    pictures = pictures.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    shift = whole.vae.config.shift_factor or 0
    latents = (Encoded(pictures).mean - shift) * whole.vae.config.scaling_factor
    wanted = (torch.nn.functional.avg_pool2d(pictures, factor) + 1) * 127.5
    shown = LatentRGB.fitted(whole)(latents)
    assert [each.size for each in shown] == [(6, 8)] * 2
    for one, other in zip(shown, wanted, strict=True):
        assert np.abs(np.asarray(one, dtype=float) - other.permute(1, 2, 0).numpy()).max() < 4


def test_a_watcher_sees_the_batch_become_its_picture(sd1: Path, monkeypatch: pytest.MonkeyPatch):
    whole, watching = model.load(str(sd1)), Watching(2)
    how = SamplingSettings("Euler", 6, 1.0, Size(48, 64), batch=2)
    requests = [Request("a", seed) for seed in range(3)]
    latents = pipeline.latents(whole, requests, how, EventGroup(Events(), watching))
    assert [(done, total, len(images)) for done, total, images in watching.shown] == [
        *((2, 12, 2), (4, 12, 2), (6, 12, 2)),
        *((8, 12, 1), (10, 12, 1), (12, 12, 1)),
    ]
    end = LatentRGB.fitted(whole)(latents)  # the last answer is the last step of Euler
    for one, other in zip([*watching.shown[2][2], *watching.shown[5][2]], end, strict=True):
        assert one.size == (8, 6) and np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max() <= 1
    monkeypatch.setattr(latent_rgb.LatentRGB, "fitted", lambda *_: pytest.fail("nobody watches"))
    assert torch.equal(pipeline.latents(whole, requests, how), latents)
