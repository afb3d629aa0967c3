"""A net as an ONNX graph whose weights are named and lie elsewhere, so that each of them can be given later."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tenshot.core.errors import Fault, Refusal
from tenshot.runtime.flat_modules import Cast, mark

if TYPE_CHECKING:
    from onnxscript import ir

OPSET = 20  # of September 2023: every runtime reads it
ELSEWHERE, FILLED = "weights", "filled"  # files: one that is never written, one beside the graph


def missing() -> str:
    packages = ("onnx", "onnxscript")
    return "" if all(map(importlib.util.find_spec, packages)) else "pip install 'tenshot[onnx]'"


def write(net: Cast, example: tuple[torch.Tensor, ...], path: Path, *, filled: bool = False) -> list[str]:
    """The names of the weights in it. filled: with some numbers for them, for who cannot read a graph that has none.

    The numbers in `net` are others after. Raises Refusal where a weight that it uses is not in the graph.
    """
    from onnxscript import ir, optimizer

    mark(net.net)  # equal weights would become one
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(net, example, dynamo=True, optimize=False, opset_version=OPSET, verbose=False)
    graph = program.model
    names = net.names
    used = {name for name in names if (value := graph.graph.initializers.get(name)) is not None and value.uses()}
    optimizer.optimize_ir(graph, should_fold=lambda node: _folds(node, names))
    if lost := sorted(used - graph.graph.initializers.keys()):
        raise Refusal(Fault("onnx", f"{len(lost)} weights are not in its graph: {', '.join(lost[:3])}"))
    for name in used:
        value = graph.graph.initializers[name]
        value.name = value.const_value.name = names[name]
        if not filled:
            value.const_value = _nothing(value)
    ir.save(graph, path, external_data=FILLED if filled else None)
    return sorted(names[name] for name in used)


def _nothing(value: Any) -> ir.ExternalTensor:
    """In place of a weight."""
    from onnxscript import ir

    size = value.const_value.nbytes
    return ir.ExternalTensor(ELSEWHERE, 0, size, value.dtype, shape=value.shape, name=value.name, base_dir="")


def _folds(node: ir.Node, names: dict[str, str]) -> bool | None:
    """No where it reads a weight; else as the optimizer thinks best."""
    return False if any(value is not None and value.name in names for value in node.inputs) else None
