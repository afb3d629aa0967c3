"""Weights in eight bits: whole numbers, and a scale for each output channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch

LAST = 127  # the largest whole number; -128 is not used, so that both sides are alike
LEVELS = 2 * LAST + 1


@dataclass(frozen=True)
class Int8Weight:
    """A weight that is kept so. whole, scale: the names of the constants whose product it is.

    scale [count, ...]: LAST of it are `factor` times the largest magnitude in each output channel, or in all where
    count is 1.
    """

    weight: str
    whole: str
    scale: str
    factor: float
    count: int

    def rounded(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The whole numbers [count, ...] and their scale [count]."""
        scale = self.factor * largest(weight, self.count) / LAST
        rows = weight.detach().float().reshape(self.count, -1)
        return (rows / scale[:, None]).round_().clamp_(-LAST, LAST).to(torch.int8), scale


def largest(weight: torch.Tensor, count: int) -> torch.Tensor:
    """The largest magnitude in each of `count` output channels, or in all of the weight: [count], never 0."""
    rows = weight.detach().float().reshape(count, -1)
    return rows.abs().amax(dim=1).clamp_min(1e-12)
