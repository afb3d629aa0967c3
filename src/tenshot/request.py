"""What is asked of a model that draws: a picture, and how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from PIL import Image

from tenshot.core.size import Size
from tenshot.diffusion import samplers
from tenshot.diffusion.upscalers import LATENT
from tenshot.model.control import Unit
from tenshot.model.model import Model
from tenshot.model.prompts import READING, Reading

Enlarger: TypeAlias = Callable[[Image.Image, Size], Image.Image]


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
