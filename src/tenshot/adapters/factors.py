"""The low-rank factors of a LoRA, whatever names they have on disk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import torch

from tenshot.adapters import lora_keys
from tenshot.adapters.weight_delta import Addition, Difference, Layer
from tenshot.core.errors import Fault, Refusal
from tenshot.core.json_types import Config
from tenshot.core.results import WrittenLora
from tenshot.families import text_model

METADATA = "lora_adapter_metadata"  # diffusers' name for the settings, as JSON


@dataclass(frozen=True)
class Factors(Difference):
    """One layer's addition: scale * up @ down.

    down [rank, in, ...], up [out, rank, ...], whose kernels are 1x1 where it has any.
    """

    down: torch.Tensor
    up: torch.Tensor
    alpha: float
    magnitude: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.up.shape[0], *self.down.shape[1:])

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def magnitude_vector(self) -> torch.Tensor | None:
        """As peft keeps it beside a layer: [out], of convolutions [1, out, 1, 1]."""
        if self.magnitude is None or self.down.ndim == 2:
            return self.magnitude if self.magnitude is None else self.magnitude.flatten()
        return self.magnitude.reshape(1, -1, *(1,) * (self.down.ndim - 2))

    def difference(self) -> torch.Tensor:
        """What it adds to the layer's weight, float32, in the weight's own shape."""
        return (self.scale * (self.up.float().flatten(1) @ self.down.float().flatten(1))).reshape(self.shape)

    def shaped(self, weight: Sequence[int]) -> Factors:
        """The same as a layer beside one with this weight has them."""
        kernel = (1,) * (len(weight) - 2)
        down, up = self.down.reshape(self.rank, *weight[1:]), self.up.reshape(weight[0], self.rank, *kernel)
        return replace(self, down=down, up=up)


def as_in(shapes: Mapping[Layer, Sequence[int]], found: Mapping[Layer, Factors]) -> dict[Layer, Factors]:
    """The same, each with kernels where the layer in `shapes` has them and without where it has none."""
    made = {}
    for layer, each in found.items():
        kernel, own = tuple(shapes.get(layer, each.shape)[2:]), tuple(each.down.shape[2:])
        wide = each.down.flatten(1).shape[1]
        flat = own == () and wide % prod(kernel) == 0
        fits = own == kernel or (flat if prod(kernel) > 1 else prod(own) == 1)
        made[layer] = each.shaped((each.up.shape[0], wide // prod(kernel), *kernel)) if fits else each
    return made


def truncated(each: Factors, rank: int, keep: float | None = None) -> Factors:
    """The nearest factors of at most `rank`, by singular values; the matrix is never made whole."""
    down, up = each.down.float(), each.scale * each.up.float()
    outer, right = torch.linalg.qr(up.flatten(1))
    inner, left = torch.linalg.qr(down.flatten(1).T)
    u, s, v = torch.linalg.svd(_finite(right @ left.T))
    made = _halves(outer @ u, s, v @ inner.T, down.shape[1:], _kept(s, rank, keep))
    return Factors(made.down, made.up, made.alpha, each.magnitude)


def nearest(difference: torch.Tensor, rank: int, keep: float | None = None) -> Factors:
    """The factors of at most `rank` that come nearest to a layer's `difference` [out, in, ...].

    keep: as few as keep this share of its energy, its squared singular values.
    """
    u, s, v = torch.linalg.svd(_finite(difference.float()).flatten(1), full_matrices=False)
    return _halves(u, s, v, difference.shape[1:], _kept(s, rank, keep))


def _finite(matrix: torch.Tensor) -> torch.Tensor:
    if not matrix.isfinite().all():
        found = "its factors multiplied are NaN or infinite in float32"
        raise Refusal(Fault("a layer", found, "finite numbers", "train again, at a lower --learning_rate"))
    return matrix


def _kept(values: torch.Tensor, rank: int, keep: float | None) -> int:
    """How many singular values stay."""
    count = min(rank, int(values.numel()))
    if keep is None:
        return count
    share = values.square().cumsum(0) / values.square().sum()
    return min(count, int((share < keep).sum()) + 1)


def _halves(u: torch.Tensor, s: torch.Tensor, v: torch.Tensor, inner: torch.Size, kept: int) -> Factors:
    root = s[:kept].sqrt()
    up = (u[:, :kept] * root).reshape(u.shape[0], kept, *(1,) * (len(inner) - 1))
    down = (root[:, None] * v[:kept]).reshape(kept, *inner)
    return Factors(down.contiguous(), up.contiguous(), float(kept))


def apart(one: Mapping[Layer, Difference], other: Mapping[Layer, Difference]) -> float:
    """How far two LoRAs are from each other: of all differences together, relative to the first."""
    away = sum(
        float((each.difference().flatten() - other[layer].difference().flatten()).double().square().sum())
        for layer, each in one.items()
    )
    whole = sum(float(each.difference().double().square().sum()) for each in one.values())
    return (away / whole) ** 0.5 if whole else 0.0


def metadata(settings: Mapping[str, Config]) -> dict[str, str]:
    """A file's metadata with peft's settings, as diffusers writes them."""
    told = {f"{part}.{key}": value for part, each in settings.items() for key, value in each.items()}
    return {"format": "pt", METADATA: json.dumps(told, indent=2, sort_keys=True)}


def usual(values: Iterable[float]) -> float:
    """The most frequent one."""
    return Counter(values).most_common(1)[0][0]


def to_kohya(found: Mapping[Layer, Factors], originals: Mapping[str, str] | None) -> dict[str, torch.Tensor]:
    """Named as every user interface reads them; alpha as a number of its own."""
    named: dict[str, torch.Tensor] = {}
    for (part, layer), each in sorted(found.items()):
        start = lora_keys.kohya(part, layer, originals)
        named[f"{start}.alpha"] = torch.tensor(each.alpha, dtype=each.down.dtype)
        named[f"{start}.lora_down.weight"] = each.down
        named[f"{start}.lora_up.weight"] = each.up
        if each.magnitude is not None:
            sides = (-1, *(1,) * (each.up.ndim - 1))
            named[f"{start}.dora_scale"] = each.magnitude.reshape(sides) if each.magnitude.ndim == 1 else each.magnitude
    return named


def to_diffusers(found: Mapping[Layer, Factors]) -> dict[str, torch.Tensor]:
    """Named as diffusers' pipelines read them, in text encoders with `text_model.`"""
    named: dict[str, torch.Tensor] = {}
    for (part, layer), each in sorted(found.items()):
        bare = text_model.stored(layer) if part.startswith("text_encoder") else layer
        named[f"{part}.{bare}.lora_A.weight"] = each.down
        named[f"{part}.{bare}.lora_B.weight"] = each.up
        if (magnitude := each.magnitude_vector) is not None:
            named[f"{part}.{bare}.lora_magnitude_vector"] = magnitude
    return named


def facts(path: Path, found: Mapping[Layer, Addition]) -> WrittenLora:
    return {
        "written": str(path),
        "layers": len(found),
        "rank": int(usual(each.rank for each in found.values())),
        "alpha": usual(getattr(each, "alpha", 0.0) for each in found.values()),
    }
