"""What a backend is: something that turns a net of fixed shapes into a program whose weights can be exchanged.

A backend is one module with the four functions of `Backend`, and one row in `registry.BACKENDS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from tenshot.core.errors import Fault, Refusal
from tenshot.runtime.flat_modules import Flat
from tenshot.runtime.registry import BACKENDS

LOSSLESS = ("fp32", "bf16", "fp16")  # precisions that only round; int8 quantises

Tensors = Sequence[torch.Tensor]


@dataclass(frozen=True)
class Candidate:
    """One way to run a net.

    precision: "fp32" | "bf16" | "fp16" | "int8". variant: what else is special. rewrites: names in rewrites.py.
    """

    backend: str
    precision: str
    variant: str = ""
    rewrites: tuple[str, ...] = ()

    def __str__(self) -> str:
        ours = " and ".join(self.rewrites)
        return " ".join(filter(None, (self.backend, self.precision, self.variant, ours and f"with our {ours}")))

    @property
    def lossless(self) -> bool:
        return self.precision in LOSSLESS


@dataclass(frozen=True)
class Job:
    """A net to compile, in float32, on the device to compile for.

    examples: inputs from real pictures, on that device, all of the shapes to compile for.
    """

    net: Flat
    examples: Sequence[tuple[torch.Tensor, ...]]


class Runner(Protocol):
    """A program that takes and returns float32 tensors of fixed shapes."""

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]: ...

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take these weights, by the part's own names, from now on; every one of the net's has to be there."""


@runtime_checkable
class Backend(Protocol):
    """What a backend's module has, as functions."""

    def missing(self, where: torch.device) -> str:
        """Why it cannot work on a device; empty where it can."""

    def candidates(self, where: torch.device) -> list[Candidate]:
        """The ways in which it could run a net there."""

    def build(self, job: Job, candidate: Candidate, folder: Path) -> None:
        """Write its program into `folder`; the numbers in job.net may be others after."""

    def load_program(self, folder: Path, candidate: Candidate, net: Flat, where: torch.device) -> Runner:
        """The program as it runs on that device, before it has weights; net: the plain one, in float32."""


FUNCTIONS = tuple(name for name in vars(Backend) if not name.startswith("_"))


def backend(name: str) -> Backend:
    """The module of a backend. Raises Refusal where `name` is not known, or is no backend."""
    do = "leave it out, and all that this machine has may be used"
    if name not in BACKENDS and "." not in name:
        raise Refusal(Fault("--backend", f"{name!r} is not known", ", ".join(BACKENDS), do))
    try:
        module: object = import_module(BACKENDS.get(name, name))
    except ImportError as error:
        raise Refusal(Fault("--backend", f"{name!r} cannot be used: {error}", ", ".join(BACKENDS), do)) from None
    if not isinstance(module, Backend):
        lacks = ", ".join(each for each in FUNCTIONS if not hasattr(module, each))
        raise Refusal(Fault("--backend", f"{name!r} is no backend: it has no {lacks}", ", ".join(BACKENDS), do))
    return module
