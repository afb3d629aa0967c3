"""A model draws pictures: noise from seeds, guided denoising, decoding."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from tenshot.core.errors import Fault, Refusal
from tenshot.core.events import Events, track
from tenshot.core.size import Size
from tenshot.diffusion import samplers, sampling
from tenshot.io.images import as_image, as_tensor
from tenshot.model.control import Control, Unit
from tenshot.model.guidance import Guided, Told
from tenshot.model.model import Model
from tenshot.model.prompts import READING, Prompts, Reading


@dataclass(frozen=True)
class Request:
    """One picture to draw; its prompts are in the prompt language, without LoRAs.

    Alone, the same request gives the same picture to the bit on one machine. In a batch sums run in another order, and
    single values differ by one level of 255.

    image: to begin with, RGB, of the size that is drawn. mask: white where it may change, grey, of the same size; None:
    everywhere. variation: another seed, and how much of the noise is its (0 to 1). control: what the ControlNets of the
    settings see, a picture for each, RGB, of the size that is drawn.
    """

    prompt: str
    seed: int
    negative: str = ""
    image: Image.Image | None = None
    mask: Image.Image | None = None
    variation: tuple[int, float] | None = None
    control: Sequence[Image.Image] = ()


@dataclass(frozen=True)
class SamplingSettings:
    """How to draw. size: None for the model's own; guidance: 1 means none.

    sampler: None for the usual one of the model's process. schedule: of the amounts of noise that it visits.
    reading: how prompts are read. strength: with a picture to begin with, how much of the way to it is gone anew.
    control: the ControlNets that are asked, for all pictures.
    """

    sampler: str | None = None
    steps: int = 20
    guidance: float = 7.5
    size: Size | None = None
    batch: int = 4
    schedule: samplers.Schedule = samplers.AUTOMATIC
    reading: Reading = READING
    strength: float = 1.0
    control: Sequence[Unit] = ()

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
    told = _told(model, requests, settings, settings.steps * sampler.each)
    groups = range(0, len(requests), settings.batch)
    total = len(groups) * sampler.evaluations
    ticks = track(range(total), job, total, events)
    for start in groups:
        batch = slice(start, start + settings.batch)
        yield _denoise(model, requests[batch], told[batch], settings, ticks)
    next(ticks, None)  # the last one is done


def _told(model: Model, requests: Sequence[Request], settings: SamplingSettings, steps: int) -> list[Told]:
    """steps: as WebUI counts them, which are more where a sampler asks twice a step."""
    prompts = Prompts(model, settings.size_for(model), steps, settings.reading)
    positive = {text: prompts.positive(text) for text in dict.fromkeys(request.prompt for request in requests)}
    told = []
    for request in requests:
        composed = [(weight * settings.guidance, said) for weight, said in positive[request.prompt]]
        guided = [weight for weight, _ in composed] != [1]
        told.append(Told(composed, prompts.negative(request.negative) if guided else None))
    return told


def _denoise(
    model: Model, requests: Sequence[Request], told: Sequence[Told], settings: SamplingSettings, ticks: Iterator[int]
) -> torch.Tensor:
    """Takes a tick an evaluation."""
    generators = [torch.Generator("cpu").manual_seed(request.seed) for request in requests]
    height, width = (side // model.vae_scale_factor for side in settings.size_for(model))
    shape = (model.latent_channels, height, width)
    noise = torch.stack(
        [
            _varied(torch.randn(shape, generator=each), request)
            for each, request in zip(generators, requests, strict=True)
        ]
    ).to(model.device)
    start, beside = _start(model, requests)
    sampler = _sampler(model, settings)
    steps = sampler.run(noise, generators, start)
    seen, time = next(steps)
    control = _control(model, requests, settings, sampler) if settings.control else None
    guided = Guided(model, told, beside, control)
    for number, _ in enumerate(ticks):
        try:
            seen, time = steps.send(guided(seen.to(model.dtype), time, number))
        except StopIteration as end:
            latents: torch.Tensor = end.value
            return latents
    raise AssertionError("a sampler that asks more often than it said")


def _varied(noise: torch.Tensor, request: Request) -> torch.Tensor:
    """Noise [channels, h, w] on the way to another seed's, along the sphere, column by column as WebUI goes."""
    if request.variation is None:
        return noise
    seed, share = request.variation
    other = torch.randn(noise.shape, generator=torch.Generator("cpu").manual_seed(seed))
    cosine = (noise / noise.norm(dim=1, keepdim=True) * (other / other.norm(dim=1, keepdim=True))).sum(1, keepdim=True)
    if cosine.mean() > 0.9995:
        return noise
    angle = cosine.acos()
    found: torch.Tensor = (((1 - share) * angle).sin() * noise + (share * angle).sin() * other) / angle.sin()
    return found


def _start(model: Model, requests: Sequence[Request]) -> tuple[sampling.Start | None, torch.Tensor | None]:
    """What drawing begins with; and what inpainting models (9 channels) see beside, the mask and what is under it."""
    if not all(request.image for request in requests):
        return None, None
    pixels = torch.stack([as_tensor(request.image) for request in requests if request.image])
    clean, _ = model.encode(pixels)
    if not any(request.mask for request in requests):
        return sampling.Start(clean.to(model.device)), None
    masks = torch.stack([_as_mask(request) for request in requests])
    small = torch.stack([_as_mask(request, model.vae_scale_factor) for request in requests]).to(model.device)
    start, beside = sampling.Start(clean.to(model.device), small), None
    if model.denoiser.config.in_channels == 2 * model.latent_channels + 1:
        under, _ = model.encode(pixels * (masks < 0.5))
        beside = torch.cat([small, under.to(model.device)], 1)
    return start, beside


def _control(
    model: Model, requests: Sequence[Request], settings: SamplingSettings, sampler: sampling.Sampler
) -> Control:
    pictures = []
    for shown in zip(*(request.control for request in requests), strict=True):
        pictures.append(torch.stack([(as_tensor(each) + 1) / 2 for each in shown]).to(model.device))
    return Control(settings.control, pictures, sampler.evaluations, sampler.each)


def _as_mask(request: Request, factor: int = 1) -> torch.Tensor:
    """1 where the picture may change, else 0; [1, h, w], for one latent pixel of `factor` pixels."""
    assert request.image
    mask = request.mask or Image.new("L", request.image.size, 255)
    mask = mask.resize((mask.width // factor, mask.height // factor), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(mask, dtype=np.float32) / 255).round()[None]


def _sampler(model: Model, settings: SamplingSettings) -> sampling.Sampler:
    config, process, aligned = model.scheduler_config, model.family.process, model.family.aligned
    strength = settings.strength
    return sampling.sampler(settings.sampler, settings.steps, config, process, settings.schedule, aligned, strength)
