"""Backends that misbehave in every way that one can."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from tenshot.runtime.backend import Candidate, Job
from tenshot.runtime.flat_modules import Flat

WAYS = ("crashes", "raises", "hangs", "nan", "wrong", "dies")


def missing(where: torch.device) -> str:
    return ""


def candidates(where: torch.device) -> list[Candidate]:
    return [Candidate(__name__, "fp32", way) for way in os.environ.get("TENSHOT_TEST_WAYS", "").split()]


def build(job: Job, candidate: Candidate, folder: Path) -> None:
    if candidate.variant == "crashes":
        os.kill(os.getpid(), 11)
    if candidate.variant == "dies":
        os._exit(3)
    if candidate.variant == "raises":
        raise ValueError("cannot build this")
    if candidate.variant == "hangs":
        time.sleep(3600)


def load_program(folder: Path, candidate: Candidate, net: Flat, where: torch.device) -> Bad:
    return Bad(net, candidate.variant)


class Bad:
    """Fast, and not right."""

    def __init__(self, net: torch.nn.Module, way: str) -> None:
        self.net, self.factor = net, torch.nan if way == "nan" else 2.0
        self.answers: dict = {}

    def load(self, weights: object) -> None:
        self.answers.clear()

    @torch.no_grad()
    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        key = tuple(each.shape for each in inputs)
        if key not in self.answers:
            self.answers[key] = tuple(self.factor * each for each in self.net(*inputs))
        return self.answers[key]
