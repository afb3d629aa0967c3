"""ONNX Runtime: an ONNX graph, and a session made with the weights. A swap makes the session anew."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tenshot.core import device
from tenshot.core.device import DTYPES
from tenshot.runtime.backend import Candidate, Job
from tenshot.runtime.backends import onnx_graph
from tenshot.runtime.flat_modules import Cast, Flat

GRAPH = "net.onnx"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def missing(where: torch.device) -> str:
    if importlib.util.find_spec("onnxruntime") is None:
        return "pip install 'tenshot[onnx]'"
    import onnxruntime

    if PROVIDERS.get(where.type) not in onnxruntime.get_available_providers():
        return "pip install onnxruntime-gpu"
    return onnx_graph.missing()


def candidates(where: torch.device) -> list[Candidate]:
    """It has no bfloat16 on CPUs."""
    return [Candidate("onnxruntime", "fp16" if where.type == "cuda" else "fp32")]


def build(job: Job, candidate: Candidate, folder: Path) -> None:
    example = job.examples[0]
    onnx_graph.write(Cast(job.net, DTYPES[candidate.precision], example[0].device), example, folder / GRAPH)


def load_program(folder: Path, candidate: Candidate, net: Flat, where: torch.device) -> OnnxRuntime:
    return OnnxRuntime(folder, candidate, where)


class OnnxRuntime:
    """A session. kept: the weights whose memory it uses."""

    def __init__(self, folder: Path, candidate: Candidate, where: torch.device) -> None:
        self.graph, self.dtype, self.where = str(folder / GRAPH), DTYPES[candidate.precision], where
        self.kept: list[object] = []
        self.session: Any = None

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = [each.detach().contiguous() for each in inputs]
        answer = tuple(torch.empty(each.shape, device=self.where) for each in self.session.get_outputs())
        binding = self.session.io_binding()
        for place, each in zip(self.session.get_inputs(), given, strict=True):
            binding.bind_input(place.name, *self._memory(each))
        for place, each in zip(self.session.get_outputs(), answer, strict=True):
            binding.bind_output(place.name, *self._memory(each))
        device.synchronize()  # it has a stream of its own
        self.session.run_with_iobinding(binding)
        return answer

    def _memory(self, tensor: torch.Tensor) -> tuple[object, ...]:
        kind = torch.empty(0, dtype=tensor.dtype).numpy().dtype
        return self.where.type, self.where.index or 0, kind, tuple(tensor.shape), tensor.data_ptr()

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        import onnxruntime

        self.session = None  # what it holds is free before more is needed
        arrays = {name: each.detach().to("cpu", self.dtype).contiguous().numpy() for name, each in weights.items()}
        self.kept = [onnxruntime.OrtValue.ortvalue_from_numpy(each) for each in arrays.values()]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        options.add_external_initializers(list(arrays), self.kept)
        place = (PROVIDERS[self.where.type], {"device_id": self.where.index or 0} if self.where.type == "cuda" else {})
        self.session = onnxruntime.InferenceSession(self.graph, options, providers=[place])
