"""A model draws pictures: noise from seeds, guided denoising, decoding."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

import torch
from PIL import Image

from tenshot.batch import Batch, Drawing, passes
from tenshot.batch import decode as decode
from tenshot.core.events import Events, track
from tenshot.model.latent_rgb import LatentRGB
from tenshot.model.model import Model
from tenshot.request import Request as Request
from tenshot.request import SamplingSettings as SamplingSettings
from tenshot.request import SecondPass as SecondPass


def images(
    model: Model,
    requests: Sequence[Request],
    settings: SamplingSettings,
    events: Events | None = None,
    job: str = "drawing",
) -> list[Image.Image]:
    """One RGB picture for each request. Raises Cancelled when the listener asks to stop."""
    return list(stream(model, requests, settings, events, job))


def stream(
    model: Model,
    requests: Sequence[Request],
    settings: SamplingSettings,
    events: Events | None = None,
    job: str = "drawing",
) -> Generator[Image.Image]:
    """Like `pictures`, each as soon as its batch is drawn. Weights that are exchanged meanwhile count from the next."""
    model = model.snapshot()
    for drawn in _batches(model, requests, settings, events or Events(), job):
        yield from decode(model, drawn, settings.batch)


def latents(
    model: Model,
    requests: Sequence[Request],
    settings: SamplingSettings,
    events: Events | None = None,
    job: str = "drawing",
) -> torch.Tensor:
    """Clean latents as the denoiser knows them, float32 [requests, 4, h/8, w/8], on the CPU."""
    return torch.cat([each.cpu() for each in _batches(model, requests, settings, events or Events(), job)])


def trajectories(
    model: Model,
    requests: Sequence[Request],
    settings: SamplingSettings,
    every: int,
    events: Events | None = None,
    job: str = "drawing",
) -> torch.Tensor:
    """What the denoiser is shown on the way, at every so many-th evaluation from the first on, and the clean latents.

    All in one batch; float32 [requests, nodes + 1, 4, h/8, w/8], on the CPU.
    """
    batch = Batch(model)
    drawings = batch.join(requests, settings)
    nodes: list[torch.Tensor] = []
    for number in track(range(total := drawings[0].total), job, total, events or Events()):
        if number % every == 0:
            nodes.append(torch.cat([each.row.seen for each in drawings]).float().cpu())
        batch.step()
    return torch.stack([*nodes, torch.cat([each.latents for each in drawings]).float().cpu()], 1)


def evaluations(model: Model, settings: SamplingSettings) -> tuple[int, int]:
    """How often the denoiser is asked of a picture of one prompt: with guidance, when it answers twice, and without."""
    first, *_ = passes(model, settings)
    guided = len(first.led) if settings.guidance != 1 else 0
    return guided, first.sampler.evaluations - guided


def _batches(
    model: Model, requests: Sequence[Request], settings: SamplingSettings, events: Events, job: str
) -> Iterator[torch.Tensor]:
    """The latents of one batch after the other; every denoising step counts as a unit of the job."""
    groups = [requests[start : start + settings.batch] for start in range(0, len(requests), settings.batch)]
    total = len(groups) * sum(each.sampler.evaluations for each in passes(model, settings))
    batch = Batch(model)
    preview = _Preview(batch.model, events, total)
    ticks = track(range(1, total + 1), job, total, events)
    for group in groups:
        drawings = batch.join(group, settings)
        while batch.drawings:
            tick = next(ticks)
            batch.step()
            preview(tick, drawings)
        yield torch.cat([each.latents for each in drawings])
    next(ticks, None)  # the last one is done


class _Preview:
    """Shows the listener what is drawn, where it asks for that; else nothing leaves the device."""

    def __init__(self, model: Model, events: Events, total: int) -> None:
        self.model, self.events, self.total = model, events, total
        self.shown: LatentRGB | None = None

    def __call__(self, done: int, drawings: Sequence[Drawing]) -> None:
        if self.events.watches(done):
            self.shown = self.shown or LatentRGB.fitted(self.model)
            self.events.drawing(done, self.total, self.shown(torch.cat([each.clean(self.model) for each in drawings])))
