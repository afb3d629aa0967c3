"""ControlNets at work: what they answer to control pictures, scaled by layer and row, for the UNet to add."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch

from tenshot.families.base import Conditioning
from tenshot.families.components import Net

Mode = Literal["balanced", "prompt", "control"]  #: what counts more, where prompt and control picture disagree
SOFT, DEPTH = 0.825, 12  # as WebUI has it: the answer with number i counts .825 ** (12 - i) times, unless balanced


class Residuals(NamedTuple):
    """What the UNet adds to what its blocks on the way down say, and to the middle block's."""

    down: tuple[torch.Tensor, ...]
    middle: torch.Tensor


@dataclass(frozen=True)
class Unit:
    """A ControlNet, and how much it counts. start, end: the part of the steps in which it does, as shares of them.

    mode: prompt: its first layers count less; control: so they do, and rows without the prompt do not hear it at all.
    """

    net: Net
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    mode: Mode = "balanced"

    def works(self, step: int, steps: int) -> bool:
        return step / steps >= self.start and (step + 1) / steps <= self.end

    def idle(self, steps: int) -> bool:
        """Does it change nothing in so many steps?"""
        return not self.weight or not any(self.works(step, steps) for step in range(steps))

    def scale(self, layer: int, prompted: bool) -> float:
        """How much its answer with this number counts; the middle block's is the last."""
        if self.mode == "control" and not prompted:
            return 0.0
        return self.weight * (1.0 if self.mode == "balanced" else SOFT ** (DEPTH - layer))


#: The ControlNets at work in an evaluation, and what each is shown, [1, 3, h, w] in 0..1.
Shown: TypeAlias = Sequence[tuple[Unit, torch.Tensor]]


@dataclass(frozen=True)
class Control:
    """The ControlNets of one picture. pictures: for each, [1, 3, h, w] in 0..1.

    evaluations: of the denoiser; each: a step.
    """

    units: Sequence[Unit]
    pictures: Sequence[torch.Tensor]
    evaluations: int
    each: int = 1

    def at(self, number: int) -> Shown:
        """Of evaluation `number`."""
        step, steps = number // self.each, -(-self.evaluations // self.each)
        pairs = zip(self.units, self.pictures, strict=True)
        return [(unit, picture) for unit, picture in pairs if unit.works(step, steps)]


def residuals(
    seen: torch.Tensor,
    times: torch.Tensor,
    conditioning: Conditioning,
    shown: Sequence[Shown],
    prompted: Sequence[bool],
) -> Residuals | None:
    """For latents [n, ...] at `times`, a time for each; None where no ControlNet works.

    shown: of every row; all have the same nets in the same order. prompted: do rows have the prompt?
    """
    added: list[torch.Tensor] | None = None
    for unit_of_each in zip(*shown, strict=True):
        units, pictures = zip(*unit_of_each, strict=True)
        told = {"controlnet_cond": torch.cat(pictures).to(seen), "return_dict": False}
        down, middle = units[0].net(seen, times, **conditioning, **told)
        scaled = [_scaled(each, units, layer, prompted) for layer, each in enumerate((*down, middle))]
        added = scaled if added is None else [one + other for one, other in zip(added, scaled, strict=True)]
    return Residuals(tuple(added[:-1]), added[-1]) if added else None


def _scaled(answer: torch.Tensor, units: Sequence[Unit], layer: int, prompted: Sequence[bool]) -> torch.Tensor:
    scales = [unit.scale(layer, each) for unit, each in zip(units, prompted, strict=True)]
    return answer * torch.tensor(scales).to(answer).view(-1, 1, 1, 1)
