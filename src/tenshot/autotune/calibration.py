"""What a model's parts see and answer while it draws real pictures: on that, candidates are checked and calibrated."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import Any

import torch
from PIL import Image

from tenshot import pipeline
from tenshot.core.events import Events
from tenshot.families.components import Net
from tenshot.io.images import as_tensor
from tenshot.model.control import Unit
from tenshot.model.model import Model
from tenshot.pipeline import Request, SamplingSettings
from tenshot.runtime import wrappers
from tenshot.runtime.flat_modules import CONTROLLED, SECTIONS, Flat, flat

Tensors = tuple[torch.Tensor, ...]
MOST = 8  # calls of a section that are kept


@dataclass
class Calls:
    """What went in and came out, each float32 or int64 with the batch first."""

    inputs: list[Tensors] = field(default_factory=list)
    outputs: list[Tensors] = field(default_factory=list)

    def spread(self, most: int = MOST) -> Calls:
        """At most `most` of them, from the whole way, the first and the last among them."""
        count = len(self.inputs)
        most = min(most, count)
        kept = [round(place * (count - 1) / max(1, most - 1)) for place in range(most)]
        return Calls([self.inputs[n] for n in kept], [self.outputs[n] for n in kept])


class Recorder:
    """Stands where programs stand, lets torch answer and remembers."""

    def __init__(self, net: Flat) -> None:
        self.net, self.calls = net, Calls()

    def __call__(self, *inputs: torch.Tensor) -> Tensors:
        with torch.no_grad():
            outputs: Tensors = self.net(*inputs)
        self.calls.inputs.append(tuple(each.cpu().clone() for each in inputs))
        self.calls.outputs.append(tuple(each.float().cpu().clone() for each in outputs))
        return outputs


def sections(opened: Model) -> list[str]:
    """Every section that this model has."""
    found = [name for name, part in SECTIONS.items() if part in opened.parts]
    return found if "controlnet" in opened.parts else [name for name in found if name not in CONTROLLED]


def record(
    opened: Model, prompts: Sequence[str], settings: SamplingSettings, events: Events, until: float = math.inf
) -> tuple[dict[str, Calls], list[Image.Image]]:
    """What every section of `opened` did while it drew `prompts`, a seed each, as torch does it; and the pictures.

    until: by time.monotonic; once it has passed, no further batch is begun.
    """
    heard = {name: Recorder(flat(name, opened[SECTIONS[name]])) for name in sections(opened)}
    listened = {part: _listened(opened[part], part, heard) for part in {*SECTIONS.values()} & opened.parts.keys()}
    spoken = opened.with_parts(**listened)
    requests = asked(prompts, settings.batch)
    pictures = []
    with closing(pipeline.stream(spoken, requests, settings, events, "drawing what errors are measured on")) as drawn:
        for picture in drawn:
            pictures.append(picture)
            if len(pictures) % settings.batch == 0 and time.monotonic() > until:
                break
    if "encoder" in heard:
        _encode(spoken, pictures, settings.batch)
    if "controlnet" in heard:
        controlled = replace(settings, control=(Unit(spoken["controlnet"]),))
        shown = [replace(each, control=(edges(pictures[0]),)) for each in requests[: settings.batch]]
        pipeline.latents(spoken, shown, controlled, events, "drawing with the ControlNet")
    return {name: recorder.calls.spread() for name, recorder in heard.items()}, pictures


def asked(prompts: Sequence[str], batch: int) -> list[Request]:
    """A picture of each prompt with a seed of its own, and as many more as fill the last batch."""
    count = -(-len(prompts) // batch) * batch
    return [Request(prompt, seed) for seed, prompt in zip(range(count), cycle(prompts), strict=False)]


def _listened(part: Net, name: str, heard: Mapping[str, Any]) -> Net:
    return wrappers.standing_in(part, {section: heard[section] for section in heard if SECTIONS[section] == name})


def _encode(spoken: Model, pictures: Sequence[Image.Image], batch: int) -> None:
    pixels = torch.stack([as_tensor(image) for image in pictures])
    vae = spoken.vae
    with torch.no_grad():
        for part in pixels.split(batch):
            vae.encode(part.to(vae.device, vae.dtype))


def edges(picture: Image.Image) -> Image.Image:
    """Where a picture's brightness changes, white on black, as ControlNets for edges see it."""
    grey = as_tensor(picture.convert("RGB")).mean(0)
    across, down = grey.diff(dim=1, prepend=grey[:, :1]).abs(), grey.diff(dim=0, prepend=grey[:1]).abs()
    return Image.fromarray(((across + down) > 0.2).numpy()).convert("RGB")
