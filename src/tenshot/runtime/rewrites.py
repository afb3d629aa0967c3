"""Rewrites, on top of every backend: nets that give the same answers by less work.

A rewrite is one class of modules, and one row in REWRITES. Whether it is used, measuring decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.upsampling import Upsample2D
from torch import nn
from torch.nn import functional as F

from tenshot.core.errors import Fault, Refusal
from tenshot.runtime.backend import Candidate, Job, Runner, backend
from tenshot.runtime.flat_modules import PREFIX, Flat

Weights = Mapping[str, torch.Tensor]


class UpsampleRewrite(nn.Module):
    """Four convolutions of 2x2 in place of one of 3x3 after doubling the sides: 4/9 of the products.

    Doubled by nearest neighbours, three pixels in a row are two of the small picture, one of them twice, so that its
    two taps become one. Which ones depends on the pixel's corner in the block of 2x2 that a small pixel has become
    ("sub-pixel convolution", Shi et al., arXiv 1609.05158).
    """

    stands_for = Upsample2D

    @staticmethod
    def fits(plain: Upsample2D) -> bool:
        doubles: bool = plain.use_conv and not plain.use_conv_transpose and plain.interpolate and plain.norm is None
        return doubles and plain.name == "conv" and plain.conv.kernel_size == (3, 3)

    def __init__(self, plain: Upsample2D) -> None:
        super().__init__()
        self.conv: Any = nn.Module()
        self.conv.bias = plain.conv.bias
        self.corners = nn.ParameterList(self.derived({"conv.weight": plain.conv.weight.detach()}).values())

    @staticmethod
    def derived(weights: Weights) -> dict[str, torch.Tensor]:
        weight = weights["conv.weight"]
        columns = [columns for rows in _pairs(weight, 2) for columns in _pairs(rows, 3)]
        return {f"corners.{number}": each.contiguous() for number, each in enumerate(columns)}

    def forward(
        self, hidden_states: torch.Tensor, output_size: tuple[int, int] | None = None, *more: object, **named: object
    ) -> torch.Tensor:
        rows, _, high, wide = hidden_states.shape
        if output_size is not None and tuple(output_size) != (2 * high, 2 * wide):
            raise Refusal(Fault("upsampling", f"to {tuple(output_size)}", "twice the sides"))
        corners: list[torch.Tensor] = []
        for number, weight in enumerate(self.corners):
            below, right = divmod(number, 2)
            seen = F.pad(hidden_states, (1 - right, right, 1 - below, below))
            corners.append(F.conv2d(seen, weight, self.conv.bias).permute(0, 2, 3, 1))
        blocks = torch.stack(corners, 3).reshape(rows, high, wide, 2, 2, -1).permute(0, 1, 3, 2, 4, 5)
        return blocks.reshape(rows, 2 * high, 2 * wide, -1).permute(0, 3, 1, 2)


def _pairs(weight: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three taps as two: for the first of the two pixels that one has become, and for the second."""
    before, here, after = weight.unbind(axis)
    return torch.stack([before, here + after], axis), torch.stack([before + here, after], axis)


class GegluRewrite(nn.Module):
    """Two products in place of GEGLU's one (arXiv 2002.05202): no split after, and GELU can join the second."""

    stands_for = GEGLU

    @staticmethod
    def fits(plain: GEGLU) -> bool:
        return True

    def __init__(self, plain: GEGLU) -> None:
        super().__init__()
        sides, bias = (plain.proj.in_features, plain.proj.out_features // 2), plain.proj.bias is not None
        self.value, self.gate = (nn.Linear(*sides, bias=bias, device="meta") for _ in range(2))
        given = {f"proj.{name}": each.detach() for name, each in plain.proj.named_parameters()}
        self.load_state_dict(self.derived(given), assign=True)

    @staticmethod
    def derived(weights: Weights) -> dict[str, torch.Tensor]:
        halves = {name.removeprefix("proj."): each.chunk(2) for name, each in weights.items()}
        values = {f"value.{name}": value for name, (value, _) in halves.items()}
        return values | {f"gate.{name}": gate for name, (_, gate) in halves.items()}

    def forward(self, hidden_states: torch.Tensor, *more: object, **named: object) -> torch.Tensor:
        value: torch.Tensor = self.value(hidden_states)
        return value * F.gelu(self.gate(hidden_states))


#: Name of a gain -> the modules that it puts in place of others.
REWRITES: dict[str, type[UpsampleRewrite] | type[GegluRewrite]] = {"upsampling": UpsampleRewrite, "gates": GegluRewrite}


def fitting(net: Flat) -> list[str]:
    """The rewrites for which there is something in `net`."""
    return [name for name in REWRITES if _found(net, name)]


def _found(net: Flat, name: str) -> list[str]:
    """Where the modules are that a gain replaces."""
    kind = REWRITES[name]
    return [path for path, each in net.named_modules() if isinstance(each, kind.stands_for) and kind.fits(each)]


def applied(net: Flat, names: Sequence[str]) -> Flat:
    """A net that answers as `net` does; what is not rewritten shares its weights. Raises Refusal: a gain is unknown."""
    if strange := [name for name in names if name not in REWRITES]:
        raise Refusal(Fault("rewrites", f"{', '.join(strange)}: not known", ", ".join(REWRITES)))
    shared = {id(each): each for each in (*net.parameters(), *net.buffers())}
    new = deepcopy(net, shared) if names else net
    for name in names:
        for path in _found(net, name):
            new.set_submodule(path, REWRITES[name](net.get_submodule(path)))
    return new


def derived(net: Flat, weights: Weights) -> dict[str, torch.Tensor]:
    """The weights of `net`, which rewrites were applied to, from those of the plain one."""
    kept = net.weights().keys()
    found = dict(weights)
    for path, module in net.named_modules():
        if isinstance(module, (UpsampleRewrite, GegluRewrite)):
            own = f"{path.removeprefix(PREFIX)}."
            gone = {name: each for name, each in weights.items() if name.startswith(own) and name not in kept}
            new = module.derived({name.removeprefix(own): each for name, each in gone.items()})
            found |= {own + name: each for name, each in new.items()}
    return {name: found[name] for name in kept}


def build(job: Job, candidate: Candidate, folder: Path) -> None:
    """Write a candidate's program into `folder`; the numbers in job.net may be others after."""
    backend(candidate.backend).build(replace(job, net=applied(job.net, candidate.rewrites)), candidate, folder)


def load_program(folder: Path, candidate: Candidate, net: Flat, where: torch.device) -> Runner:
    """A candidate's program as it runs on that device, before it has weights; net: the plain one, in float32."""
    kind = backend(candidate.backend)
    if not candidate.rewrites:
        return kind.load_program(folder, candidate, net, where)
    rewritten = applied(net, candidate.rewrites)
    return Rewritten(kind.load_program(folder, candidate, rewritten, where), rewritten)


class Rewritten:
    """A program of a net that rewrites were applied to."""

    def __init__(self, runner: Runner, net: Flat) -> None:
        self.runner, self.net = runner, net

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.runner(*inputs)

    def load(self, weights: Weights) -> None:
        self.runner.load(derived(self.net, weights))
