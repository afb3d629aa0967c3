"""OpenVINO: the graph once, the weights wherever they are. A swap reads the graph again and puts them in their places.

The graph (net.xml) names every constant by where it lies in one block of bytes. rest.bin has the bytes of all constants
that are no weights; places.json says where those belong, and which constant is which weight. A weight is not copied:
the constant is the tensor that was given.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import torch

from tenshot.core import device
from tenshot.core.errors import Fault, Refusal
from tenshot.io import hashes, text_files
from tenshot.io.tensors import write_json
from tenshot.runtime.backend import Candidate, Job
from tenshot.runtime.backends.int8_weights import Int8Weight
from tenshot.runtime.flat_modules import MARK, Flat, mark

if TYPE_CHECKING:
    import openvino

GRAPH, REST, PLACES, WHOLE = "net.xml", "rest.bin", "places.json", "whole.bin"
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "bf16"}


@dataclass(frozen=True)
class Places:
    """size: of the block, in bytes. weights: constant -> weight.

    rest: (offset, bytes), one after the other in rest.bin.
    """

    size: int
    weights: dict[str, str]
    rest: list[tuple[int, int]]
    eights: list[Int8Weight]


@cache
def core() -> openvino.Core:
    """The one of this process, which stays: a CPU plug-in that is unloaded after another was loaded leaves the thread a
    signal stack that is gone (on CPUs with AMX), and the next Ctrl-C is a segmentation fault (OpenVINO 2026.4.1)."""
    import openvino

    found = openvino.Core()
    found.get_property("CPU", "FULL_DEVICE_NAME")  # loads the plug-in
    return found


def missing(where: torch.device) -> str:
    if where.type != "cpu":
        return "is for CPUs here"
    return "" if importlib.util.find_spec("openvino") else "pip install 'tenshot[openvino]'"


def candidates(where: torch.device) -> list[Candidate]:
    whole = ["int8"] if importlib.util.find_spec("nncf") else []
    return [Candidate("openvino", each) for each in ("fp32", *device.halves(where), *whole)]


def build(job: Job, candidate: Candidate, folder: Path) -> None:
    """Raises Refusal where a weight is not found again in the graph."""
    import openvino
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    core()
    weights = {name: tensor.detach().clone() for name, tensor in job.net.weights().items()}
    mark(job.net)
    # What is built is compared with the net itself: a trace checked by a second one takes twice as long.
    traced = TorchScriptPythonDecoder(job.net, example_input=job.examples[0], trace_kwargs={"check_trace": False})
    graph = openvino.convert_model(traced, example_input=job.examples[0])
    for given, example in zip(graph.inputs, job.examples[0], strict=True):
        given.get_node().set_partial_shape(openvino.PartialShape(list(example.shape)))
    graph.validate_nodes_and_infer_types()
    _write(graph, folder, job.net.weights())
    if candidate.precision == "int8":
        from tenshot.runtime.backends import openvino_int8

        plain = OpenVINO(folder, candidate)
        graph = plain.read(weights)  # some constants of the first are copies: marks for good
        graph, eights = openvino_int8.quantized(graph, job.examples, plain.places.weights)
        for name, tensor in job.net.weights().items():
            weights[name].copy_(tensor)
        _write(graph, folder, job.net.weights(), eights)


def _write(
    graph: openvino.Model, folder: Path, marks: Mapping[str, torch.Tensor], eights: Sequence[Int8Weight] = ()
) -> None:
    """Write a graph whose weights are marks, but for those in eight bits."""
    import openvino

    openvino.serialize(graph, folder / GRAPH, folder / WHOLE)
    constants = [
        each for each in ElementTree.parse(folder / GRAPH).getroot().iter("layer") if each.get("type") == "Const"
    ]
    spans = {each.get("name", ""): _span(each) for each in constants}
    block = np.memmap(folder / WHOLE, dtype=np.uint8, mode="r")
    marked = {_digest(tensor.detach().numpy()): name for name, tensor in marks.items()}
    found = {name: marked.get(_digest(block[start:end])) for name, (start, end) in spans.items()}
    taken = {name: weight for name, weight in found.items() if weight}
    if lost := sorted(marks.keys() - {*taken.values(), *(each.weight for each in eights)}):
        raise Refusal(Fault("openvino", f"{len(lost)} weights are not in its graph: {', '.join(lost[:3])}"))
    ours = [*taken, *(name for each in eights for name in (each.whole, each.scale))]
    rest = list(_gaps([spans[name] for name in ours], len(block)))
    with (folder / REST).open("wb") as file:
        for offset, count in rest:
            file.write(block[offset : offset + count].data)
    write_json(folder / PLACES, asdict(Places(len(block), taken, rest, list(eights))))
    del block
    (folder / WHOLE).unlink()


def _digest(array: np.ndarray) -> tuple[int, str]:
    """By how long it is and how it begins: of 3 GB, all would take half a minute."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return flat.size, hashes.of_bytes(flat[: 4 * MARK].data)


def _span(layer: ElementTree.Element) -> tuple[int, int]:
    data = layer.find("data")
    assert data is not None
    start = int(data.get("offset", 0))
    return start, start + int(data.get("size", 0))


def _gaps(used: list[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """(offset, bytes) of what lies between."""
    end = 0
    for start, after in [*sorted(used), (size, size)]:
        if start > end:
            yield end, start - end
        end = max(end, after)


def load_program(folder: Path, candidate: Candidate, net: Flat, where: torch.device) -> OpenVINO:
    return OpenVINO(folder, candidate)


class OpenVINO:
    """A compiled graph."""

    def __init__(self, folder: Path, candidate: Candidate) -> None:
        told = text_files.read_json(folder / PLACES)
        eights = [Int8Weight(**each) for each in told["eights"]]
        self.places = Places(told["size"], told["weights"], [(a, b) for a, b in told["rest"]], eights)
        self.graph = (folder / GRAPH).read_bytes()
        self.rest = np.fromfile(folder / REST, dtype=np.uint8)
        self.hint = HINTS[candidate.precision]
        self.run: Any = None

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        arrays = [each.detach().contiguous().numpy() for each in inputs]
        found = self.run(arrays, share_inputs=True, share_outputs=False)
        return tuple(torch.from_numpy(found[number]) for number in range(len(found)))

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        self.run = None  # what it holds is free before more is needed
        graph = self.read(weights)
        settings = {
            "INFERENCE_PRECISION_HINT": self.hint,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        self.run = core().compile_model(graph, "CPU", settings)

    def read(self, weights: Mapping[str, torch.Tensor]) -> openvino.Model:
        """The graph, whose constants are these tensors."""
        import openvino

        block = openvino.Tensor(openvino.Type.u8, openvino.Shape([self.places.size]))  # most of it is never touched
        start = 0
        for offset, count in self.places.rest:
            block.data[offset : offset + count] = self.rest[start : start + count]
            start += count
        graph = core().read_model(self.graph, block)
        constants = {each.get_friendly_name(): each for each in graph.get_ops() if each.get_type_name() == "Constant"}
        for place, name in self.places.weights.items():
            _put(constants[place], weights[name])
        for each in self.places.eights:
            whole, scale = each.rounded(weights[each.weight])
            _put(constants[each.whole], whole)
            _put(constants[each.scale], scale)
        return graph


def _put(old: openvino.Node, values: torch.Tensor) -> None:
    """Let a constant be `values`, which are not copied where they lie as it wants them."""
    from openvino.op import Constant

    kept = values.detach() if values.dtype == torch.int8 else values.detach().float()
    new = Constant(kept.contiguous().reshape(list(old.shape)).numpy(), True)
    new.set_friendly_name(old.get_friendly_name())
    for reader in old.output(0).get_target_inputs():
        reader.replace_source_output(new.output(0))
