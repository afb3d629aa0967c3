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
from tenshot.io.images import as_image
from tenshot.model.guidance import Guided, Told
from tenshot.model.model import Model
from tenshot.model.prompts import READING, Prompts, Reading


@dataclass(frozen=True)
class Request:
    """One picture to draw; its prompts are in the prompt language, without LoRAs.

    Alone, the same request gives the same picture to the bit on one machine.

    In a batch sums run in another order, and single values differ by one level of 255.
    """

    prompt: str
    seed: int
    negative: str = ""


@dataclass(frozen=True)
class SamplingSettings:
    """How to draw. size: None for the model's own; guidance: 1 means none.

    sampler: None for the usual one of the model's process. schedule: of the amounts of noise that it visits.
    reading: how prompts are read.
    """

    sampler: str | None = None
    steps: int = 20
    guidance: float = 7.5
    size: Size | None = None
    batch: int = 4
    schedule: samplers.Schedule = samplers.AUTOMATIC
    reading: Reading = READING

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
    return torch.cat([each.cpu() for each in _batches(model.snapshot(), requests, settings, events or Events(), job)])


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
    sampler = _sampler(model, settings)
    told = _told(model, requests, settings, sampler.evaluations)
    groups = range(0, len(requests), settings.batch)
    total = len(groups) * sampler.evaluations
    ticks = track(range(total), job, total, events)
    for start in groups:
        batch = slice(start, start + settings.batch)
        yield _denoise(model, [request.seed for request in requests[batch]], told[batch], settings, ticks)
    next(ticks, None)  # the last one is done


def _told(model: Model, requests: Sequence[Request], settings: SamplingSettings, evaluations: int) -> list[Told]:
    # WebUI counts evaluations, where a sampler asks twice a step.
    steps = settings.steps * round(evaluations / settings.steps)
    prompts = Prompts(model, settings.size_for(model), steps, settings.reading)
    positive = {text: prompts.positive(text) for text in dict.fromkeys(request.prompt for request in requests)}
    told = []
    for request in requests:
        composed = [(weight * settings.guidance, said) for weight, said in positive[request.prompt]]
        guided = [weight for weight, _ in composed] != [1]
        told.append(Told(composed, prompts.negative(request.negative) if guided else None))
    return told


def _denoise(
    model: Model, seeds: Sequence[int], told: Sequence[Told], settings: SamplingSettings, ticks: Iterator[int]
) -> torch.Tensor:
    """Takes a tick an evaluation."""
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    height, width = (side // model.vae_scale_factor for side in settings.size_for(model))
    shape = (model.latent_channels, height, width)
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(model.device)
    steps = _sampler(model, settings).run(noise, generators)
    seen, time = next(steps)
    guided = Guided(model, told)
    for number, _ in enumerate(ticks):
        try:
            seen, time = steps.send(guided(seen.to(model.dtype), time, number))
        except StopIteration as end:
            latents: torch.Tensor = end.value
            return latents
    raise AssertionError("a sampler that asks more often than it said")


def _sampler(model: Model, settings: SamplingSettings) -> sampling.Sampler:
    config, process, aligned = model.scheduler_config, model.family.process, model.family.aligned
    return sampling.sampler(settings.sampler, settings.steps, config, process, settings.schedule, aligned)
