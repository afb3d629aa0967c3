"""A file's adapters, layer by layer: LoRA, LoHa, LoKr, whatever names they have."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any

import torch

from tenshot.adapters import names, products, signs
from tenshot.adapters.addition import Addition, Layer
from tenshot.adapters.factors import METADATA, Factors
from tenshot.errors import Fault, Refusal, refuse_if
from tenshot.families import table
from tenshot.files import containers, tensors
from tenshot.files.containers import Container

Tensors = Mapping[str, torch.Tensor]
KINDS = {"down": "LoRA", "hada_w1_a": "LoHa", "lokr_w1": "LoKr", "lokr_w1_a": "LoKr"}


def is_lora(tensors: Iterable[str]) -> bool:
    return bool(kinds(tensors))


def kinds(tensors: Iterable[str]) -> dict[str, int]:
    """What the layers have, by the names alone: {"LoRA": 192}."""
    places = (names.place_of(name) for name in tensors)
    return dict(Counter(KINDS[place.kind] for place in places if place and place.kind in KINDS))


def read(source: Container, unet: Mapping[str, Any] | None = None) -> dict[Layer, Addition]:
    """Every layer's addition. Raises Refusal where the file is no LoRA, or one that is not whole, or not of numbers.

    unet: of the model that it is for; default: any, and original names count the blocks of the released ones.
    """
    refuse_if(signs.contradiction(source, table.of(unet)) if unet else ())
    found = layers(source, unet)
    if names := broken(source) or [layer for (_, layer), each in found.items() if not isfinite(each.alpha)]:
        told = f"NaN or infinite numbers in {len(names)} places: {', '.join(names[:3])}"
        do = "take an earlier checkpoint, or train again: a lower --learning_rate, or --mixed_precision no"
        raise Refusal(Fault(str(source.place), told, "finite numbers", do))
    return found


def broken(source: Container) -> list[str]:
    """The tensors that are not of numbers only: NaN or infinite ones are among them."""
    return [name for name, lazy in source.tensors.items() if not tensors.finite(lazy.read())]


def layers(source: Container, unet: Mapping[str, Any] | None = None) -> dict[Layer, Addition]:
    """The same, whatever its numbers are."""
    places = {name: names.place_of(name, unet) for name in source.tensors}
    strange = [name for name, place in places.items() if place is None]
    if strange or not places:
        found = f"{len(strange)} tensors of another kind: {', '.join(strange[:3])}" if strange else "no tensor"
        do = f"tenshot inspect {source.place} says what it is"
        raise Refusal(Fault(str(source.place), found, "a LoRA, LoHa or LoKr: factors and their alphas", do))
    by_layer: dict[Layer, dict[str, torch.Tensor]] = {}
    for name, place in places.items():
        assert place is not None
        tensor = source.tensors[name].read()
        by_layer.setdefault((place.part, place.layer), {})[place.kind] = (
            tensor.flatten() if "vector" in name else tensor
        )
    told = settings(source)
    made = {layer: _addition(each, _alpha(layer, told)) for layer, each in by_layer.items()}
    if torn := [layer for (_, layer), each in made.items() if each is None]:
        found = f"{len(torn)} layers have no factors that belong together: {', '.join(torn[:3])}"
        raise Refusal(Fault(str(source.place), found, "down [rank, in] and up [out, rank] for each", "copy it again"))
    return {layer: each for layer, each in made.items() if each is not None}


def low_rank(source: Container, unet: Mapping[str, Any] | None = None) -> dict[Layer, Factors]:
    """The same of a file that is a LoRA and nothing else. Raises Refusal for others, too."""
    found = read(source, unet)
    lora = {layer: each for layer, each in found.items() if isinstance(each, Factors)}
    if len(lora) < len(found):
        told = " and ".join(each for each in kinds(source.tensors) if each != "LoRA")
        do = f"tenshot resize {source.place} --rank 32 --out FILE.safetensors makes the nearest LoRA"
        raise Refusal(Fault(str(source.place), told, "a LoRA", do))
    return lora


def _addition(found: Tensors, usual: float | None) -> Addition | None:
    """What a layer's tensors make; None where they do not belong together."""
    alpha = float(found["alpha"].flatten()[0]) if "alpha" in found and found["alpha"].numel() else usual
    if "down" in found:
        return _factors(found, alpha)
    return products.hadamard(found, alpha) or products.kronecker(found, alpha)


def _factors(found: Tensors, alpha: float | None) -> Factors | None:
    down, up, middle = found["down"], found.get("up"), found.get("mid")
    if up is None or down.ndim != up.ndim or down.ndim not in (2, 4) or not down.shape[0]:
        return None
    if middle is not None:  # LyCORIS keeps a convolution's kernel apart (Tucker): [rank, rank, k, k]
        if middle.ndim != 4 or down.ndim != 4 or middle.shape[1] != down.shape[0]:
            return None
        down = torch.einsum("ijkl,jn->inkl", middle.float(), down.float()[:, :, 0, 0]).to(down.dtype)
    if down.shape[0] != up.shape[1]:
        return None
    return Factors(down, up, down.shape[0] if alpha is None else alpha, found.get("magnitude"))


def settings(source: Container) -> dict[str, dict[str, Any]]:
    """part -> what diffusers' metadata tell of it; empty where a file has none. Raises Refusal where it is no sense."""
    parts: dict[str, dict[str, Any]] = {}
    told = containers.said(source.about, METADATA)
    wrong = [f"{METADATA} is no JSON object"] if source.about.get(METADATA) and not told else []
    for key, value in told.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = value
        if name in _SENSIBLE and not _SENSIBLE[name](value):
            wrong.append(f"{key} = {json.dumps(value)[:40]}")
    wrong += [f"{part} has no r" for part, mine in parts.items() if mine.get("use_rslora") and "r" not in mine]
    if wrong:
        found = f"its header tells what cannot be: {', '.join(wrong[:3])}"
        raise Refusal(Fault(str(source.place), found, "the settings that peft wrote there", "copy it again"))
    return parts


def _is_rank(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value)


def _all(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value))


_SENSIBLE: Mapping[str, Callable[[Any], bool]] = {
    "r": _is_rank,
    "lora_alpha": _is_number,
    "rank_pattern": _all(_is_rank),
    "alpha_pattern": _all(_is_number),
    "target_modules": _is_text,
    "use_dora": lambda value: isinstance(value, bool),
    "use_rslora": lambda value: isinstance(value, bool),
}


def _alpha(layer: Layer, told: Mapping[str, Mapping[str, Any]]) -> float | None:
    """The alpha that settings tell for a layer, as if it were divided by the rank."""
    mine = told.get(layer[0])
    if not mine or "lora_alpha" not in mine:
        return None
    pattern = {**mine.get("alpha_pattern", {})}
    alpha = next((value for name, value in pattern.items() if _named(layer[1], name)), mine["lora_alpha"])
    if not mine.get("use_rslora"):
        return float(alpha)
    rank = next((value for name, value in mine.get("rank_pattern", {}).items() if _named(layer[1], name)), mine["r"])
    return float(alpha) * float(rank) ** 0.5


def _named(layer: str, pattern: str) -> bool:
    bare = pattern.removeprefix("text_model.")
    return layer == bare or layer.endswith(f".{bare}")
