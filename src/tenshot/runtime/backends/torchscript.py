"""TorchScript: what torch.jit.trace recorded of one call. The file has every weight as a single number, spread out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tenshot.core import device
from tenshot.core.device import DTYPES
from tenshot.runtime.backend import Candidate, Job
from tenshot.runtime.backends.eager import CHANNELS_LAST
from tenshot.runtime.flat_modules import Cast, Flat

RECORD = "net.pt"


def missing(where: torch.device) -> str:
    return ""


def candidates(where: torch.device) -> list[Candidate]:
    halves = (Candidate("torchscript", each, CHANNELS_LAST) for each in device.halves(where))
    return [Candidate("torchscript", "fp32"), *halves]


@torch.no_grad()
def build(job: Job, candidate: Candidate, folder: Path) -> None:
    example = job.examples[0]
    net = _cast(job.net, candidate, example[0].device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shapes are fixed, as they are meant to be
        record: Any = torch.jit.trace(net, example, check_trace=False)
        for mine in record.parameters():
            mine.set_(mine.new_zeros(1).expand(mine.shape))
        torch.jit.save(record, folder / RECORD)


def load_program(folder: Path, candidate: Candidate, net: Flat, where: torch.device) -> TorchScript:
    return TorchScript(folder, _cast(net, candidate, where), where)


def _cast(net: Flat, candidate: Candidate, where: torch.device) -> Cast:
    return Cast(net, DTYPES[candidate.precision], where, channels_last=candidate.variant == CHANNELS_LAST)


class TorchScript:
    """Runs the record with the weights of a copy of the net."""

    def __init__(self, folder: Path, net: Cast, where: torch.device) -> None:
        self.net = net
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.record: Any = torch.jit.load(folder / RECORD, map_location=where)
        places = dict(self.record.named_parameters())
        with torch.no_grad():
            for name, mine in net.named_parameters():
                places[name].set_(mine)  # one memory for both

    @torch.no_grad()
    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        answer: tuple[torch.Tensor, ...] = self.record(*inputs)
        return answer

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        self.net.net.load(weights)
