"""A model draws pictures: noise from seeds, guided denoising, decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from tenshot.diffusion import samplers
from tenshot.events import Events, watched
from tenshot.families import family
from tenshot.files.pictures import as_image
from tenshot.model import Model


@dataclass(frozen=True)
class Request:
    """One picture to draw. The same request gives the same picture, alone or in a batch."""

    prompt: str
    seed: int
    negative: str = ""


@dataclass(frozen=True)
class Settings:
    """How to draw. size: (height, width) in pixels, or None for the model's own; guidance: 1 means none."""

    sampler: str = "Euler a"
    steps: int = 20
    guidance: float = 7.5
    size: tuple[int, int] | None = None
    batch: int = 4

    def size_for(self, model: Model) -> tuple[int, int]:
        return self.size or (model.resolution, model.resolution)


@torch.inference_mode()
def latents(
    model: Model, requests: Sequence[Request], settings: Settings, events: Events | None = None, job: str = "drawing"
) -> torch.Tensor:
    """Clean latents as the UNet knows them (scaled), float32 [requests, 4, h/8, w/8], on the CPU."""
    size = settings.size_for(model)
    texts = sorted({text for request in requests for text in (request.prompt, request.negative)})
    states = model.condition(texts, size)
    groups = list(_groups(requests, settings.batch))
    done = []
    for group in watched(groups, job, len(groups), events or Events()):
        rows = [torch.tensor([texts.index(getattr(r, side)) for r in group]) for side in ("negative", "prompt")]
        conditions = [family.batched(states, each.to(model.device)) for each in rows]
        done.append(_denoise(model, [request.seed for request in group], conditions, settings, size))
    return torch.cat(done)


@torch.inference_mode()
def pictures(
    model: Model, requests: Sequence[Request], settings: Settings, events: Events | None = None, job: str = "drawing"
) -> list[Image.Image]:
    """One RGB picture for each request."""
    return decode(model, latents(model, requests, settings, events, job), settings.batch)


@torch.inference_mode()
def decode(model: Model, scaled: torch.Tensor, batch: int = 4) -> list[Image.Image]:
    """Scaled latents [n, 4, h/8, w/8] as pictures."""
    vae = model["vae"]
    plain = scaled.to(vae.device, vae.dtype) / vae.config.scaling_factor
    return [as_image(tensor.float().cpu()) for part in plain.split(batch) for tensor in vae.decode(part).sample]


def _groups(requests: Sequence[Request], size: int) -> list[list[Request]]:
    return [list(requests[start : start + size]) for start in range(0, len(requests), size)]


def _denoise(model: Model, seeds: list[int], conditions, settings: Settings, size: tuple[int, int]) -> torch.Tensor:
    unet, guided = model["unet"], settings.guidance != 1
    scheduler = samplers.scheduler(settings.sampler, model.schedule)
    scheduler.set_timesteps(settings.steps)
    dice = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    shape = (unet.config.in_channels, size[0] // model.factor, size[1] // model.factor)
    x = torch.stack([torch.randn(shape, generator=die) for die in dice]) * scheduler.init_noise_sigma
    condition = family.joined(*conditions) if guided else conditions[1]
    takes_dice = "generator" in scheduler.step.__code__.co_varnames
    for timestep in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, timestep).to(model.device, model.dtype)
        answer = unet(torch.cat([seen, seen]) if guided else seen, timestep, **condition).sample.float().cpu()
        if guided:
            without, with_prompt = answer.chunk(2)
            answer = without + settings.guidance * (with_prompt - without)
        x = scheduler.step(answer, timestep, x, **({"generator": dice} if takes_dice else {})).prev_sample
    return x
