"""Eight-bit weights and activations by NNCF, calibrated on what real pictures send through the net."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import torch

#: Layers that stay as they are: they are few and small, and what they lose, everything after them lacks.
WHOLE = (".*conv_in.*", ".*conv_out.*", ".*time_emb.*")


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
            ignored_scope=nncf.IgnoredScope(patterns=list(WHOLE), validate=False),
        )
