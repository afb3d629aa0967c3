"""What LyCORIS (arXiv 2309.14859) has beside factors: whole differences, and additions that multiply the weight itself.

OFT: arXiv 2306.07280. BOFT: arXiv 2311.06243. GLoRA: arXiv 2306.07967. IA3: arXiv 2205.05638.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tenshot.adapters.loha_lokr import Alpha, Tensors
from tenshot.adapters.weight_delta import Addition, Difference, alike


@dataclass(frozen=True)
class Full(Difference):
    """The difference itself: of a layer, of a norm, or of the bias of one."""

    tensor: torch.Tensor
    alpha: float = 0.0
    magnitude: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def rank(self) -> int:
        return 0

    def difference(self) -> torch.Tensor:
        return self.tensor.float()


@dataclass(frozen=True)
class Orthogonal(Addition):
    """OFT: the outputs turned, block by block. BOFT: in several stages, each with other blocks.

    blocks [blocks, size, size], or [stages, blocks, size, size]. constraint: of how far, for each output; 0: none.
    rescale [out, 1, ...]: the outputs' scales.
    """

    blocks: torch.Tensor
    constraint: float = 0.0
    rescale: torch.Tensor | None = None

    @property
    def outputs(self) -> int:
        return int(self.blocks.shape[-3] * self.blocks.shape[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.outputs,)

    @property
    def rank(self) -> int:
        return 0

    def fits(self, weight: Sequence[int]) -> bool:
        stages = self.blocks.shape[0] if self.blocks.ndim == 4 else 0
        last = 2 ** (stages - 1) * self.blocks.shape[-1] if stages else 1
        scales = self.outputs if self.rescale is None else self.rescale.numel()
        return len(weight) > 1 and weight[0] == self.outputs == scales and weight[0] % last == 0

    def change(self, weight: torch.Tensor, ratio: float = 1.0) -> torch.Tensor:
        turns = self._turns()
        if self.blocks.ndim == 3:
            blocks = weight.unflatten(0, turns.shape[:2])
            turned = torch.einsum("knm,kn...->km...", turns, blocks).flatten(0, 1)
            new = weight + ratio * (turned - weight)
        else:
            new = weight
            for stage, turn in enumerate(turns):
                new = _butterfly(new, torch.lerp(torch.eye(turn.shape[-1]).to(turn), turn, ratio), stage)
        if self.rescale is not None:
            new = new * self.rescale.float().reshape(-1, *(1,) * (weight.ndim - 1))
        return new - weight

    def _turns(self) -> torch.Tensor:
        """Orthogonal matrices by Cayley's transform of skew-symmetric ones."""
        skew = self.blocks.float() - self.blocks.float().transpose(-1, -2)
        length, most = skew.norm() + 1e-8, self.constraint * self.outputs
        if 0 < most < length:
            skew = skew * most / length
        one = torch.eye(skew.shape[-1]).to(skew)
        return (one + skew) @ (one - skew).inverse()


def _butterfly(weight: torch.Tensor, turns: torch.Tensor, stage: int) -> torch.Tensor:
    """Rows turned in blocks whose halves lie 2^stage halves apart."""
    size = turns.shape[-1]
    half = 2**stage * size // 2
    paired = weight.unflatten(0, (-1, 2, half)).transpose(1, 2).flatten(0, 2).unflatten(0, (-1, size))
    turned = torch.einsum("bij,bj...->bi...", turns, paired).flatten(0, 1)
    answer: torch.Tensor = turned.unflatten(0, (-1, half, 2)).transpose(1, 2).flatten(0, 2)
    return answer


@dataclass(frozen=True)
class Generalized(Addition):
    """GLoRA: scale * (W @ a1 @ a2 + b1 @ b2). a1 [in, rank], a2 [rank, in], b1 [out, rank], b2 [rank, in, ...]."""

    a1: torch.Tensor
    a2: torch.Tensor
    b1: torch.Tensor
    b2: torch.Tensor
    alpha: float

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.b1.shape[0], *self.b2.shape[1:])

    @property
    def rank(self) -> int:
        return int(self.b2.shape[0])

    def fits(self, weight: Sequence[int]) -> bool:
        return alike(self.shape, weight) and self.a1.shape[0] == self.a2.shape[1] == weight[1]

    def change(self, weight: torch.Tensor, ratio: float = 1.0) -> torch.Tensor:
        a1, a2, b1, b2 = (each.float().flatten(1) for each in (self.a1, self.a2, self.b1, self.b2))
        inputs = torch.einsum("oi...,ij->oj...", weight, a1 @ a2)
        return ratio * self.alpha / self.rank * (inputs + (b1 @ b2).reshape(weight.shape))


@dataclass(frozen=True)
class Scales(Addition):
    """IA3: outputs, or inputs, made larger by a share each."""

    shares: torch.Tensor
    by_input: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.shares.numel(),)

    @property
    def rank(self) -> int:
        return 0

    def fits(self, weight: Sequence[int]) -> bool:
        return len(weight) > 1 and weight[int(self.by_input)] == self.shares.numel()

    def change(self, weight: torch.Tensor, ratio: float = 1.0) -> torch.Tensor:
        sides = [-1 if axis == int(self.by_input) else 1 for axis in range(weight.ndim)]
        return ratio * self.shares.float().reshape(sides) * weight


def full(found: Tensors, alpha: Alpha) -> Full | None:
    """None, here and below, where the tensors do not belong together."""
    return Full(next(iter(found.values())))


def orthogonal(found: Tensors, alpha: Alpha) -> Orthogonal | None:
    blocks = found["oft_blocks"]
    whole = blocks.ndim in (3, 4) and blocks.shape[-1] == blocks.shape[-2] and blocks.numel() > 0
    if not whole or (blocks.ndim == 4 and blocks.shape[-1] % 2):
        return None
    constraint = float(found["alpha"].flatten()[0]) if "alpha" in found and found["alpha"].numel() else 0.0
    return Orthogonal(blocks, constraint, found.get("rescale"))


def generalized(found: Tensors, alpha: Alpha) -> Generalized | None:
    names = ("a1.weight", "a2.weight", "b1.weight", "b2.weight")
    if not all(name in found and found[name].ndim in (2, 4) for name in names):
        return None
    a1, a2, b1, b2 = (found[name] for name in names)
    if any(each.shape[2:].numel() != 1 for each in (a1, a2, b1)):
        return None
    if a1.shape[1] != a2.shape[0] or b1.shape[1] != b2.shape[0] or not b2.shape[0]:
        return None
    return Generalized(a1, a2, b1, b2, alpha(b2.shape[0]))


def scales(found: Tensors, alpha: Alpha) -> Scales | None:
    return Scales(found["weight"], bool(found["on_input"].any())) if "weight" in found else None
