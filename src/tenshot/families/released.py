"""The layers of the released models: what an adapter is compared with that comes without its model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from tenshot.families import conversion, keymaps, registry


@cache
def layers(family: str) -> Mapping[tuple[str, str], tuple[int, ...]]:
    """Part and layer -> the shape of its weight, and of its bias, in the family of that name."""
    made = next(each for each in registry.FAMILIES if each.name == family)
    return {
        (part, tensor.removesuffix(".weight")): shape
        for part, config in made.released.items()
        for tensor, shape in conversion.skeleton(made.parts[part], config).items()
        if tensor.endswith((".weight", ".bias"))
    }


@cache
def modules() -> Mapping[str, str]:
    """Original names of a UNet's modules -> ours. A name that several families have means the same in each."""
    unets = [keymaps.unet_modules(family.released["unet"]) for family in registry.FAMILIES if "unet" in family.parts]
    return {theirs: ours for unet in unets for ours, theirs in unet.items()}
