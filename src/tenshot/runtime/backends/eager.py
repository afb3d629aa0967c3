"""torch itself, in its best memory layout, in float32, bfloat16 or float16."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from tenshot.core import device
from tenshot.core.device import DTYPES
from tenshot.runtime.backend import Candidate, Job
from tenshot.runtime.flat_modules import Cast, Flat

CHANNELS_LAST = "channels_last"


def missing(where: torch.device) -> str:
    return ""


def candidates(where: torch.device) -> list[Candidate]:
    """float32 as it is, and channels last in whatever the device computes natively."""
    channels_last = (Candidate("eager", each, CHANNELS_LAST) for each in ("fp32", *device.halves(where)))
    return [Candidate("eager", "fp32"), *channels_last]


def build(job: Job, candidate: Candidate, folder: Path) -> None:
    """Nothing to write: torch runs the net as it is."""


def load_program(folder: Path, candidate: Candidate, net: Flat, where: torch.device) -> Eager:
    return Eager(net, candidate, where)


class Eager:
    """Runs a copy of the net."""

    def __init__(self, net: Flat, candidate: Candidate, where: torch.device) -> None:
        self.net = Cast(net, DTYPES[candidate.precision], where, channels_last=candidate.variant == CHANNELS_LAST)

    @torch.no_grad()
    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        answer: tuple[torch.Tensor, ...] = self.net(*inputs)
        return answer

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        self.net.net.load(weights)
