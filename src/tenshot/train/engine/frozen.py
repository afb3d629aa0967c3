"""What does not learn rests in the number format of the forward pass, instead of being cast anew at every step."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

CAST = (nn.Linear, nn.Conv2d)  # whose weights autocast casts
MAGNITUDE = "lora_magnitude_vector"  # what a layer under DoRA has


def cast_frozen(net: nn.Module, dtype: torch.dtype) -> None:
    """Keep the frozen weights of `net` as autocast would cast them; under autocast it answers the same, bit for bit.

    Under DoRA they stay: it measures them.
    """
    measured = {inner for layer in net.modules() if len(getattr(layer, MAGNITUDE, ())) for inner in layer.modules()}
    for layer in net.modules():
        if layer in measured:
            continue
        if type(layer) in CAST:
            for parameter in layer.parameters(recurse=False):
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(dtype)
        elif isinstance(layer, BaseTunerLayer):
            peft: Any = layer
            peft.cast_input_dtype_enabled = False  # to float32, from which autocast would cast back
