"""What a backend is: something that turns a net of fixed shapes into a program whose weights can be exchanged.

A backend is one module with four functions, and one row in `backends.BACKENDS`:

    missing(where) -> str                    why it cannot work on a device; empty where it can
    candidates(where) -> list[Candidate]     the ways in which it could run a net there
    build(job, candidate, folder) -> None    write its program into `folder`; the numbers in job.net may be others after
    open(folder, candidate, net, where) -> Runner
        the program as it runs on that device, before it has weights; net: the plain one, in float32
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

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


def backend(name: str) -> Any:
    """The module of a backend. Raises Refusal where `name` is not known."""
    do = "leave it out, and all that this machine has may be used"
    if name not in BACKENDS and "." not in name:
        raise Refusal(Fault("--backend", f"{name!r} is not known", ", ".join(BACKENDS), do))
    try:
        return import_module(BACKENDS.get(name, name))
    except ImportError as error:
        raise Refusal(Fault("--backend", f"{name!r} cannot be used: {error}", ", ".join(BACKENDS), do)) from None
