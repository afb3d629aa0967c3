"""Adapters whose differences are products of small matrices: LoHa (Hadamard's) and LoKr (Kronecker's).

LoHa: FedPara, arXiv 2108.06098. LoKr and the names in files: LyCORIS, arXiv 2309.14859.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from tenshot.adapters.weight_delta import Difference

Tensors = Mapping[str, torch.Tensor]
Alpha = Callable[[int], float]  #: rank -> a layer's alpha
HADAMARD = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
KRONECKER = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t1", "lokr_t2")


@dataclass(frozen=True)
class Pair:
    """left @ right: left [out, rank], right [rank, in]; with a `core` [rank, rank, k, k] (Tucker) left [rank, out]."""

    left: torch.Tensor
    right: torch.Tensor
    core: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        return int(self.right.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        if self.core is None:
            return (self.left.shape[0], self.right.shape[1])
        return (self.left.shape[1], self.right.shape[1], *self.core.shape[2:])

    @property
    def whole(self) -> bool:
        """Do the factors belong together?"""
        if self.left.ndim != 2 or self.right.ndim != 2 or not self.rank:
            return False
        if self.core is None:
            return self.left.shape[1] == self.rank
        return self.core.ndim == 4 and tuple(self.core.shape[:2]) == (self.left.shape[0], self.rank)

    def product(self) -> torch.Tensor:
        left, right = self.left.float(), self.right.float()
        return left @ right if self.core is None else torch.einsum("ijkl,io,jn->onkl", self.core.float(), left, right)


@dataclass(frozen=True)
class Hadamard(Difference):
    """LoHa: scale * (one ∘ other), entry by entry."""

    one: Pair
    other: Pair
    alpha: float
    magnitude: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.one.shape

    @property
    def rank(self) -> int:
        return self.one.rank

    def difference(self) -> torch.Tensor:
        return self.alpha / self.rank * self.one.product() * self.other.product()


@dataclass(frozen=True)
class Kronecker(Difference):
    """LoKr: scale * (outer ⊗ inner). Each is whole or a pair; where both are whole, alpha is the scale itself."""

    outer: torch.Tensor | Pair
    inner: torch.Tensor | Pair
    alpha: float
    magnitude: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        outer, inner = tuple(self.outer.shape), tuple(self.inner.shape)
        return (outer[0] * inner[0], outer[1] * inner[1], *inner[2:])

    @property
    def rank(self) -> int:
        return next((each.rank for each in (self.inner, self.outer) if isinstance(each, Pair)), 0)

    def difference(self) -> torch.Tensor:
        outer, inner = (each.product() if isinstance(each, Pair) else each.float() for each in (self.outer, self.inner))
        product = torch.kron(outer.reshape(*outer.shape, *(1,) * (inner.ndim - 2)).contiguous(), inner.contiguous())
        return product * (self.alpha / (self.rank or 1))


def hadamard(found: Tensors, alpha: Alpha) -> Hadamard | None:
    """None where the tensors do not belong together."""
    if not {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"} <= found.keys():
        return None
    one, other = (Pair(found[f"hada_w{n}_a"], found[f"hada_w{n}_b"], found.get(f"hada_t{n}")) for n in (1, 2))
    if not (one.whole and other.whole and one.shape == other.shape):
        return None
    return Hadamard(one, other, alpha(one.rank), found.get("magnitude"))


def kronecker(found: Tensors, alpha: Alpha) -> Kronecker | None:
    """None where the tensors do not belong together."""
    outer, inner = (_whole_or_pair(found, f"lokr_w{n}", f"lokr_t{n}") for n in (1, 2))
    if outer is None or inner is None or len(outer.shape) != 2 or len(inner.shape) not in (2, 4):
        return None
    made = Kronecker(outer, inner, 1.0, found.get("magnitude"))
    return replace(made, alpha=alpha(made.rank))


def _whole_or_pair(found: Tensors, name: str, core: str) -> torch.Tensor | Pair | None:
    if name in found:
        return found[name]
    if not {f"{name}_a", f"{name}_b"} <= found.keys():
        return None
    pair = Pair(found[f"{name}_a"], found[f"{name}_b"], found.get(core))
    return pair if pair.whole else None
