"""LoRA (Hu et al., arXiv 2106.09685): low-rank additions beside a model's layers, through peft; their files.

DoRA: arXiv 2402.09353. Rank-stabilised scaling: arXiv 2312.03732. Files have the names of diffusers' pipelines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from torch import nn
from transformers import CLIPTextModel

from tenshot.adapters import adapter_files, base_model, bundled_embeddings, factors, parsing
from tenshot.adapters.adapter_files import FILE as FILE
from tenshot.adapters.adapter_files import PARTS
from tenshot.adapters.factors import Factors
from tenshot.adapters.weight_delta import BIAS, INSPECT, Addition, Layer, misfits
from tenshot.core.errors import Fault, refuse_if
from tenshot.core.json_types import Config
from tenshot.families import text_model
from tenshot.families.base import Family
from tenshot.io import tensors
from tenshot.model.model import Model

SAME = "a LoRA of the same family"
SETTINGS = ("r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "use_dora", "use_rslora")


@dataclass(frozen=True)
class Lora:
    """settings: part -> what peft's LoraConfig is told. weights: part -> {name in peft: tensor}; empty: new ones.

    found: what was read, which may be more than peft knows: `to_train` says whether it is. words: learned ones in the
    same file, which no weights can say.
    """

    settings: Mapping[str, Config]
    weights: Mapping[str, Mapping[str, torch.Tensor]]
    found: Mapping[Layer, Addition] = field(default_factory=dict)
    words: bundled_embeddings.Words = field(default_factory=dict)


def targeted(name: str, ends: list[str]) -> bool:
    return any(name == end or name.endswith(f".{end}") for end in ends)


def new(settings: Mapping[str, Config]) -> Lora:
    """A LoRA that does nothing yet."""
    return Lora(settings, {part: {} for part in settings})


def attach(model: Model, lora: Lora) -> None:
    """Put `lora`, a new one or one `to_train`, beside the layers of `model`; new weights follow from torch's seed.

    Raises Refusal, with the model untouched, where it does not fit.
    """
    shapes = _shapes(model)
    refuse_if(_misfits(model, lora, shapes))
    for part, settings in lora.settings.items():
        net = model[part]
        inject_adapter_in_model(LoraConfig(**settings), net)
        if begun := {layer: each for layer, each in lora.found.items() if layer[0] == part}:
            shaped = {layer: each.shaped(shapes[layer]) for layer, each in begun.items() if isinstance(each, Factors)}
            named = {_here(net, key): tensor for key, tensor in _as_peft(shaped)[part].items()}
            set_peft_model_state_dict(net, named)


def to_train(lora: Lora, place: Path) -> Lora:
    """What was read at `place`, as it can go on training. Raises Refusal where peft has no such layers."""
    refuse_if(_untrainable(lora, place))
    return lora


def current(model: Model, settings: Mapping[str, Config]) -> Lora:
    """The LoRA that is attached, as it is now."""
    return Lora(settings, {part: get_peft_model_state_dict(model[part]) for part in settings})


def write(
    file: Path,
    lora: Lora,
    nets: Mapping[str, nn.Module],
    family: Family | None = None,
    more: Mapping[str, str] | None = None,
) -> None:
    """Write a LoRA as diffusers' pipelines and older versions of transformers read it. family: what it is for.

    more: for its metadata.
    """
    named = {
        f"{part}.{text_model.stored(name) if isinstance(nets[part], CLIPTextModel) else name}": tensor
        for part, weights in lora.weights.items()
        for name, tensor in weights.items()
    }
    about = {**factors.metadata(lora.settings), **(more or {})}
    if family:
        about |= base_model.saying(family, getattr(nets.get(family.denoiser), "config", None))
    tensors.write(file, named, about)


def read(place: Path, unet: Config | None = None) -> Lora:
    """What a file or folder holds, whatever its names and its kind. Raises Refusal where that is no adapter.

    unet: the configuration whose blocks original names count; default: Stable Diffusion XL's.
    """
    source = adapter_files.opened(place)
    found = parsing.read(source, unet)
    low_rank = {layer: each for layer, each in found.items() if isinstance(each, Factors)}
    told = {  # without what only other versions of peft have
        part: {key: value for key, value in each.items() if key in SETTINGS}
        for part, each in parsing.settings(source).items()
    }
    settings = settings_of(low_rank)
    said = {part: told[part] for part in settings if told.get(part, {}).keys() >= {"r", "target_modules"}}
    return Lora(settings | said, _as_peft(low_rank), found, bundled_embeddings.words(source))


def _as_peft(found: Mapping[Layer, Factors]) -> dict[str, dict[str, torch.Tensor]]:
    """part -> {name in peft: tensor}"""
    weights: dict[str, dict[str, torch.Tensor]] = {}
    for (part, layer), each in found.items():
        kept = weights.setdefault(part, {})
        kept[f"{layer}.lora_A.weight"] = each.down
        kept[f"{layer}.lora_B.weight"] = each.up
        if (magnitude := each.magnitude_vector) is not None:
            kept[f"{layer}.lora_magnitude_vector"] = magnitude
    return weights


def settings_of(found: Mapping[Layer, Factors]) -> dict[str, Config]:
    """part -> what peft's LoraConfig has to be told for these factors."""
    return {part: _settings(found, part) for part in dict.fromkeys(part for part, _ in found)}


def _settings(found: Mapping[Layer, Factors], wanted: str) -> Config:
    """What a file without settings says by its shapes and alphas, layer by layer."""
    layers = {layer: each for (part, layer), each in found.items() if part == wanted}
    rank = factors.usual(each.rank for each in layers.values())
    alpha = factors.usual(each.alpha for each in layers.values())
    return {
        "r": int(rank),
        "lora_alpha": alpha,
        "target_modules": sorted(layers),
        "rank_pattern": {layer: each.rank for layer, each in layers.items() if each.rank != rank},
        "alpha_pattern": {layer: each.alpha for layer, each in layers.items() if each.alpha != alpha},
        "use_dora": any(each.magnitude is not None for each in layers.values()),
    }


def _misfits(model: Model, lora: Lora, shapes: Mapping[Layer, Sequence[int]]) -> Iterator[Fault]:
    parts = dict.fromkeys((*lora.settings, *(part for part, _ in lora.found)))
    if missing := [part for part in parts if part not in model.parts]:
        for part in missing:
            yield Fault(f"LoRA for {part}", f"{model.family.title} has no such part", SAME, INSPECT)
        return
    yield from misfits("LoRA", lora.found, shapes)
    for part, settings in lora.settings.items():
        targets = list(settings.get("target_modules", ()))
        if targets and not any(targeted(layer, targets) for where, layer in shapes if where == part):
            yield Fault(f"LoRA for {part}", "none of its layers is in the model", SAME, INSPECT)


def _untrainable(lora: Lora, place: Path) -> Iterator[Fault]:
    """What keeps what was read from training on by peft, whose settings are those of a whole part."""
    if lora.words:
        do = f"tenshot convert {place} --form diffusers takes them out; --embeddings gives them to the training"
        yield Fault(str(place), f"holds learned words: {', '.join(lora.words)}", "a LoRA alone", do)
    others = {layer: each for layer, each in lora.found.items() if not isinstance(each, Factors)}
    if others:
        found = f"{len(others)} of {len(lora.found)} layers are no LoRA: {' '.join(next(iter(others)))}, ..."
        yield Fault(str(place), found, "a LoRA", f"tenshot resize {place} makes one where there is one")
    for part in lora.settings:
        magnitudes = [each for (where, _), each in lora.found.items() if where == part and isinstance(each, Factors)]
        with_one = [each for each in magnitudes if each.magnitude is not None]
        do = "tenshot convert --bake_dora makes a plain LoRA of it"
        if with_one and len(with_one) < len(magnitudes):
            found = f"{part}: {len(with_one)} of {len(magnitudes)} layers have a dora_scale"
            yield Fault(str(place), found, "a magnitude (DoRA) in every layer of a part, or in none", do)
        if any(each.by_input for each in with_one):
            yield Fault(str(place), f"{part}: magnitudes of inputs", "magnitudes of outputs, as peft has them", do)


def _shapes(model: Model) -> dict[Layer, tuple[int, ...]]:
    """Part and layer -> the shape of its weight, and of its bias."""
    found: dict[Layer, tuple[int, ...]] = {}
    for part in PARTS:
        for name, module in model[part].named_modules() if part in model.parts else ():
            layer = getattr(module, "base_layer", module)
            weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
            if isinstance(weight, torch.Tensor):
                found[part, text_model.bare(name)] = _shape(layer)
            if isinstance(bias, torch.Tensor):
                found[part, text_model.bare(name) + BIAS] = tuple(bias.shape)
    return found


def _shape(layer: Any) -> tuple[int, ...]:
    """Of a layer's weight, which may be kept in fewer bits."""
    return (layer.out_features, layer.in_features) if isinstance(layer, nn.Linear) else tuple(layer.weight.shape)


def _here(net: nn.Module, name: str) -> str:
    """A layer's name in this version of transformers, which may put `text_model.` before it."""
    return text_model.stored(name) if hasattr(net, "text_model") else text_model.bare(name)
