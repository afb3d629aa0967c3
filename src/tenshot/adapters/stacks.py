"""Factors of layers that a file of the original layout has in another form: one below the other, or halves swapped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch

from tenshot.adapters.factors import Factors
from tenshot.adapters.weight_delta import Addition, Difference, Layer
from tenshot.core.errors import Fault, Refusal
from tenshot.families import keymaps, registry
from tenshot.families.keymaps import Form
from tenshot.families.programs import OriginalLayers

NONE: tuple[tuple[str, ...], Form] = ((), "same")


@dataclass(frozen=True)
class Rows(Difference):
    """A layer's part of what is added to an original layer, where factors cannot say it: LoHa, LoKr, differences.

    whole: the original layer's; place: which of its `parts`.
    """

    whole: Difference
    form: Form
    place: int
    parts: int
    alpha: float
    magnitude: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.whole.shape[0] // self.parts, *self.whole.shape[1:])

    @property
    def rank(self) -> int:
        return self.whole.rank

    def difference(self) -> torch.Tensor:
        return keymaps.ours_of(self.form, self.whole.difference(), self.parts)[self.place]


def theirs(form: Form, ours: Sequence[Factors | None], rows: Sequence[int]) -> Factors | None:
    """Ours as the original layout has them, exactly. rows: of each layer's weight; a layer without factors is None.

    None where that cannot be said: some layers have a magnitude and others none, or it is one of columns.
    """
    there = [each for each in ours if each is not None]
    if form != "stacked":
        return _swapped(there[0]) if form == "swapped" else there[0]
    if any(each.by_input for each in there):
        return None
    if len({each is not None and each.magnitude is not None for each in ours}) > 1:
        return None
    rank = sum(each.rank for each in there)
    up = there[0].up.new_zeros(sum(rows), rank, *there[0].up.shape[2:])
    starts, column = [0, *accumulate(rows)], 0
    for start, each in zip(starts, ours, strict=False):
        if each is not None:
            here = up[start : start + each.up.shape[0], column : column + each.rank]
            # One alpha has to do for all: what scales differ by is in the numbers.
            same = each.scale == there[0].scale
            here.copy_(each.up if same else each.up * (each.scale / there[0].scale))
            column += each.rank
    down = torch.cat([each.down for each in there])
    magnitudes = [each.magnitude.flatten() for each in there if each.magnitude is not None]
    return Factors(down, up, there[0].scale * rank, torch.cat(magnitudes) if magnitudes else None)


def ours(form: Form, each: Difference, parts: int) -> list[Difference]:
    """The original layout's additions as ours; factors without the ranks that have no part in a layer."""
    if form not in ("swapped", "stacked"):
        return [each]
    if isinstance(each, Factors) and form == "swapped":
        return [_swapped(each)]
    magnitudes: Sequence[torch.Tensor | None] = [None] * parts
    if each.magnitude is not None:
        turned = _halves(each.magnitude) if form == "swapped" and not each.by_input else each.magnitude
        magnitudes = [turned] if form == "swapped" else turned.flatten().chunk(parts)
    if isinstance(each, Factors):
        ups = zip(each.up.chunk(parts), magnitudes, strict=True)
        return [_needed(Factors(each.down, up, each.alpha, magnitude)) for up, magnitude in ups]
    return [Rows(each, form, place, parts, each.alpha, magnitude) for place, magnitude in enumerate(magnitudes)]


def _swapped(each: Factors) -> Factors:
    magnitude = each.magnitude if each.magnitude is None or each.by_input else _halves(each.magnitude)
    return replace(each, up=_halves(each.up), magnitude=magnitude)


def _halves(rows: torch.Tensor) -> torch.Tensor:
    return keymaps.theirs_of("swapped", [rows])


def _needed(each: Factors) -> Factors:
    """Without ranks that add nothing; as it is where none does."""
    needed = each.up.flatten(2).ne(0).any(dim=2).any(dim=0) if each.up.ndim > 2 else each.up.ne(0).any(dim=0)
    if bool(needed.all()) or not bool(needed.any()):
        return replace(each, up=each.up.contiguous())
    down, up = each.down[needed].contiguous(), each.up[:, needed].contiguous()
    return replace(each, down=down, up=up, alpha=each.scale * int(needed.sum()))


def by_original_names(found: Mapping[Layer, Factors], denoiser: str, original: OriginalLayers) -> dict[Layer, Factors]:
    """A LoRA's layers under the names that kohya's scripts and ComfyUI know. Raises Refusal where that says less."""
    made = {layer: each for layer, each in found.items() if layer[0] != denoiser}
    groups: dict[tuple[str, Form], list[Factors | None]] = {}
    for (part, layer), each in found.items():
        if part == denoiser:
            rows, columns = each.shape[:2]
            known = original.module_of(layer, rows, columns)
            module, form, place = known or (layer, "same", 0)
            groups.setdefault((module, form), [None] * (3 if form == "stacked" else 1))[place] = each
    for (module, form), group in groups.items():
        rows = next(each.up.shape[0] for each in group if each is not None)
        one = theirs(form, group, [rows] * len(group))
        if one is None:
            told = f"query, key and value in {module} have magnitudes that cannot be said of the three as one"
            do = "convert --form diffusers, or --bake_dora MODEL"
            raise Refusal(Fault(f"LoRA for {denoiser}", told, "a magnitude for all three, of rows", do))
        made[denoiser, module] = one
    return made


def by_our_names(found: Mapping[Layer, Addition]) -> dict[Layer, Addition]:
    """The same back; what is called otherwise stays as it is."""
    made: dict[Layer, Addition] = {}
    for (part, layer), each in found.items():
        names, form = (
            _ours(part, layer, *each.shape[:2]) if isinstance(each, Difference) and len(each.shape) > 1 else NONE
        )
        split = ours(form, each, len(names)) if names and isinstance(each, Difference) else [each]
        made |= {(part, name): one for name, one in zip(names or (layer,), split, strict=True)}
    return made


def lying_in(layer: Layer) -> set[Layer]:
    """Our layers of one that may have an original name; that layer itself where it has none."""
    part, name = layer
    names, _ = _ours(part, name, 0, 1)
    return {(part, each) for each in names or (name,)}


def _ours(part: str, layer: str, rows: int, columns: int) -> tuple[tuple[str, ...], Form]:
    """Our layers of an original one in the denoiser of that name, of whatever family; none: it is no such layer."""
    known = (each.kohya.original for each in registry.FAMILIES if each.denoiser == part)
    found = (original.layers(layer, rows, columns) for original in known if original)
    return next((each for each in found if each[0]), NONE)
