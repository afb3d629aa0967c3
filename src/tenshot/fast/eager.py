"""torch itself, in its best memory layout, in float32, bfloat16 or float16."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tenshot import device
from tenshot.device import DTYPES
from tenshot.fast.backend import Candidate, Job
from tenshot.fast.parts import Flat

CHANNELS_LAST = "channels_last"


def missing(where: torch.device) -> str:
    return ""


def candidates(where: torch.device) -> list[Candidate]:
    """float32 as it is, and channels last in whatever the device computes natively."""
    half = ["fp16", "bf16"] if where.type == "cuda" else ["bf16"] if device.bf16_is_native() else []
    return [Candidate("eager", "fp32"), *(Candidate("eager", each, CHANNELS_LAST) for each in ("fp32", *half))]


def build(job: Job, candidate: Candidate, folder: Path) -> None:
    """Nothing to write: torch runs the net as it is."""


def open(folder: Path, candidate: Candidate, net: Flat, where: torch.device) -> Eager:
    return Eager(net, candidate, where)


class Eager:
    """Runs a copy of the net."""

    def __init__(self, net: Flat, candidate: Candidate, where: torch.device) -> None:
        self.dtype = DTYPES[candidate.precision]
        layout = torch.channels_last if candidate.variant == CHANNELS_LAST else torch.preserve_format
        mine: Any = copy.deepcopy(net)  # whose type does not know memory_format
        self.net: Flat = mine.to(where, self.dtype, memory_format=layout)

    @torch.no_grad()
    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        cast = (each.to(self.dtype) if each.is_floating_point() else each for each in inputs)
        return tuple(each.float() for each in self.net(*cast))

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        self.net.load(weights)
