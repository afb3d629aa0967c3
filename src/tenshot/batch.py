"""Pictures that are drawn at once, each at a step of its own: others join and leave between the steps."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image

from tenshot.core.errors import Fault, Refusal
from tenshot.core.size import Size
from tenshot.diffusion import sampling
from tenshot.diffusion.upscalers import LATENT, UPSCALERS, LatentUpscaler, PixelUpscaler
from tenshot.io.images import as_image, as_tensor
from tenshot.model.control import Control, Unit
from tenshot.model.guidance import Row, Told, guided
from tenshot.model.model import Model
from tenshot.model.prompts import Prompts, Reading
from tenshot.request import Enlarger, Request, SamplingSettings

#: Yields what the denoiser is asked, is sent its answer, and returns clean latents; all of one picture, [1, ...].
Way: TypeAlias = Generator[Row, torch.Tensor, torch.Tensor]
KINDS = 16  # of pictures, for which texts that were read are kept in mind


@dataclass(frozen=True)
class Pass:
    """One way from noise to clean latents. size: in pixels. steps: as prompts that change count them.

    before: those of an earlier pass. units: the ControlNets that are asked. upscaler: of what it begins with, in a
    second pass.
    """

    size: Size
    sampler: sampling.Sampler
    steps: int
    units: Sequence[Unit]
    interval: tuple[float, float]
    before: int = 0
    upscaler: str | Enlarger = LATENT

    @property
    def led(self) -> range:
        """The evaluations with guidance; counted as diffusers' guiders count."""
        steps = -(-self.sampler.evaluations // self.sampler.each)
        start, end = (int(share * steps) * self.sampler.each for share in self.interval)
        return range(start, end)


def passes(model: Model, settings: SamplingSettings) -> list[Pass]:
    """One, or two."""
    sampler = _sampler(model, settings, settings.steps, sampling.skipped(settings.steps, settings.strength))
    size, steps = settings.size_for(model), settings.steps * sampler.each  # as WebUI counts, twice where it asks twice
    first = Pass(size, sampler, steps, settings.control, settings.interval)
    if (second := settings.second) is None:
        return [first]
    made = second.steps or settings.steps
    whole = sampling.stretched(made, second.strength)
    sampler = _sampler(model, settings, whole, whole - made)
    more = (made * sampler.each, second.control, settings.interval, steps, second.upscaler)
    return [first, Pass(second.size, sampler, *more)]


class Drawing:
    """A picture of a batch. row: what the denoiser is asked next. done, total: evaluations of the denoiser."""

    def __init__(self, way: Way, total: int) -> None:
        self._way, self.total, self.done = way, total, 0
        self.row = next(way)
        self._latents: torch.Tensor | None = None
        self._last: tuple[Row, torch.Tensor] | None = None

    def hear(self, answer: torch.Tensor) -> None:
        """What the denoiser answered."""
        self._last, self.done = (self.row, answer), self.done + 1
        try:
            self.row = self._way.send(answer)
        except StopIteration as end:
            self._latents = end.value

    @property
    def over(self) -> bool:
        return self._latents is not None

    @property
    def latents(self) -> torch.Tensor:
        """Clean, [1, ...], once it is over."""
        assert self._latents is not None
        return self._latents

    def clean(self, model: Model) -> torch.Tensor:
        """What the denoiser believed the picture to be when it was asked last, [1, ...]."""
        assert self._last
        row, answer = self._last
        return model.process.signal(row.seen, answer, row.time)


class Batch:
    """drawings: those under way. All are drawn with the weights that the model had when the batch was made.

    Sampler, steps, guidance, size and ControlNets are each picture's own; what has the same shape is asked at once.
    """

    def __init__(self, model: Model) -> None:
        self.model = model.snapshot()
        self.drawings: list[Drawing] = []
        self._prompts: dict[tuple[Size, int, Reading, int], Prompts] = {}

    @torch.no_grad()
    def join(self, requests: Sequence[Request], settings: SamplingSettings) -> list[Drawing]:
        """One for each request, under way from the next step on."""
        ways = passes(self.model, settings)
        if len(ways) > 1 and any(request.image for request in requests):
            raise ValueError("a second pass is drawn of what was drawn from noise, not of pictures to begin with")
        joined = []
        for request in requests:
            told = [self._told(request, each, settings) for each in ways]
            total = sum(each.sampler.evaluations for each in ways)
            joined.append(Drawing(_way(self.model, request, ways, told), total))
        self.drawings += joined
        return joined

    def leave(self, drawing: Drawing) -> None:
        """It is not drawn any further."""
        self.drawings.remove(drawing)

    @torch.no_grad()
    def step(self) -> list[Drawing]:
        """One evaluation of the denoiser for each; those that are over leave, and come back."""
        answers = guided(self.model, [each.row for each in self.drawings])
        for each, answer in zip(self.drawings, answers, strict=True):
            each.hear(answer)
        over = [each for each in self.drawings if each.over]
        self.drawings = [each for each in self.drawings if not each.over]
        return over

    def _told(self, request: Request, one: Pass, settings: SamplingSettings) -> Told:
        kind = (one.size, one.steps, settings.reading, one.before)
        if kind not in self._prompts:
            self._prompts = self._prompts if len(self._prompts) < KINDS else {}
            self._prompts[kind] = Prompts(self.model, *kind)
        prompts = self._prompts[kind]
        said = [(weight * settings.guidance, told) for weight, told in prompts.positive(request.prompt)]
        led = [weight for weight, _ in said] != [1]
        return Told(said, prompts.negative(request.negative) if led else None)


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


def _way(model: Model, request: Request, ways: Sequence[Pass], told: Sequence[Told]) -> Way:
    """told: in each pass."""
    latents: torch.Tensor | None = None
    for one, said in zip(ways, told, strict=True):
        if latents is None:
            (start, beside), seen_by_nets = _start(model, request), request.control
        else:
            (start, beside), seen_by_nets = (sampling.Start(_enlarged(model, latents, one)), None), request.enlarged
        control = _control(model, one, seen_by_nets) if one.units else None
        generator = torch.Generator("cpu").manual_seed(request.seed)
        shape = (model.latent_channels, *(side // model.vae_scale_factor for side in one.size))
        noise = _varied(torch.randn(shape, generator=generator), request)[None].to(model.device)
        steps = one.sampler.run(noise, [generator], start)
        seen, time = next(steps)
        for number in count():
            answer = yield Row(said, seen, time, number, beside, control, number in one.led)
            try:
                seen, time = steps.send(answer)
            except StopIteration as end:
                latents = end.value
                break
    assert latents is not None
    return latents


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


def _start(model: Model, request: Request) -> tuple[sampling.Start | None, torch.Tensor | None]:
    """What drawing begins with; and what inpainting models (9 channels) see beside, the mask and what is under it."""
    if request.image is None:
        return None, None
    pixels = as_tensor(request.image)[None]
    clean = model.encode(pixels)[0].to(model.device)
    if request.mask is None:
        return sampling.Start(clean), None
    small = _as_mask(request.mask, model.vae_scale_factor).to(model.device)
    start, beside = sampling.Start(_under(clean, small, request), small), None
    if model.denoiser.config.in_channels == 2 * model.latent_channels + 1:
        under, _ = model.encode(pixels * (_as_mask(request.mask) < 0.5))
        beside = torch.cat([small, under.to(model.device)], 1)
    return start, beside


def _under(clean: torch.Tensor, may_change: torch.Tensor, request: Request) -> torch.Tensor:
    """Latents with what they begin with where they may change."""
    if request.under == "picture":
        return clean
    generator = torch.Generator("cpu").manual_seed(request.seed)
    other = torch.randn(clean.shape, generator=generator) * (request.under == "noise")
    return torch.where(may_change > 0, other.to(clean), clean)


def _as_mask(mask: Image.Image, factor: int = 1) -> torch.Tensor:
    """1 where the picture may change, else 0; [1, 1, h, w], for one latent pixel of `factor` pixels."""
    small = mask.resize((mask.width // factor, mask.height // factor), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(small, dtype=np.float32) / 255).round()[None, None]


def _enlarged(model: Model, drawn: torch.Tensor, second: Pass) -> torch.Tensor:
    """What the second pass begins with."""
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


def _control(model: Model, one: Pass, shown: Sequence[Image.Image]) -> Control:
    pictures = [((as_tensor(each) + 1) / 2)[None].to(model.device) for each in shown]
    return Control(one.units, pictures, one.sampler.evaluations, one.sampler.each)


def _sampler(model: Model, settings: SamplingSettings, steps: int, skipped: int) -> sampling.Sampler:
    config, process, aligned = model.scheduler_config, model.family.process, model.family.aligned
    return sampling.sampler(settings.sampler, steps, config, process, settings.schedule, aligned, skipped)
