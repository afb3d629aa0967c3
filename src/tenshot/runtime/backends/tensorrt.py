"""TensorRT: an engine made from the ONNX graph, without weights; a swap fits new ones into it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tenshot.core import device
from tenshot.core.device import DTYPES
from tenshot.core.errors import Fault, Refusal
from tenshot.runtime.backend import Candidate, Job
from tenshot.runtime.backends import onnx_graph
from tenshot.runtime.flat_modules import Cast, Flat

ENGINE = "net.engine"


def missing(where: torch.device) -> str:
    if where.type != "cuda":
        return "is for NVIDIA's GPUs"
    return onnx_graph.missing() if importlib.util.find_spec("tensorrt") else "pip install 'tenshot[tensorrt]'"


def candidates(where: torch.device) -> list[Candidate]:
    return [Candidate("tensorrt", each) for each in device.halves(where)]


def build(job: Job, candidate: Candidate, folder: Path) -> None:
    """Numbers are of the kinds that the graph says: no layer chooses another. Raises Refusal where TensorRT fails."""
    import tensorrt

    example = job.examples[0]
    builder = tensorrt.Builder(_logger())
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, _logger())
    with TemporaryDirectory() as place:
        graph = Path(place) / "net.onnx"
        net = Cast(job.net, DTYPES[candidate.precision], example[0].device)
        names = onnx_graph.write(net, example, graph, filled=True)
        if not parser.parse_from_file(str(graph)):
            raise _failed(f"does not take the graph: {parser.get_error(0)}")
    if lost := [name for name in names if not network.mark_weights_refittable(name)]:
        raise _failed(f"does not let {len(lost)} weights be changed: {', '.join(lost[:3])}")
    config = builder.create_builder_config()
    config.set_flag(tensorrt.BuilderFlag.REFIT_INDIVIDUAL)
    config.set_flag(tensorrt.BuilderFlag.STRIP_PLAN)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise _failed("made no engine")
    (folder / ENGINE).write_bytes(engine)


def load_program(folder: Path, candidate: Candidate, net: Flat, where: torch.device) -> TensorRT:
    return TensorRT(folder, candidate, where)


def _logger() -> Any:
    import tensorrt

    return tensorrt.Logger(tensorrt.Logger.ERROR)


def _failed(found: str) -> Refusal:
    return Refusal(Fault("tensorrt", found))


class TensorRT:
    """Runs the engine as one graph, made at the first call with these weights."""

    def __init__(self, folder: Path, candidate: Candidate, where: torch.device) -> None:
        import tensorrt

        self.where, self.dtype = where, DTYPES[candidate.precision]
        self.kind = {"fp16": tensorrt.DataType.HALF, "bf16": tensorrt.DataType.BF16}[candidate.precision]
        self.runtime = tensorrt.Runtime(_logger())
        self.engine = self.runtime.deserialize_cuda_engine((folder / ENGINE).read_bytes())
        if self.engine is None:
            raise _failed("does not take the engine")
        names = [self.engine.get_tensor_name(number) for number in range(self.engine.num_io_tensors)]
        modes = [self.engine.get_tensor_mode(name) for name in names]
        self.inputs = [name for name, mode in zip(names, modes, strict=True) if mode == tensorrt.TensorIOMode.INPUT]
        self.outputs = [name for name in names if name not in self.inputs]
        self.context: Any = None
        self.run: Callable[..., tuple[torch.Tensor, ...]] | None = None

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = [each.detach().contiguous() for each in inputs]
        if self.run is None:
            self.run = device.captured(self._call, given)
        return self.run(*given)

    def _call(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        shapes = [tuple(self.engine.get_tensor_shape(name)) for name in self.outputs]
        answer = tuple(torch.empty(shape, device=self.where) for shape in shapes)
        for name, each in zip((*self.inputs, *self.outputs), (*inputs, *answer), strict=True):
            self.context.set_tensor_address(name, each.data_ptr())
        if not self.context.execute_async_v3(device.stream(self.where)):
            raise RuntimeError("TensorRT could not run its engine")
        return answer

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Raises Refusal where TensorRT does not take them."""
        import tensorrt

        self.run = self.context = None
        refitter = tensorrt.Refitter(self.engine, _logger())
        kept = {
            name: weights[name].detach().to(self.where, self.dtype).contiguous() for name in refitter.get_all_weights()
        }
        device.synchronize()
        for name, each in kept.items():
            given = tensorrt.Weights(self.kind, each.data_ptr(), each.numel())
            if not refitter.set_named_weights(name, given, tensorrt.TensorLocation.DEVICE):
                raise _failed(f"does not take {name} {list(each.shape)}")
        if not refitter.refit_cuda_engine():
            raise _failed(f"lacks weights: {', '.join(refitter.get_missing_weights()[:3])}")
        self.context = self.engine.create_execution_context()
