"""A DoRA as a plain LoRA for one model: its magnitudes, which depend on the weights, are worked into the factors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tenshot.adapters import factors
from tenshot.adapters.factors import Factors
from tenshot.adapters.weight_delta import Addition, Difference, Layer, misfits, parameter
from tenshot.core.errors import Fault, Refusal, refuse_if
from tenshot.core.events import Events, track
from tenshot.core.results import Written
from tenshot.export import kohya
from tenshot.io.tensor_files import Container
from tenshot.model import checkpoint

USUAL = 16  # the rank, where a layer has none of its own


def baked(
    source: Container, found: Mapping[Layer, Addition], model: Path, rank: int | None, events: Events
) -> tuple[dict[Layer, Factors], Written]:
    """The layers with magnitudes as plain factors, and how far that is from what they were, relative to it.

    rank: at most; default: each layer's own. Raises Refusal where none has a magnitude, or the model is another.
    """
    base = checkpoint.read(model)
    refuse_if(misfits(str(source.place), found, base.layers))
    wanted = {
        layer: each for layer, each in found.items() if isinstance(each, Difference) and each.magnitude is not None
    }
    if not wanted:
        found_there, do = "no layer has a magnitude: it is no DoRA", "leave --bake_dora out"
        raise Refusal(Fault(str(source.place), found_there, "a DoRA: dora_scale or lora_magnitude_vector", do))
    made: dict[Layer, Factors] = {}
    away = total = 0.0
    for (part, layer), each in track(list(wanted.items()), "baking", len(wanted), events):
        weight = base.parts[part][parameter(layer)].read().float()
        change = each.change(weight)
        plain = factors.nearest(change, rank or each.rank or USUAL)
        assert each.magnitude is not None
        made[part, layer] = kohya.cast(plain, each.magnitude.dtype)
        away += float((change - made[part, layer].difference().reshape(change.shape)).square().sum())
        total += float(change.square().sum())
    return made, {"baked_layers": len(made), "relative_error": (away / total) ** 0.5 if total else 0.0}
