"""A file's adapters, layer by layer: LoRA and all that LyCORIS has, whatever names they have."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import isfinite
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tenshot.adapters import base_model, bundled_embeddings, loha_lokr, lora_keys, lycoris, stacks
from tenshot.adapters.factors import METADATA, Factors
from tenshot.adapters.loha_lokr import Alpha, Tensors
from tenshot.adapters.lycoris import Full
from tenshot.adapters.weight_delta import BIAS, Addition, Difference, Layer
from tenshot.core.errors import Fault, Noted, Refusal, refuse_if
from tenshot.core.json_types import Config
from tenshot.families import registry, text_model
from tenshot.io import tensor_files, tensors
from tenshot.io.tensor_files import Container


class Kind(NamedTuple):
    """made: of a layer's tensors, of which `has` may be there; None where they do not belong together."""

    title: str
    made: Callable[[Tensors, Alpha], Addition | None]
    has: frozenset[str]


def _low_rank(found: Tensors, alpha: Alpha) -> Factors | None:
    down, up, middle = found["down"], found.get("up"), found.get("mid")
    if up is None or down.ndim not in (2, 4) or up.ndim not in (2, 4) or not down.shape[0] or up.shape[2:].numel() != 1:
        return None
    if middle is not None:  # LyCORIS keeps a convolution's kernel apart (Tucker): [rank, rank, k, k]
        if middle.ndim != 4 or middle.shape[1] != down.shape[0] or down.shape[2:].numel() != 1:
            return None
        down = torch.einsum("ijkl,jn->inkl", middle.float(), down.float().flatten(1)).to(down.dtype)
    if down.shape[0] != up.shape[1]:
        return None
    return Factors(down, up, alpha(down.shape[0]), found.get("magnitude"))


_USUAL = {"alpha", "magnitude"}
_LOKR = Kind("LoKr", loha_lokr.kronecker, frozenset({*loha_lokr.KRONECKER, *_USUAL}))
#: The tensor by which a layer's adapter is known -> what it is.
KINDS = {
    "down": Kind("LoRA", _low_rank, frozenset({"down", "up", "mid", "up_bias", *_USUAL})),
    "hada_w1_a": Kind("LoHa", loha_lokr.hadamard, frozenset({*loha_lokr.HADAMARD, *_USUAL})),
    "lokr_w1": _LOKR,
    "lokr_w1_a": _LOKR,
    "diff": Kind("full", lycoris.full, frozenset({"diff"})),
    "diff_b": Kind("bias", lycoris.full, frozenset({"diff_b"})),
    "w_norm": Kind("norm", lycoris.full, frozenset({"w_norm"})),
    "b_norm": Kind("norm", lycoris.full, frozenset({"b_norm"})),
    "oft_blocks": Kind("OFT", lycoris.orthogonal, frozenset({"oft_blocks", "rescale", "alpha"})),
    "a1.weight": Kind(
        "GLoRA", lycoris.generalized, frozenset({"a1.weight", "a2.weight", "b1.weight", "b2.weight", "alpha"})
    ),
    "on_input": Kind("IA3", lycoris.scales, frozenset({"on_input", "weight"})),
}
BIASES = ("diff_b", "b_norm")


def is_lora(tensors: Iterable[str]) -> bool:
    return bool(kinds(tensors))


def kinds(tensors: Iterable[str]) -> dict[str, int]:
    """What the layers have, by the names alone: {"LoRA": 192}."""
    places = (lora_keys.parse(name) for name in tensors)
    return dict(Counter(KINDS[place.kind].title for place in places if place and place.kind in KINDS))


def read(source: Container, unet: Config | None = None) -> dict[Layer, Addition]:
    """Every layer's addition. Raises Refusal where the file is no LoRA, or one that is not whole, or not of numbers.

    unet: of the model that it is for; default: any, and original names count the blocks of the released ones.
    """
    found = layers(source, unet)
    base_model.stranger(source, found)
    refuse_if(base_model.contradiction(source, found, registry.of(unet)) if unet else ())
    infinite = [layer for (_, layer), each in found.items() if not isfinite(getattr(each, "alpha", 0.0))]
    if names := broken(source) or infinite:
        told = f"NaN or infinite numbers in {len(names)} places: {', '.join(names[:3])}"
        do = "take an earlier checkpoint, or train again: a lower --learning_rate, or --mixed_precision no"
        raise Refusal(Fault(str(source.place), told, "finite numbers", do))
    return found


def broken(source: Container) -> list[str]:
    """The tensors that are not of numbers only: NaN or infinite ones are among them."""
    return [name for name, lazy in source.tensors.items() if not tensors.finite(lazy.read())]


def key(place: lora_keys.LoraKey) -> Layer:
    """What a tensor is about: a layer, or the bias of one."""
    return place.part, place.layer + (BIAS if place.kind in BIASES else "")


def layers(source: Container, unet: Config | None = None) -> dict[Layer, Addition]:
    """The same, whatever its numbers are."""
    places = {name: lora_keys.parse(name, unet) for name in source.tensors if not bundled_embeddings.is_of_word(name)}
    strange = [name for name, place in places.items() if place is None]
    if strange or not places:
        found = f"{len(strange)} tensors of another kind: {', '.join(strange[:3])}" if strange else "no tensor"
        fits = f"{', '.join(dict.fromkeys(kind.title for kind in KINDS.values()))}: their tensors, and nothing else"
        raise Refusal(Fault(str(source.place), found, fits, f"tenshot inspect {source.place} says what it is"))
    by_layer: dict[Layer, dict[str, torch.Tensor]] = {}
    for name, place in places.items():
        assert place is not None
        tensor = source.tensors[name].read()
        by_layer.setdefault(key(place), {})[place.kind] = tensor.flatten() if "vector" in name else tensor
    refuse_if(_no_weights(source, by_layer))
    told = settings(source)
    made = {layer: _addition(each, _alpha(layer, each, told.get(layer[0]))) for layer, each in by_layer.items()}
    if torn := [layer for (_, layer), each in made.items() if each is None]:
        found = f"{len(torn)} layers have no tensors that belong together: {', '.join(torn[:3])}"
        raise Refusal(Fault(str(source.place), found, "down [rank, in] and up [out, rank] for each", "copy it again"))
    _say_zeros(source, by_layer, told)
    whole = {layer: each for layer, each in made.items() if each is not None}
    whole |= _biases(by_layer, whole)
    if all(each.idle for each in whole.values()):
        text = f"{source.place}: a factor of every layer is zero throughout: it has no effect"
        warnings.warn(text, Noted, stacklevel=2)
    return stacks.by_our_names(whole)


NO_WEIGHTS = ("alpha", "on_input")  # a number, and IA3's flag


def _no_weights(source: Container, by_layer: Mapping[Layer, Tensors]) -> Iterator[Fault]:
    """Tensors that cannot be what they are called."""
    every = [(layer, kind, tensor) for (_, layer), each in by_layer.items() for kind, tensor in each.items()]
    whole = [layer for layer, kind, tensor in every if kind not in NO_WEIGHTS and not tensor.is_floating_point()]
    if whole:
        found = f"{len(whole)} tensors hold whole numbers: {', '.join(whole[:3])}"
        yield Fault(str(source.place), found, "floats of 8, 16 or 32 bits", "take the same file in fp16 or bf16")
    many = [layer for layer, kind, tensor in every if kind == "alpha" and tensor.numel() > 1]
    if many:
        found = f"alpha is more than one number in {len(many)} layers: {', '.join(many[:3])}"
        yield Fault(str(source.place), found, "one number for each layer", "copy it again")


def low_rank(source: Container, unet: Config | None = None) -> dict[Layer, Factors]:
    """The same of a file that is a LoRA and nothing else. Raises Refusal for others, too."""
    return only_factors(source, read(source, unet))


def only_factors(source: Container, found: Mapping[Layer, Addition]) -> dict[Layer, Factors]:
    """What was found in a file, where that is a LoRA and nothing else. Raises Refusal for others."""
    refuse_if(bound(source, found))
    lora = {layer: each for layer, each in found.items() if isinstance(each, Factors)}
    if len(lora) < len(found):
        told = " and ".join(each for each in kinds(source.tensors) if each != "LoRA")
        do = f"tenshot resize {source.place} --rank 32 --out FILE.safetensors makes the nearest LoRA"
        raise Refusal(Fault(str(source.place), told, "a LoRA", do))
    return lora


def bound(source: Container, found: Mapping[Layer, Addition]) -> Iterator[Fault]:
    """What no factors can say: biases, norms, and what multiplies the weights of a model."""
    others = [layer for layer, each in found.items() if not isinstance(each, Difference) or len(each.shape) < 2]
    if others:
        titles = " and ".join(title for title in kinds(source.tensors) if title not in ("LoRA", "LoHa", "LoKr"))
        told = f"{titles}: {len(others)} tensors that no factors can stand for, {' '.join(others[0])}, ..."
        do = "tenshot merge puts all of it in a model; tenshot extract makes a LoRA of that, without norms and biases"
        yield Fault(str(source.place), told, "LoRA, LoHa, LoKr, or whole differences of layers", do)


def _addition(found: Tensors, alpha: Alpha) -> Addition | None:
    """What a layer's tensors make; None where they do not belong together."""
    kind = next((KINDS[name] for name in KINDS if name in found), None)
    return kind.made(found, alpha) if kind and found.keys() <= kind.has else None


def _biases(by_layer: Mapping[Layer, Tensors], found: Mapping[Layer, Addition]) -> dict[Layer, Addition]:
    """What peft's `lora_bias` adds: a bias behind the factors, as strong as they are."""
    return {
        (part, layer + BIAS): Full(each.scale * by_layer[part, layer]["up_bias"].float())
        for (part, layer), each in found.items()
        if isinstance(each, Factors) and "up_bias" in by_layer[part, layer]
    }


class Settings(BaseModel):
    """What peft's settings of a part say of the strength of its layers; the defaults are peft's."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    r: int = Field(ge=1)
    lora_alpha: float = 8
    alpha: float = 8  # of LoHa and LoKr
    use_rslora: bool = False
    use_dora: bool = False
    target_modules: str | list[str] | None = None
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None

    def alpha_of(self, layer: str, rank: int, lora: bool) -> float:
        """As if it were divided by the rank; where there is none, as it counts."""
        alpha = _matching(self.alpha_pattern or {}, layer, self.lora_alpha if lora else self.alpha)
        if not rank:
            return alpha / _matching(self.rank_pattern or {}, layer, self.r)
        return alpha * (rank**0.5 if self.use_rslora else 1)


def _matching(patterns: Mapping[str, float], layer: str, otherwise: float) -> float:
    """The value of the first pattern that a layer's name ends with, in any version of transformers."""
    names = (layer, text_model.PREFIX + layer)
    found = (value for pattern, value in patterns.items() for name in names if re.match(rf"(.*\.)?({pattern})$", name))
    return next(found, otherwise)


def settings(source: Container) -> Mapping[str, Config]:
    """part -> what the header tells of it, in peft's words; empty where a file has none. Raises Refusal."""
    told = tensor_files.json_metadata(source.metadata, METADATA)
    parts: dict[str, dict[str, object]] = {}
    for name, value in told.items():
        part, _, name = name.partition(".")
        parts.setdefault(part, {})[name] = value
    try:
        if source.metadata.get(METADATA) and not told:
            Settings.model_validate("no JSON object")
        for each in parts.values():
            valid = Settings.model_validate(each)
            for pattern in (*(valid.rank_pattern or {}), *(valid.alpha_pattern or {})):
                re.compile(pattern)
    except (ValidationError, re.error) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": ("pattern",), "msg": str(error)}
        found = f"its header tells what cannot be: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise Refusal(Fault(str(source.place), found, "the settings that peft wrote there", "copy it again")) from None
    return {part: dict(each) for part, each in parts.items()}


def _alpha(layer: Layer, found: Tensors, told: Config | None) -> Alpha:
    """A layer's alpha by its rank: of a tensor, of settings, or the rank. 0 is the rank, as kohya's scripts read it."""

    def alpha(rank: int) -> float:
        if "alpha" in found and found["alpha"].numel():
            return float(found["alpha"].flatten()[0]) or float(rank) if rank else 1.0
        if told is None:
            return float(rank or 1)
        return Settings.model_validate(told).alpha_of(layer[1], rank, "down" in found)

    return alpha


def _say_zeros(source: Container, by_layer: Mapping[Layer, Tensors], told: Mapping[str, Config]) -> None:
    """No effect, or one by a rule of others, is not had in silence."""
    zero = [
        each
        for each in by_layer.values()
        if "alpha" in each and "oft_blocks" not in each and not each["alpha"].float().any()
    ]
    if zero:
        text = f"{source.place}: alpha is 0 in {len(zero)} layers: it is taken for the rank, as kohya's scripts do"
        warnings.warn(f"{text}; ComfyUI and AUTOMATIC1111 give them no effect", Noted, stacklevel=2)
    silent = [part for part, each in told.items() if each.get("lora_alpha") == 0]
    if silent:
        text = f"{source.place}: lora_alpha is 0 in {', '.join(silent)}: peft gives it no effect, and so it is here"
        warnings.warn(text, Noted, stacklevel=2)
