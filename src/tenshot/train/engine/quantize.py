"""A frozen base in 4 or 8 bits (QLoRA, Dettmers et al., arXiv 2305.14314), through bitsandbytes: for LoRA only."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from tenshot.core.errors import Fault, Refusal

LEAST = 4096  # numbers in a weight: smaller ones are not worth it


def check(kind: str | None) -> None:
    """Refuse where the library is missing."""
    if kind and find_spec("bitsandbytes") is None:
        do = 'pip install "tenshot[optimizers]"'
        raise Refusal(Fault("--quantize_base", "bitsandbytes is not installed", "leave it out", do))


def quantize(net: nn.Module, kind: str) -> None:
    """Replace the linear layers of a frozen net, in place, by ones with weights in "nf4" or "int8"."""
    where = next(net.parameters()).device
    for name, layer in list(net.named_modules()):
        if type(layer) is nn.Linear and layer.weight.numel() >= LEAST:
            parent, _, own = name.rpartition(".")
            setattr(net.get_submodule(parent), own, _thin(layer, kind).to(where))


def _thin(layer: nn.Linear, kind: str) -> nn.Module:
    bnb: Any = import_module("bitsandbytes")
    shape = (layer.in_features, layer.out_features, layer.bias is not None)
    thin: nn.Linear
    if kind == "nf4":
        thin = bnb.nn.Linear4bit(*shape, compute_dtype=torch.float32, quant_type="nf4")
        thin.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
    else:
        thin = bnb.nn.Linear8bitLt(*shape, has_fp16_weights=False)
        thin.weight = bnb.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
    thin.bias = layer.bias
    return thin
