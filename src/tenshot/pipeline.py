"""A model draws pictures: noise from seeds, guided denoising, decoding."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import torch
from PIL import Image

from tenshot.core.errors import Fault, Refusal
from tenshot.core.events import Events, track
from tenshot.core.size import Size
from tenshot.diffusion import samplers, sampling
from tenshot.diffusion.upscalers import LATENT, UPSCALERS, LatentUpscaler, PixelUpscaler
from tenshot.io.images import as_image, as_tensor
from tenshot.model.control import Control, Unit
from tenshot.model.guidance import Guided, Told
from tenshot.model.latent_rgb import LatentRGB
from tenshot.model.model import Model
from tenshot.model.prompts import READING, Prompts, Reading

Enlarger: TypeAlias = Callable[[Image.Image, Size], Image.Image]
#: Is told how many evaluations are done, what the denoiser was shown, its answer, and the time.
Watch: TypeAlias = Callable[[int, torch.Tensor, torch.Tensor, float], None]


@dataclass(frozen=True)
class Request:
    """One picture to draw; its prompts are in the prompt language, without LoRAs.

    Alone, the same request gives the same picture to the bit on one machine. In a batch sums run in another order, and
    single values differ by one level of 255.

    image: to begin with, RGB, of the size that is drawn. mask: white where it may change, grey, of the same size; None:
    everywhere. under: what the white part begins with; noise is that of the seed. variation: another seed, and how much
    of the noise is its (0 to 1). control: what the ControlNets of the settings see, a picture for each, RGB, of the
    size that is drawn. enlarged: likewise, of the second pass.
    """

    prompt: str
    seed: int
    negative: str = ""
    image: Image.Image | None = None
    mask: Image.Image | None = None
    under: Literal["picture", "noise", "nothing"] = "picture"
    variation: tuple[int, float] | None = None
    control: Sequence[Image.Image] = ()
    enlarged: Sequence[Image.Image] = ()


@dataclass(frozen=True)
class SecondPass:
    """What was drawn from noise is enlarged to `size` and drawn once more (WebUI: Hires. fix).

    upscaler: a name of upscalers.py, or what enlarges a picture to a size. steps: that are made, None for as many as in
    the first; they are the last `strength` of the way. control: the ControlNets that are asked then.
    """

    size: Size
    upscaler: str | Enlarger = LATENT
    steps: int | None = None
    strength: float = 0.7
    control: Sequence[Unit] = ()


@dataclass(frozen=True)
class SamplingSettings:
    """How to draw. size: None for the model's own; guidance: 1 means none.

    sampler: None for the usual one of the model's process. schedule: of the amounts of noise that it visits.
    reading: how prompts are read. strength: with a picture to begin with, how much of the way to it is gone anew.
    control: the ControlNets that are asked, for all pictures. second: None for none; it goes with no picture to begin
    with. interval: the part of the steps with guidance, as shares of them (arXiv 2404.07724).
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
    second: SecondPass | None = None
    interval: tuple[float, float] = (0.0, 1.0)

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
    nodes: list[torch.Tensor] = []

    def note(done: int, seen: torch.Tensor, answer: torch.Tensor, time: float) -> None:
        if (done - 1) % every == 0:
            nodes.append(seen.float().cpu())

    together = replace(settings, batch=len(requests))
    (clean,) = _batches(model.snapshot(), requests, together, events or Events(), job, note)
    return torch.stack([*nodes, clean.float().cpu()], 1)


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


@dataclass(frozen=True)
class _Pass:
    """One way from noise to clean latents. size: in pixels. told, control: of each picture that is drawn.

    units: the ControlNets that are asked; they see `control`. upscaler: of what it begins with, in a second pass.
    """

    size: Size
    sampler: sampling.Sampler
    told: Sequence[Told]
    units: Sequence[Unit]
    control: Sequence[Sequence[Image.Image]]
    interval: tuple[float, float]
    upscaler: str | Enlarger = LATENT

    @property
    def guided(self) -> range:
        return _guided(self.sampler, self.interval)


def _guided(sampler: sampling.Sampler, interval: tuple[float, float]) -> range:
    """The evaluations with guidance; counted as diffusers' guiders count."""
    steps = -(-sampler.evaluations // sampler.each)
    start, end = (int(share * steps) * sampler.each for share in interval)
    return range(start, end)


def evaluations(model: Model, settings: SamplingSettings) -> tuple[int, int]:
    """How often the denoiser is asked of a picture of one prompt: with guidance, when it answers twice, and without."""
    sampler = _sampler(model, settings, settings.steps, 0)
    guided = len(_guided(sampler, settings.interval)) if settings.guidance != 1 else 0
    return guided, sampler.evaluations - guided


@torch.no_grad()
def _batches(
    model: Model,
    requests: Sequence[Request],
    settings: SamplingSettings,
    events: Events,
    job: str,
    watch: Watch | None = None,
) -> Iterator[torch.Tensor]:
    """The latents of one batch after the other; every denoising step counts as a unit of the job."""
    first, *more = _passes(model, requests, settings)
    groups = range(0, len(requests), settings.batch)
    total = len(groups) * sum(each.sampler.evaluations for each in (first, *more))
    ticks = track(range(total), job, total, events)
    watch = watch or _Preview(model, events, total)
    for start in groups:
        batch = slice(start, start + settings.batch)
        begun, beside = _start(model, requests[batch])
        drawn = _denoise(model, requests[batch], batch, first, begun, beside, ticks, watch)
        for each in more:
            begun = sampling.Start(_enlarged(model, drawn, each))
            drawn = _denoise(model, requests[batch], batch, each, begun, None, ticks, watch)
        yield drawn
    next(ticks, None)  # the last one is done


class _Preview:
    """Shows the listener what is drawn, where it asks for that; else nothing leaves the device."""

    def __init__(self, model: Model, events: Events, total: int) -> None:
        self.model, self.events, self.total = model, events, total
        self.shown: LatentRGB | None = None

    def __call__(self, done: int, seen: torch.Tensor, answer: torch.Tensor, time: float) -> None:
        if self.events.watches(done):
            self.shown = self.shown or LatentRGB.fitted(self.model)
            clean = self.model.process.signal(seen, answer, time)
            self.events.drawing(done, self.total, self.shown(clean))


def _passes(model: Model, requests: Sequence[Request], settings: SamplingSettings) -> list[_Pass]:
    sampler = _sampler(model, settings, settings.steps, sampling.skipped(settings.steps, settings.strength))
    size, steps = settings.size_for(model), settings.steps * sampler.each  # as WebUI counts, twice where it asks twice
    told = _told(model, requests, settings, Prompts(model, size, steps, settings.reading))
    passes = [_Pass(size, sampler, told, settings.control, [each.control for each in requests], settings.interval)]
    if (second := settings.second) is None:
        return passes
    if any(request.image for request in requests):
        raise ValueError("a second pass is drawn of what was drawn from noise, not of pictures to begin with")
    count = second.steps or settings.steps
    whole = sampling.stretched(count, second.strength)
    sampler = _sampler(model, settings, whole, whole - count)
    told = _told(model, requests, settings, Prompts(model, second.size, count * sampler.each, settings.reading, steps))
    control = [each.enlarged for each in requests]
    return [*passes, _Pass(second.size, sampler, told, second.control, control, settings.interval, second.upscaler)]


def _told(model: Model, requests: Sequence[Request], settings: SamplingSettings, prompts: Prompts) -> list[Told]:
    positive = {text: prompts.positive(text) for text in dict.fromkeys(request.prompt for request in requests)}
    told = []
    for request in requests:
        composed = [(weight * settings.guidance, said) for weight, said in positive[request.prompt]]
        guided = [weight for weight, _ in composed] != [1]
        told.append(Told(composed, prompts.negative(request.negative) if guided else None))
    return told


def _enlarged(model: Model, drawn: torch.Tensor, second: _Pass) -> torch.Tensor:
    """What the second pass begins with. Pictures go through the VAE one by one: large ones take much memory."""
    upscaler = UPSCALERS[second.upscaler] if isinstance(second.upscaler, str) else second.upscaler
    if isinstance(upscaler, LatentUpscaler):
        sides = [side // model.vae_scale_factor for side in second.size]
        larger: torch.Tensor = torch.nn.functional.interpolate(
            drawn, size=sides, mode=upscaler.mode, antialias=upscaler.antialias
        )
        return larger
    enlarge = upscaler.resized if isinstance(upscaler, PixelUpscaler) else upscaler
    pictures = [enlarge(each, second.size) for each in decode(model, drawn, 1)]
    return torch.cat([model.encode(as_tensor(each)[None])[0] for each in pictures]).to(model.device)


def _denoise(
    model: Model,
    requests: Sequence[Request],
    batch: slice,
    one: _Pass,
    start: sampling.Start | None,
    beside: torch.Tensor | None,
    ticks: Iterator[int],
    watch: Watch,
) -> torch.Tensor:
    """Takes a tick an evaluation. batch: which of all pictures these are."""
    generators = [torch.Generator("cpu").manual_seed(request.seed) for request in requests]
    height, width = (side // model.vae_scale_factor for side in one.size)
    shape = (model.latent_channels, height, width)
    noise = torch.stack(
        [
            _varied(torch.randn(shape, generator=each), request)
            for each, request in zip(generators, requests, strict=True)
        ]
    ).to(model.device)
    steps = one.sampler.run(noise, generators, start)
    seen, time = next(steps)
    control = _control(model, one, batch) if one.units else None
    guided = Guided(model, one.told[batch], beside, control, one.guided)
    for number, tick in enumerate(ticks):
        answer = guided(seen.to(model.dtype), time, number)
        watch(tick + 1, seen, answer, time)
        try:
            seen, time = steps.send(answer)
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
    start, beside = sampling.Start(_under(clean.to(model.device), small, requests), small), None
    if model.denoiser.config.in_channels == 2 * model.latent_channels + 1:
        under, _ = model.encode(pixels * (masks < 0.5))
        beside = torch.cat([small, under.to(model.device)], 1)
    return start, beside


def _under(clean: torch.Tensor, may_change: torch.Tensor, requests: Sequence[Request]) -> torch.Tensor:
    """Latents with what they begin with where they may change."""
    rows = [*clean]
    for number, request in enumerate(requests):
        if request.under != "picture":
            generator = torch.Generator("cpu").manual_seed(request.seed)
            other = torch.randn(clean.shape[1:], generator=generator) * (request.under == "noise")
            rows[number] = torch.where(may_change[number] > 0, other.to(clean), clean[number])
    return torch.stack(rows)


def _control(model: Model, one: _Pass, batch: slice) -> Control:
    pictures = []
    for shown in zip(*one.control[batch], strict=True):
        pictures.append(torch.stack([(as_tensor(each) + 1) / 2 for each in shown]).to(model.device))
    return Control(one.units, pictures, one.sampler.evaluations, one.sampler.each)


def _as_mask(request: Request, factor: int = 1) -> torch.Tensor:
    """1 where the picture may change, else 0; [1, h, w], for one latent pixel of `factor` pixels."""
    assert request.image
    mask = request.mask or Image.new("L", request.image.size, 255)
    mask = mask.resize((mask.width // factor, mask.height // factor), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(mask, dtype=np.float32) / 255).round()[None]


def _sampler(model: Model, settings: SamplingSettings, steps: int, skipped: int) -> sampling.Sampler:
    config, process, aligned = model.scheduler_config, model.family.process, model.family.aligned
    return sampling.sampler(settings.sampler, steps, config, process, settings.schedule, aligned, skipped)
