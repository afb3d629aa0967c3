"""AOTInductor: the net as torch.export sees it, compiled to a library. Weights are tensors that we own and it reads.

net.pt2 is the library. constants.pt has what it reads beside the inputs: weights by their layout alone (on the device
"meta"), and the few constants that are no weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tenshot.core import device
from tenshot.core.device import DTYPES
from tenshot.core.errors import Fault, Refusal, refuse_if
from tenshot.families import shapes
from tenshot.runtime.backend import Candidate, Job
from tenshot.runtime.backends.eager import CHANNELS_LAST
from tenshot.runtime.flat_modules import Cast, Flat

LIBRARY, CONSTANTS = "net.pt2", "constants.pt"
SETTINGS = {
    "always_keep_tensor_constants": True,  # else a bias of up to 8 elements becomes part of the code
    "aot_inductor.package_constants_in_so": False,
    "cpp.dynamic_threads": True,
}
Constants = dict[str, torch.Tensor]


def missing(where: torch.device) -> str:
    """What it needs to build, only `lacks` tells."""
    return ""


def candidates(where: torch.device) -> list[Candidate]:
    whole = ["fp32"] if where.type == "cpu" else []
    return [Candidate("aotinductor", each, CHANNELS_LAST) for each in (*whole, *device.halves(where))]


@torch.no_grad()
def build(job: Job, candidate: Candidate, folder: Path) -> None:
    """Raises Refusal where there is no compiler, or where a weight has become part of the library."""
    refuse_if(lacks())
    example = tuple(each.contiguous() for each in job.examples[0])
    net = Cast(job.net, DTYPES[candidate.precision], example[0].device, channels_last=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(net, example)
        torch._inductor.aoti_compile_and_package(
            exported, package_path=str(folder / LIBRARY), inductor_configs=dict(SETTINGS)
        )
    known = {**exported.state_dict, **exported.constants}
    read = _opened(folder, example[0].device).get_constant_fqns()
    refuse_if(_lost(exported, set(read)))
    own = net.names
    constants = {own.get(name, name): known[name].to("meta" if name in own else "cpu") for name in read}
    torch.save({"names": {own.get(name, name): name for name in read}, "constants": constants}, folder / CONSTANTS)


def lacks() -> list[Fault]:
    """What is not here that building needs, and running does not."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return [Fault("aotinductor", "no C++ compiler is here", "g++ or clang++", "apt install g++")]
    return []


def _lost(exported: Any, read: set[str]) -> list[Fault]:
    """Weights that the graph uses and the library does not read."""
    used = {node.name for node in exported.graph.nodes if node.users}
    lost = {name for node, name in exported.graph_signature.inputs_to_parameters.items() if node in used} - read
    found = f"{len(lost)} weights are part of its library: {', '.join(sorted(lost)[:3])}"
    return [Fault("aotinductor", found)] if lost else []


def _opened(folder: Path, where: torch.device) -> Any:
    alone = where.type == "cuda"  # one caller at a time, as capturing wants it
    index = -1 if where.index is None else where.index
    return torch._inductor.aoti_load_package(str(folder / LIBRARY), run_single_threaded=alone, device_index=index)


def load_program(folder: Path, candidate: Candidate, net: Flat, where: torch.device) -> AOTInductor:
    """Raises Refusal where the library reads other weights than the net has."""
    told = torch.load(folder / CONSTANTS, weights_only=True)
    weights = {name: each for name, each in told["constants"].items() if each.is_meta}
    rest = {name: each.to(where) for name, each in told["constants"].items() if not each.is_meta}
    refuse_if(_misfits(weights, net.weights(), DTYPES[candidate.precision]))
    places = {name: torch.empty_like(each, device=where) for name, each in weights.items()}
    library = _opened(folder, where)
    if set(library.get_constant_fqns()) != set(told["names"].values()):
        raise Refusal(Fault(str(folder), "the library reads other constants than its list says", "as it was compiled"))
    given = {told["names"][name]: each for name, each in {**places, **rest}.items()}
    library.load_constants(given, check_full_update=True, user_managed=True)
    return AOTInductor(library, places, given, where)


def _misfits(wanted: Constants, weights: Mapping[str, torch.Tensor], dtype: torch.dtype) -> list[Fault]:
    reads, has = ({name: each.shape for name, each in of.items()} for of in (wanted, weights))
    missing, wrong, _ = shapes.differences(reads, has)
    odd = [*missing, *wrong, *(name for name, each in wanted.items() if each.dtype != dtype)]
    found = f"{len(odd)} weights are not as the library reads them: {', '.join(odd[:3])}"
    return [Fault("aotinductor", found, "a model of the same architecture")] if odd else []


class AOTInductor:
    """Runs the library; on a GPU as one graph, made at the first call."""

    def __init__(self, library: Any, places: Constants, given: Constants, where: torch.device) -> None:
        self.library, self.places, self.where = library, places, where
        self.given = given  # the library reads their memory
        self.run: Callable[..., Any] | None = None if where.type == "cuda" else library

    @torch.no_grad()
    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        whole = [each.detach().contiguous() for each in inputs]  # it takes every layout for the one that it knows
        if self.run is None:
            self.run = device.captured(self.library, whole)
        return tuple(self.run(*whole))

    @torch.no_grad()
    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        for name, mine in self.places.items():
            mine.copy_(weights[name])
