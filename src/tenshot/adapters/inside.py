"""Additions in the weights themselves, where peft has no layer to put beside; taking them off is exact.

What a weight was before is kept. The sum is in float32, and rounded once, as in a merged model.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from tenshot.adapters.addition import Addition

KEPT = "tenshot_additions"


@dataclass
class Kept:
    """before: the weight without any. added: name -> the addition, and how much it counts."""

    before: torch.Tensor
    added: dict[str, tuple[Addition, float]] = field(default_factory=dict)


def add(layer: nn.Module, name: str, addition: Addition) -> None:
    """Add to a layer's weight, under `name`."""
    layer = _plain(layer)
    kept = getattr(layer, KEPT, None) or Kept(_weight(layer).detach().clone())
    kept.added[name] = (addition, 1.0)
    setattr(layer, KEPT, kept)
    _apply(layer, kept)


def scale(layer: nn.Module, name: str, ratio: float) -> None:
    """How strongly what was added under `name` counts from now on, where there is such."""
    kept = getattr(layer, KEPT, None)
    if kept and name in kept.added:
        kept.added[name] = (kept.added[name][0], ratio)
        _apply(layer, kept)


@torch.no_grad()
def _apply(layer: nn.Module, kept: Kept) -> None:
    before = kept.before.float()
    total = before
    for addition, ratio in kept.added.values():
        total = total + addition.change(before, ratio) if ratio else total
    _weight(layer).copy_(total)


def _plain(layer: nn.Module) -> nn.Module:
    """The layer itself, where peft has put others beside it."""
    return getattr(layer, "base_layer", layer)


def _weight(layer: nn.Module) -> torch.Tensor:
    return layer.weight  # type: ignore[return-value]
