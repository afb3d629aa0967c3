"""Eight-bit weights and activations by NNCF, calibrated on what real pictures send through the net."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

import numpy as np
import torch

from tenshot.core.device import generator
from tenshot.core.errors import Fault, Refusal
from tenshot.runtime.backends.int8_weights import LAST, LEVELS, Int8Weight, largest

if TYPE_CHECKING:
    import openvino

#: Layers that stay as they are: a small part of the work, and most of the error. What the first ones lose, everything
#: after them lacks; what shortcuts and the last block lose, nothing after them evens out.
WHOLE = (".*conv_in.*", ".*conv_out.*", ".*time_emb.*", ".*conv_shortcut.*")
RESNET = re.compile(r"up_blocks\.(\d+)\.resnets\.(\d+)\.")


def quantized(
    graph: openvino.Model, examples: Sequence[tuple[torch.Tensor, ...]], weights: Mapping[str, str]
) -> tuple[openvino.Model, list[Int8Weight]]:
    """The graph with products of eight bits, and where its weights are that are kept in eight bits.

    weights: constant -> weight. Raises Refusal where one is rounded in another way.
    """
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
        graph = nncf.quantize(
            graph,
            data,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(examples),
            advanced_parameters=advanced,
            ignored_scope=nncf.IgnoredScope(patterns=_whole(graph), validate=False),
        )
    rounding = [each for each in graph.get_ops() if each.get_type_name() == "FakeQuantize"]
    constants = [(each, each.input_value(0).get_node()) for each in rounding]
    found = [(each, constant, weights.get(constant.get_friendly_name())) for each, constant in constants]
    return graph, [
        _replaced(each, constant, name, number) for number, (each, constant, name) in enumerate(found) if name
    ]


def _replaced(rounding: openvino.Node, constant: openvino.Node, name: str, number: int) -> Int8Weight:
    """Put whole numbers and their scale where a weight is rounded; marks for now, as no two constants may be equal."""
    from openvino import Type, opset13
    from openvino.op import Constant

    bounds = rounding.input_value(2).get_node().data
    marks = generator("eight", number)
    whole = Constant(torch.randint(-LAST, LAST + 1, list(constant.shape), generator=marks, dtype=torch.int8).numpy())
    scale = Constant(torch.rand(list(bounds.shape), generator=marks).numpy())
    found = Int8Weight(
        name, f"{name}/whole/{number}", f"{name}/scale/{number}", _factor(rounding, constant), bounds.size
    )
    whole.set_friendly_name(found.whole)
    scale.set_friendly_name(found.scale)
    product = opset13.multiply(opset13.convert(whole, Type.f32), scale)
    product.set_friendly_name(rounding.get_friendly_name())
    rounding.output(0).replace(product.output(0))
    return found


def _factor(rounding: openvino.Node, constant: openvino.Node) -> float:
    """How the bounds of the rounding follow from the weight. Raises Refusal where they do not."""
    lower, upper, *others = (rounding.input_value(port).get_node().data for port in (1, 2, 3, 4))
    reached = torch.from_numpy(upper.flatten()) / largest(torch.from_numpy(constant.data.copy()), upper.size)
    middle = reached.median()
    same = all(np.array_equal(one, two) for one, two in zip((lower, *others), (-upper, lower, upper), strict=True))
    if not same or rounding.get_attributes()["levels"] != LEVELS or not torch.allclose(reached, middle, rtol=1e-3):
        found = f"how {constant.get_friendly_name()} is rounded does not follow from its largest magnitude"
        raise Refusal(Fault("openvino int8", found))
    return float(middle)


def _whole(graph: openvino.Model) -> list[str]:
    """Patterns of the names of the layers that are left out."""
    names = (each.get_friendly_name() for each in graph.get_ops())
    places = [(int(found[1]), int(found[2])) for name in names if (found := RESNET.search(name))]
    last = [rf".*up_blocks\.{block}\.resnets\.{number}\..*" for block, number in places and [max(places)]]
    return [*WHOLE, *last]
