"""What an adapter does to one of a model's tensors, in float32: the one place for it, wherever adapters are used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from math import prod
from typing import Any

import torch

from tenshot.core.errors import Fault
from tenshot.families.shapes import as_matrix

INSPECT = "tenshot inspect FILE says which family it is for"
BIAS = ".bias"
Layer = tuple[
    str, str
]  #: part, and the layer's name in diffusers; followed by .bias where it is about the layer's bias


def parameter(layer: str) -> str:
    """The name of the tensor that an addition to `layer` changes."""
    return layer if layer.endswith(BIAS) else f"{layer}.weight"


class Addition(ABC):
    """One layer's. A dataclass whose tensors are fields, or in fields that are such dataclasses themselves."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of what it can be added to, as far as it knows: [out, in, ...], [out], or [out, in x 3 x 3]."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """Of its factors; 0 where it has none."""

    @abstractmethod
    def fits(self, weight: Sequence[int]) -> bool:
        """Can it be added to a weight of this shape?"""

    @abstractmethod
    def change(self, weight: torch.Tensor, ratio: float = 1.0) -> torch.Tensor:
        """What it adds to a float32 `weight`, at `ratio`. Its own tensors are where the weight is."""

    @property
    def idle(self) -> bool:
        """Can it be told without a weight that it adds nothing?"""
        return False


class Difference(Addition):
    """An addition that does not depend on the weight, unless it has a magnitude.

    magnitude: of DoRA (arXiv 2402.09353), [out] or [out, 1, ...]; of inputs, as LyCORIS may have it, [1, in, ...].
    """

    alpha: float  #: its scale times the rank
    magnitude: torch.Tensor | None

    @abstractmethod
    def difference(self) -> torch.Tensor:
        """What it adds to the layer's weight, float32, in its own shape."""

    @property
    def idle(self) -> bool:
        """Is it a product in which a factor is zero?"""
        return self.magnitude is None and any(not bool(each.any()) for each in tensors(self))

    @property
    def by_input(self) -> bool:
        """Is the magnitude one of inputs?"""
        return self.magnitude is not None and self.magnitude.ndim > 1 and self.magnitude.shape[0] == 1

    def fits(self, weight: Sequence[int]) -> bool:
        sides = weight[1:2] if self.by_input else weight[:1]
        return alike(self.shape, weight) and (self.magnitude is None or [*sides] == [self.magnitude.numel()])

    def change(self, weight: torch.Tensor, ratio: float = 1.0) -> torch.Tensor:
        added = ratio * self.difference().reshape(weight.shape)
        if self.magnitude is None:
            return added
        new = weight + added
        axis = int(self.by_input)
        length: torch.Tensor = new.transpose(0, axis).flatten(1).norm(dim=1) + torch.finfo(new.dtype).eps
        sides = [-1 if place == axis else 1 for place in range(weight.ndim)]
        return (self.magnitude.to(new.dtype).flatten() / length).reshape(sides) * new - weight


def alike(mine: Sequence[int], weight: Sequence[int]) -> bool:
    """Is it the same shape, where a 1x1 kernel counts for nothing and a larger one may be flat, [out, in x 3 x 3]?"""
    return as_matrix(mine) in (as_matrix(weight), (weight[0], prod(weight[1:])))


def summed(weight: torch.Tensor, shares: Iterable[tuple[Addition, float]]) -> torch.Tensor:
    """`weight` with all of them, each at its ratio; 0 is as if it were not there. Float32: to be rounded once."""
    before = weight if weight.dtype == torch.float64 else weight.float()
    total = before
    for each, ratio in shares:
        if ratio:
            total = total + on(weight.device, each).change(before, ratio)
    return total


def tensors(part: Any) -> Iterator[torch.Tensor]:
    """Those of an addition, and of what it is made of."""
    for each in fields(part):
        value = getattr(part, each.name)
        if isinstance(value, torch.Tensor):
            yield value
        elif hasattr(value, "__dataclass_fields__"):
            yield from tensors(value)


def on(device: torch.device, part: Any) -> Any:
    """The same with its tensors on `device`."""
    moved: dict[str, object] = {}
    for each in fields(part):
        value = getattr(part, each.name)
        if isinstance(value, torch.Tensor):
            moved[each.name] = value.to(device)
        elif hasattr(value, "__dataclass_fields__"):
            moved[each.name] = on(device, value)
    return replace(part, **moved)


def misfits(place: str, found: Mapping[Layer, Addition], shapes: Mapping[Layer, Sequence[int]]) -> Iterator[Fault]:
    """What keeps the adapter at `place` from being added to a model whose tensors have these shapes."""
    strange = [f"{part} {layer}" for part, layer in found if (part, layer) not in shapes]
    if strange:
        told = f"{len(strange)} of its {len(found)} layers are not in the model: {', '.join(strange[:3])}"
        yield Fault(place, told, "a LoRA for this family and architecture", INSPECT)
        return
    wrong = [layer for layer, each in found.items() if not each.fits(shapes[layer])]
    if wrong:
        magnitude = getattr(found[wrong[0]], "magnitude", None)
        told = f" with a magnitude of {magnitude.numel()}" if magnitude is not None else ""
        first = f"{' '.join(wrong[0])}: {list(found[wrong[0]].shape)}{told}, the model has {list(shapes[wrong[0]])}"
        told = f"{len(wrong)} of its {len(found)} layers have other shapes: {first}"
        yield Fault(place, told, "a LoRA for this model", INSPECT)
