"""The weights that a fast model runs with: a pristine base plus what LoRAs add, always made from the base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tenshot.adapters.addition import Addition, Layer
from tenshot.checkpoints.whole import Whole
from tenshot.errors import Fault

LEGACY = "text_model."  # what some versions of transformers put before the names of a text encoder
Share = tuple[Mapping[Layer, Addition], float]


@dataclass(frozen=True)
class Stack:
    """base: not read yet, so that it takes no memory. loras: what each adds, and how strongly it counts."""

    base: Whole
    loras: tuple[Share, ...] = ()

    def names(self, part: str) -> set[str]:
        """The weights of a part that LoRAs change."""
        return {f"{layer}.weight" for found, _ in self.loras for own, layer in found if own == part}

    def read(self, part: str, name: str) -> torch.Tensor:
        """One weight: summed in float32, from the base's own numbers."""
        weight = self.base.parts[part][name].read().float()
        layer = (part, name.removesuffix(".weight"))
        changes = [found[layer].change(weight, ratio) for found, ratio in self.loras if layer in found]
        return sum(changes, weight)


def settle(parts: Mapping[str, Any], new: Stack, old: Stack | None = None) -> set[str]:
    """Make the weights of `parts` those of `new`; old: what they are now, if that is known. The parts that changed."""
    changed = set()
    for part in new.base.parts:
        names = None
        if old is not None and old.base is new.base:
            names = old.names(part) | new.names(part)
        with torch.no_grad():
            for name, tensor in own(parts[part]).items():
                if names is None or name in names:
                    tensor.copy_(new.read(part, name))
                    changed.add(part)
    return changed


def own(net: Any) -> dict[str, torch.Tensor]:
    """A part's weights under the names that files know."""
    return {name.removeprefix(LEGACY): tensor for name, tensor in net.named_parameters()}


def strangers(parts: Mapping[str, Any], base: Whole) -> Iterator[Fault]:
    """What keeps `base` from taking the place of the weights of `parts`: names, shapes, kinds of numbers."""
    for part, content in base.parts.items():
        wanted = {name: tuple(tensor.shape) for name, tensor in own(parts[part]).items()} if part in parts else {}
        odd = [name for name, shape in wanted.items() if name not in content or content[name].shape != shape]
        odd += [name for name in content.keys() - wanted.keys() if content[name].dtype.is_floating_point]
        odd += [name for name in wanted.keys() & content.keys() if not content[name].dtype.is_floating_point]
        if odd:
            found = f"{part}: {len(odd)} weights are not as in the compiled model: {', '.join(sorted(odd)[:3])}"
            yield Fault(str(base.place), found, "a model of the same architecture", "or compile this one")
