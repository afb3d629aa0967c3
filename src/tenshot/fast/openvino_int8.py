"""Eight-bit weights and activations by NNCF, calibrated on what real pictures send through the net."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import torch

#: Layers that stay as they are: a small part of the work, and most of the error. What the first ones lose, everything
#: after them lacks; what shortcuts and the last block lose, nothing after them evens out.
WHOLE = (".*conv_in.*", ".*conv_out.*", ".*time_emb.*", ".*conv_shortcut.*")
LAST = re.compile(r"up_blocks\.(\d+)\.resnets\.(\d+)\.")


def quantized(graph: Any, examples: Sequence[tuple[torch.Tensor, ...]]) -> Any:
    """The graph with rounding put before every product; weights stay float32 constants beside their bounds."""
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, AdvancedSmoothQuantParameters

    nncf.set_log_level(logging.ERROR)
    advanced = AdvancedQuantizationParameters(
        smooth_quant_alphas=AdvancedSmoothQuantParameters(matmul=-1, convolution=-1),
        disable_bias_correction=True,
    )
    advanced.backend_params["compress_weights"] = False
    data = nncf.Dataset([[tensor.numpy() for tensor in example] for example in examples])
    with redirect_stdout(sys.stderr):  # it draws progress bars
        return nncf.quantize(
            graph,
            data,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(examples),
            advanced_parameters=advanced,
            ignored_scope=nncf.IgnoredScope(patterns=_whole(graph), validate=False),
        )


def _whole(graph: Any) -> list[str]:
    """Patterns of the names of the layers that are left out."""
    names = (each.get_friendly_name() for each in graph.get_ops())
    places = [(int(found[1]), int(found[2])) for name in names if (found := LAST.search(name))]
    last = [rf".*up_blocks\.{block}\.resnets\.{number}\..*" for block, number in places and [max(places)]]
    return [*WHOLE, *last]
