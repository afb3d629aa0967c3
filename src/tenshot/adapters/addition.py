"""What every adapter of a layer comes to: a difference that is added to the layer's weight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from math import prod

import torch

from tenshot.errors import Fault

INSPECT = "tenshot inspect FILE says which family it is for"
Layer = tuple[str, str]  #: part, and the layer's name in diffusers


class Addition(ABC):
    """One layer's.

    alpha: its scale times the rank.
    magnitude: of DoRA (arXiv 2402.09353), [out]; or, as LyCORIS writes it, [1, in, ...].
    """

    alpha: float
    magnitude: torch.Tensor | None

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """[out, in, ...] of the difference; its inner sides may be one, as in [out, in x 3 x 3]."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """Of its factors; 0 where it has none."""

    @abstractmethod
    def difference(self) -> torch.Tensor:
        """What it adds to the layer's weight, float32, in its own shape."""

    def fits(self, weight: Sequence[int]) -> bool:
        """Can it be added to a weight of this shape?"""
        mine, wanted = (shape[:2] if tuple(shape[2:]) == (1, 1) else tuple(shape) for shape in (self.shape, weight))
        return tuple(mine) == tuple(wanted) or tuple(mine) == (wanted[0], prod(wanted[1:]))

    def change(self, weight: torch.Tensor, ratio: float = 1.0) -> torch.Tensor:
        """What it adds to `weight`, float32, at `ratio`; with a magnitude (DoRA) that depends on the weight."""
        added = ratio * self.difference().to(weight.device).reshape(weight.shape)
        if self.magnitude is None:
            return added
        new = weight + added
        by_input = self.magnitude.ndim > 1 and self.magnitude.shape[0] == 1
        axis = 1 if by_input else 0
        length = new.transpose(0, axis).flatten(1).norm(dim=1)
        sides = [-1 if place == axis else 1 for place in range(weight.ndim)]
        return (self.magnitude.to(weight.device).float().flatten() / length).reshape(sides) * new - weight


def misfits(place: str, found: Mapping[Layer, Addition], shapes: Mapping[Layer, Sequence[int]]) -> Iterator[Fault]:
    """What keeps the adapter at `place` from being added to a model whose weights have these shapes."""
    strange = [f"{part} {layer}" for part, layer in found if (part, layer) not in shapes]
    if strange:
        told = f"{len(strange)} of its {len(found)} layers are not in the model: {', '.join(strange[:3])}"
        yield Fault(place, told, "a LoRA for this family and architecture", INSPECT)
        return
    for layer, each in found.items():
        if not each.fits(shapes[layer]):
            told = f"{' '.join(layer)}: {list(each.shape)}, the model has {list(shapes[layer])}"
            yield Fault(place, told, "a LoRA for this model", INSPECT)
            return
