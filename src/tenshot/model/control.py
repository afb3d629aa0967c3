"""ControlNets at work: what they answer to control pictures, scaled by layer and row, for the UNet to add."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

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


@dataclass(frozen=True)
class Control:
    """The ControlNets of one batch. pictures: for each, of every row, [rows, 3, h, w] in 0..1.

    evaluations: of the denoiser; each: a step.
    """

    units: Sequence[Unit]
    pictures: Sequence[torch.Tensor]
    evaluations: int
    each: int = 1

    def __call__(
        self,
        seen: torch.Tensor,
        when: torch.Tensor,
        conditioning: Conditioning,
        rows: Sequence[int],
        prompted: Sequence[bool],
        number: int,
    ) -> Residuals | None:
        """For latents [n, ...] of pictures `rows` in evaluation `number`; None where no ControlNet works then."""
        step, steps = number // self.each, -(-self.evaluations // self.each)
        added: list[torch.Tensor] | None = None
        for unit, pictures in zip(self.units, self.pictures, strict=True):
            if not unit.works(step, steps):
                continue
            told = {"controlnet_cond": pictures[list(rows)].to(seen), "return_dict": False}
            down, middle = unit.net(seen, when, **conditioning, **told)
            scaled = [_scaled(each, unit, layer, prompted) for layer, each in enumerate((*down, middle))]
            added = scaled if added is None else [one + other for one, other in zip(added, scaled, strict=True)]
        return Residuals(tuple(added[:-1]), added[-1]) if added else None


def _scaled(answer: torch.Tensor, unit: Unit, layer: int, prompted: Sequence[bool]) -> torch.Tensor:
    scales = torch.tensor([unit.scale(layer, each) for each in prompted]).to(answer)
    return answer * scales.view(-1, 1, 1, 1)
