"""What a training method trains, and how that is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import nn

from tenshot.model.model import Model


class Trainable(Protocol):
    """What trains, and how it is kept.

    model: as it is now, with what was learned so far. parts: the modules whose parameters with requires_grad train.
    trains_text_encoder: the text encoder's answers change from step to step. saves_model: `save` writes the model
    itself, the weights that stay as they are, too.
    """

    model: Model
    parts: Mapping[str, nn.Module]
    trains_text_encoder: bool
    saves_model: bool

    def lr_multiplier(self, part: str, name: str) -> float:
        """A factor on the learning rate of one parameter."""
        ...

    def check(self, folder: Path) -> None:
        """Raises Refusal, before it is saved, where what was learned has no effect."""
        ...

    def save(self, folder: Path) -> None:
        """Write what was learned into `folder`, for others to open."""
        ...

    def verify(self, folder: Path) -> None:
        """Read back what was saved. Raises Refusal where it is not what was learned."""
        ...


def offload_unused(trainable: Trainable) -> None:
    """Release what no step needs: the VAE, and text encoders that stand still and are as they were opened."""
    base = trainable.model
    encoders = [net for net in base.family.nets if net.startswith("text_encoder")]  # also one that never learns
    base.offload("vae", *(() if trainable.trains_text_encoder or base.placeholder_tokens else encoders))
