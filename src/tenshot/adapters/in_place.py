"""Additions in a net's own tensors; taking them off is exact, as what a tensor was before is kept.

The sum is in float32 and rounded once, as in a merged model.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from tenshot.adapters.weight_delta import Addition, summed

KEPT = "tenshot_additions"


@dataclass
class Original:
    """before: the tensor without any, in main memory. added: name -> the addition, and how much it counts."""

    before: torch.Tensor
    added: dict[str, tuple[Addition, float]] = field(default_factory=dict)


def add(module: nn.Module, tensor: str, name: str, addition: Addition, ratio: float = 1.0) -> None:
    """Add to the `tensor` ("weight" or "bias") of a module, under `name`."""
    module = getattr(module, "base_layer", module)  # where peft has put others beside it
    everything = module.__dict__.setdefault(KEPT, {})
    kept = everything.setdefault(tensor, Original(getattr(module, tensor).detach().cpu().clone()))
    kept.added[name] = (addition, ratio)
    _apply(module, tensor, kept)


def scale(module: nn.Module, name: str, ratio: float) -> None:
    """How strongly what was added under `name` counts from now on, where there is such."""
    for tensor, kept in module.__dict__.get(KEPT, {}).items():
        if name in kept.added and kept.added[name][1] != ratio:
            kept.added[name] = (kept.added[name][0], ratio)
            _apply(module, tensor, kept)


@torch.no_grad()
def _apply(module: nn.Module, tensor: str, kept: Original) -> None:
    weight = getattr(module, tensor)
    weight.copy_(summed(kept.before.to(weight.device), kept.added.values()))
