"""LoRA (Hu et al., arXiv 2106.09685): low-rank additions beside a model's layers, through peft; their files.

DoRA: arXiv 2402.09353. Rank-stabilised scaling: arXiv 2312.03732. Files have the names of diffusers' pipelines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from torch import nn
from transformers import CLIPTextModel

from tenshot.adapters import factors, inside, reading, signs
from tenshot.adapters.addition import INSPECT, Addition, Layer
from tenshot.adapters.factors import Factors
from tenshot.errors import Fault, Refusal, refuse_if
from tenshot.families.family import Family
from tenshot.files import containers, tensors
from tenshot.model import Model

FILE = "pytorch_lora_weights.safetensors"
PARTS = ("unet", "text_encoder", "text_encoder_2")
SAME = "a LoRA of the same family"
LEGACY = "text_model."  # what other versions of transformers put before the names of a text encoder
SETTINGS = ("r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "use_dora", "use_rslora")

_UNET = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "transformer": ("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    "all": ("conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv"),
}
_TEXT = {"attention": ("q_proj", "k_proj", "v_proj", "out_proj"), "transformer": ("fc1", "fc2"), "all": ()}


@dataclass(frozen=True)
class Lora:
    """settings: part -> what peft's LoraConfig is told. weights: part -> {name in peft: tensor}; empty: new ones.

    others: what peft does not put beside a layer, such as LoHa and LoKr.
    """

    settings: Mapping[str, Mapping[str, Any]]
    weights: Mapping[str, Mapping[str, torch.Tensor]]
    others: Mapping[Layer, Addition] = field(default_factory=dict)


def targets(part: str, layers: str) -> list[str]:
    """How the names of the layers end that get additions."""
    table = _UNET if part == "unet" else _TEXT
    chosen = list(table)[: list(table).index(layers) + 1]
    return [name for group in chosen for name in table[group]]


def targeted(name: str, ends: list[str]) -> bool:
    return any(name == end or name.endswith(f".{end}") for end in ends)


def new(settings: Mapping[str, Mapping[str, Any]]) -> Lora:
    """A LoRA that does nothing yet."""
    return Lora(settings, {part: {} for part in settings})


def attach(model: Model, lora: Lora, name: str = "default") -> None:
    """Put `lora` beside the layers of `model`, under `name`. New weights follow from torch's seed.

    Raises Refusal, with the model untouched, where it does not fit.
    """
    refuse_if(_misfits(model, lora))
    for part, settings in lora.settings.items():
        net = model[part]
        inject_adapter_in_model(LoraConfig(**settings), net, adapter_name=name)
        if lora.weights[part]:
            named = {_here(net, layer): tensor for layer, tensor in lora.weights[part].items()}
            left = getattr(set_peft_model_state_dict(net, named, adapter_name=name), "unexpected_keys", [])
            if left:
                found = f"{len(left)} tensors fit nowhere: {left[0]}, ..."
                raise Refusal(Fault(f"LoRA for {part}", found, SAME, INSPECT))
    for (part, layer), addition in lora.others.items():
        inside.add(model[part].get_submodule(_here(model[part], layer)), name, addition)
    for module in _layers(model):
        module.set_adapter(list(module.scaling))


def scale(model: Model, name: str, weight: float) -> None:
    """How strongly the LoRA called `name` counts from now on; 0 is as if it were not there."""
    for layer in _layers(model):
        if name in layer.scaling:
            layer.set_scale(name, weight)
    for part in PARTS:
        for module in model[part].modules() if part in model.parts else ():
            inside.scale(module, name, weight)


def current(model: Model, settings: Mapping[str, Mapping[str, Any]], name: str = "default") -> Lora:
    """The LoRA that is attached under `name`, as it is now."""
    return Lora(settings, {part: get_peft_model_state_dict(model[part], adapter_name=name) for part in settings})


def write(file: Path, lora: Lora, nets: Mapping[str, nn.Module], family: Family | None = None) -> None:
    """Write a LoRA as diffusers' pipelines and older versions of transformers read it. family: what it is for."""
    named = {
        f"{part}.{_prefix(nets[part])}{name.removeprefix(_prefix(nets[part]))}": tensor
        for part, weights in lora.weights.items()
        for name, tensor in weights.items()
    }
    about = factors.metadata(lora.settings)
    tensors.write(file, named, about | signs.saying(family) if family else about)


def read(place: Path, unet: Mapping[str, Any] | None = None) -> Lora:
    """A LoRA file with whatever names, LoHa and LoKr too, or the folder it lies in. Raises Refusal where it is none.

    unet: the configuration whose blocks original names count; default: Stable Diffusion XL's.
    """
    file = place / FILE if place.is_dir() else place
    source = containers.opened(file)
    all_found = reading.read(source, unet)
    found = {layer: each for layer, each in all_found.items() if isinstance(each, Factors)}
    others = {layer: each for layer, each in all_found.items() if not isinstance(each, Factors)}
    weights: dict[str, dict[str, torch.Tensor]] = {}
    for (part, layer), each in found.items():
        kept = weights.setdefault(part, {})
        kept[f"{layer}.lora_A.weight"] = each.down
        kept[f"{layer}.lora_B.weight"] = each.up
        if (magnitude := each.magnitude_vector) is not None:
            kept[f"{layer}.lora_magnitude_vector"] = magnitude
    told = {part: _known(each) for part, each in reading.settings(source).items() if part in weights}
    return Lora(settings_of(found) | {part: each for part, each in told.items() if each}, weights, others)


def _known(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without what only other versions of peft have."""
    return {key: value for key, value in settings.items() if key in SETTINGS}


def settings_of(found: Mapping[Layer, Factors]) -> dict[str, dict[str, Any]]:
    """part -> what peft's LoraConfig has to be told for these factors."""
    return {part: _settings(found, part) for part in dict.fromkeys(part for part, _ in found)}


def _settings(found: Mapping[Layer, Factors], wanted: str) -> dict[str, Any]:
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


def _misfits(model: Model, lora: Lora) -> Iterator[Fault]:
    parts = dict.fromkeys((*lora.settings, *(part for part, _ in lora.others)))
    for part in parts:
        if part not in model.parts:
            yield Fault(f"LoRA for {part}", f"{model.family.title} has no such part", SAME, INSPECT)
            continue
        modules = dict(model[part].named_modules())
        others = {layer: each for (where, layer), each in lora.others.items() if where == part}
        faults = (*_strange_factors(modules, lora.weights.get(part, {})), *_strange_others(modules, others))
        if faults:
            yield Fault(f"LoRA for {part}", faults[0], SAME, INSPECT)
            continue
        targets = list(lora.settings.get(part, {}).get("target_modules", ()))
        if targets and not any(targeted(name, targets) for name in modules):
            yield Fault(f"LoRA for {part}", "none of its layers is in the model", SAME, INSPECT)


def _strange_factors(modules: Mapping[str, nn.Module], weights: Mapping[str, torch.Tensor]) -> Iterator[str]:
    for name, tensor in weights.items():
        layer, _, kind = name.partition(".lora_")
        module = _layer(modules, layer)
        if module is None:
            yield f"{layer}: the model has no such layer"
        elif kind in ("A.weight", "B.weight"):
            side = 1 if kind == "A.weight" else 0
            if tensor.shape[side] != _shape(module)[side]:
                yield f"{name}: width {tensor.shape[side]}, the model's is {_shape(module)[side]}"


def _strange_others(modules: Mapping[str, nn.Module], others: Mapping[str, Addition]) -> Iterator[str]:
    for layer, each in others.items():
        module = _layer(modules, layer)
        if module is None:
            yield f"{layer}: the model has no such layer"
        elif not each.fits(_shape(module)):
            yield f"{layer}: {list(each.shape)}, the model's is {list(_shape(module))}"


def _shape(module: Any) -> tuple[int, ...]:
    """Of a layer's weight, which may be kept in fewer bits."""
    return (module.out_features, module.in_features) if isinstance(module, nn.Linear) else tuple(module.weight.shape)


def _layer(modules: Mapping[str, nn.Module], layer: str) -> Any:
    """The linear layer or convolution of that name; None where there is none."""
    bare = layer.removeprefix(LEGACY)
    module = modules.get(bare, modules.get(LEGACY + bare))
    module = getattr(module, "base_layer", module)
    return module if isinstance(module, nn.Linear | nn.Conv2d) else None


def _here(net: nn.Module, name: str) -> str:
    """A layer's name in this version of transformers, which may put `text_model.` before it."""
    bare = name.removeprefix(LEGACY)
    return f"{LEGACY}{bare}" if hasattr(net, LEGACY.rstrip(".")) else bare


def _layers(model: Model) -> Iterator[Any]:
    for part in PARTS:
        if part in model.parts:
            yield from (module for module in model[part].modules() if hasattr(module, "set_scale"))


def _prefix(net: nn.Module) -> str:
    return LEGACY if isinstance(net, CLIPTextModel) else ""
