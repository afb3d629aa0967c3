"""A model draws pictures: noise from seeds, guided denoising, decoding."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from tenshot.core.errors import Fault, Refusal
from tenshot.core.events import Events, track
from tenshot.core.size import Size
from tenshot.diffusion import samplers, sampling
from tenshot.families import base
from tenshot.io.images import as_image
from tenshot.model.model import Model


@dataclass(frozen=True)
class Request:
    """One picture to draw. Alone, the same request gives the same picture to the bit on one machine.

    In a batch sums run in another order, and single values differ by one level of 255.
    """

    prompt: str
    seed: int
    negative: str = ""


@dataclass(frozen=True)
class SamplingSettings:
    """How to draw. size: None for the model's own; guidance: 1 means none.

    sampler: None for the usual one of the model's process. schedule: of the amounts of noise that it visits.
    """

    sampler: str | None = None
    steps: int = 20
    guidance: float = 7.5
    size: Size | None = None
    batch: int = 4
    schedule: samplers.Schedule = samplers.AUTOMATIC

    def size_for(self, model: Model) -> Size:
        return self.size or Size.square(model.resolution)

    def sampler_for(self, model: Model) -> str:
        return self.sampler or samplers.names(model.family.process.name)[0]

    def schedule_for(self, model: Model) -> samplers.Schedule | None:
        """None where the sampler has its own."""
        return samplers.schedule_of(self.sampler_for(model), self.schedule, model.family.process)


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
    return torch.cat(list(_batches(model.snapshot(), requests, settings, events or Events(), job)))


@torch.no_grad()
def decode(model: Model, latents: torch.Tensor, batch: int = 4) -> list[Image.Image]:
    """Latents [n, 4, h/8, w/8] as pictures. Raises Refusal where they came out as no numbers."""
    drawn = [tensor for part in latents.split(batch) for tensor in model.decode(part)]
    if broken := sum(not tensor.isfinite().all() for tensor in drawn):
        what = "the VAE's answer" if latents.isfinite().all() else "the denoiser's answer"
        found = f"{broken} of {len(drawn)} pictures would be black: {what} holds NaN or infinite numbers"
        do = "draw in fp32, lower the strengths of LoRAs, or give another --vae"
        raise Refusal(Fault(str(model.place), found, "finite numbers", do))
    return [as_image(tensor) for tensor in drawn]


@torch.no_grad()
def _batches(
    model: Model, requests: Sequence[Request], settings: SamplingSettings, events: Events, job: str
) -> Iterator[torch.Tensor]:
    """The latents of one batch after the other; every denoising step counts as a unit of the job."""
    size = settings.size_for(model)
    # One by one, so that a picture does not depend on which other prompts there are.
    prompts = {text: model.conditioning([text], size) for text in {request.prompt for request in requests}}
    negatives = {text: model.negative_conditioning(text, size) for text in {request.negative for request in requests}}
    groups = [requests[start : start + settings.batch] for start in range(0, len(requests), settings.batch)]
    total = len(groups) * _sampler(model, settings).evaluations
    ticks = track(range(total), job, total, events)
    for group in groups:
        conditions = [prompts[request.prompt] for request in group]
        if settings.guidance != 1:
            conditions = [negatives[request.negative] for request in group] + conditions
        yield _denoise(model, [request.seed for request in group], base.joined(*conditions), settings, ticks)
    next(ticks, None)  # the last one is done


def _denoise(
    model: Model, seeds: Sequence[int], condition: base.Conditioning, settings: SamplingSettings, ticks: Iterator[int]
) -> torch.Tensor:
    """condition: of the prompts; with guidance of the negative prompts and then of the prompts. Takes a tick a step."""
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    height, width = (side // model.vae_scale_factor for side in settings.size_for(model))
    shape = (model.latent_channels, height, width)
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    steps, guided = _sampler(model, settings).run(noise, generators), settings.guidance != 1
    seen, time = next(steps)
    for _ in ticks:
        seen = seen.to(model.device, model.dtype)
        answer = model.predict(torch.cat([seen, seen]) if guided else seen, torch.tensor(time), condition).float().cpu()
        if guided:
            without, with_prompt = answer.chunk(2)
            answer = without + settings.guidance * (with_prompt - without)
        try:
            seen, time = steps.send(answer)
        except StopIteration as end:
            latents: torch.Tensor = end.value
            return latents
    raise AssertionError("a sampler that asks more often than it said")


def _sampler(model: Model, settings: SamplingSettings) -> sampling.Sampler:
    config, process, aligned = model.scheduler_config, model.family.process, model.family.aligned
    return sampling.sampler(settings.sampler, settings.steps, config, process, settings.schedule, aligned)
