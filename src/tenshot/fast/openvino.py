"""OpenVINO: the graph once, the weights by place. A swap fills the weights' places and reads the graph again.

The graph (net.xml) names every constant by where it lies in one block of bytes. rest.bin has the bytes of all constants
that are no weights; places.json says where those and every weight belong.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch

from tenshot import device
from tenshot.errors import Fault, Refusal
from tenshot.fast.backend import Candidate, Job
from tenshot.fast.parts import MARK, Flat, mark
from tenshot.files.tensors import write_json

GRAPH, REST, PLACES, WHOLE = "net.xml", "rest.bin", "places.json", "whole.bin"
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "bf16"}


@dataclass(frozen=True)
class Range:
    """The bounds between which a weight is rounded: `factor` times its largest magnitude, of each output channel."""

    weight: str
    factor: float
    offset: int
    count: int

    @property
    def end(self) -> int:
        return self.offset + 4 * self.count


@dataclass(frozen=True)
class Places:
    """size: of the block, in bytes. weights: name -> offset. rest: (offset, bytes) one after the other in rest.bin."""

    size: int
    weights: dict[str, int]
    rest: list[tuple[int, int]]
    ranges: list[Range]


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

    weights = {name: tensor.detach().clone() for name, tensor in job.net.weights().items()}
    mark(job.net)
    graph = openvino.convert_model(job.net, example_input=job.examples[0])
    for given, example in zip(graph.inputs, job.examples[0], strict=True):
        given.get_node().set_partial_shape(openvino.PartialShape(list(example.shape)))
    graph.validate_nodes_and_infer_types()
    _write(graph, folder, job.net.weights(), weights)
    if candidate.precision == "int8":
        from tenshot.fast import openvino_int8

        plain = OpenVINO(folder, candidate)
        graph, block = plain.read(weights)  # some of the first graph's constants are copies: marks for good
        graph = openvino_int8.quantized(graph, job.examples)
        plain.fill(block.data, job.net.weights())
        _write(graph, folder, job.net.weights(), weights)


def _write(graph: Any, folder: Path, marks: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> None:
    """Write a graph whose weights are marks."""
    import openvino

    openvino.serialize(graph, folder / GRAPH, folder / WHOLE)
    marked = {_digest(tensor.detach().numpy()): name for name, tensor in marks.items()}
    _take_apart(folder, marked, weights)


def _digest(array: np.ndarray) -> tuple[int, bytes]:
    """By how long it is and how it begins: of 3 GB, all would take half a minute."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return flat.size, blake2b(flat[: 4 * MARK].data, digest_size=16).digest()


def _take_apart(folder: Path, marked: Mapping[tuple[int, bytes], str], weights: Mapping[str, torch.Tensor]) -> None:
    """Write what of the block of all constants is no weight, and where everything belongs."""
    graph = ElementTree.parse(folder / GRAPH).getroot()
    block = np.memmap(folder / WHOLE, dtype=np.uint8, mode="r")
    spans = {layer.get("id", ""): _span(layer) for layer in graph.iter("layer") if layer.get("type") == "Const"}
    names = {key: marked.get(_digest(block[start:end])) for key, (start, end) in spans.items()}
    taken = {name: spans[key] for key, name in names.items() if name}
    if lost := sorted(weights.keys() - taken.keys()):
        raise Refusal(Fault("openvino", f"{len(lost)} weights are not in its graph: {', '.join(lost[:3])}"))
    ranges: dict[int, Range] = {}
    for key, weight in _bounds(graph, names):
        start, end = spans[key]
        values = block[start:end].view(np.float32)
        found = Range(weight, _factor(values, weights[weight]), start, len(values))
        if ranges.setdefault(start, found) != found:
            raise Refusal(Fault("openvino", f"{weight} and {ranges[start].weight} are rounded between the same bounds"))
    rest = list(_gaps([*taken.values(), *((each.offset, each.end) for each in ranges.values())], len(block)))
    with (folder / REST).open("wb") as file:
        for offset, count in rest:
            file.write(block[offset : offset + count].data)
    places = Places(len(block), {name: start for name, (start, _) in taken.items()}, rest, list(ranges.values()))
    write_json(folder / PLACES, asdict(places))
    del block
    (folder / WHOLE).unlink()


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


def _bounds(graph: ElementTree.Element, names: Mapping[str, str | None]) -> Iterator[tuple[str, str]]:
    """Every constant that bounds how a weight is rounded, and that weight."""
    inputs: dict[str, dict[int, str]] = {}
    for edge in graph.iter("edge"):
        inputs.setdefault(edge.get("to-layer", ""), {})[int(edge.get("to-port", 0))] = edge.get("from-layer", "")
    for layer in graph.iter("layer"):
        if layer.get("type") == "FakeQuantize":
            given = inputs[layer.get("id", "")]
            first, *others = (given[port] for port in sorted(given))
            if weight := names.get(first):
                yield from ((key, weight) for key in others)


def _factor(values: np.ndarray, weight: torch.Tensor) -> float:
    """How the bounds follow from the weight. Raises Refusal where they do not."""
    largest = _largest(weight, len(values))
    factors = values / largest
    middle = float(np.median(factors))
    if not np.allclose(factors, middle, rtol=1e-3):
        raise Refusal(Fault("openvino int8", "the bounds of a weight do not follow from its largest magnitude"))
    return middle


def _largest(weight: torch.Tensor, count: int) -> np.ndarray:
    """Of each output channel, or of the whole weight."""
    rows = weight.detach().float().reshape(count, -1)
    return rows.abs().amax(dim=1).clamp_min(1e-12).numpy()


def open(folder: Path, candidate: Candidate, net: Flat, where: torch.device) -> OpenVINO:
    return OpenVINO(folder, candidate)


class OpenVINO:
    """A compiled graph."""

    def __init__(self, folder: Path, candidate: Candidate) -> None:
        told = json.loads((folder / PLACES).read_text())
        ranges = [Range(**each) for each in told["ranges"]]
        self.places = Places(told["size"], told["weights"], [(a, b) for a, b in told["rest"]], ranges)
        self.graph = (folder / GRAPH).read_bytes()
        self.rest = np.fromfile(folder / REST, dtype=np.uint8)
        self.hint = HINTS[candidate.precision]
        self.run: Any = None

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        arrays = [each.detach().contiguous().numpy() for each in inputs]
        found = self.run(arrays, share_inputs=True, share_outputs=False)
        return tuple(torch.from_numpy(found[number]) for number in range(len(found)))

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        import openvino

        self.run = None  # what it holds is free before more is needed
        graph, _ = self.read(weights)
        settings = {
            "INFERENCE_PRECISION_HINT": self.hint,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        self.run = openvino.Core().compile_model(graph, "CPU", settings)

    def read(self, weights: Mapping[str, torch.Tensor]) -> tuple[Any, Any]:
        """The graph, and the block of bytes that all its constants are."""
        import openvino

        block = openvino.Tensor(openvino.Type.u8, openvino.Shape([self.places.size]))
        self.fill(block.data, weights)
        return openvino.Core().read_model(self.graph, block), block

    def fill(self, block: np.ndarray, weights: Mapping[str, torch.Tensor]) -> None:
        start = 0
        for offset, count in self.places.rest:
            block[offset : offset + count] = self.rest[start : start + count]
            start += count
        for name, offset in self.places.weights.items():
            values = weights[name].detach().float().contiguous().reshape(-1).numpy()
            block[offset : offset + values.nbytes] = values.view(np.uint8)
        for each in self.places.ranges:
            bounds = each.factor * _largest(weights[each.weight], each.count)
            block[each.offset : each.end] = bounds.astype(np.float32).view(np.uint8)
