"""Every random choice of a training run follows from (seed, purpose, sample): no state to save, none to lose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from tenshot.core.device import generator, seed_of

STRATA = 10  # of which 2^STRATA are told apart: as many as models have times


@dataclass(frozen=True)
class CounterRNG:
    """The random choices for one batch.

    seed: the run's seed. samples: for each row of the batch, its running number since the run began;
    it does not depend on how a step is cut into batches, so accumulation and several processes draw the same.
    """

    seed: int
    samples: Sequence[int]

    def __len__(self) -> int:
        return len(self.samples)

    def next(self, batches: int = 1) -> CounterRNG:
        """The choices for the batch that comes after so many."""
        return CounterRNG(self.seed, [sample + batches * len(self) for sample in self.samples])

    def pick(self, purpose: str, size: int) -> list[int]:
        """For each row, an index below `size`: every epoch is a new permutation of all of them."""
        return [_permutation(self.seed, purpose, sample // size, size)[sample % size] for sample in self.samples]

    def noise(self, purpose: str, shape: Sequence[int]) -> torch.Tensor:
        """Standard normal noise [len(self), *shape], float32, on the CPU."""
        return torch.stack([torch.randn(*shape, generator=g) for g in self._generators(purpose)])

    def integers(self, purpose: str, low: int, high: int) -> torch.Tensor:
        """One integer in [low, high) for each row, int64 [len(self)]."""
        return torch.cat([torch.randint(low, high, (1,), generator=g) for g in self._generators(purpose)])

    def uniform(self, purpose: str) -> torch.Tensor:
        """One number in [0, 1) for each row, float32 [len(self)]."""
        return torch.cat([torch.rand(1, generator=g) for g in self._generators(purpose)])

    def stratified(self, purpose: str) -> torch.Tensor:
        """One number in [0, 1) for each row, float64 [len(self)], so that samples in a row spread evenly.

        Of any 2^k samples, from a multiple of 2^k on, each lies in another of 2^k equal parts, for k up to STRATA
        (nested scrambling, Owen 1995): the mean of a short run comes near 1/2, which 300 free draws miss by 3 %.
        """
        places = [_stratum(self.seed, purpose, sample) for sample in self.samples]
        return (torch.tensor(places, dtype=torch.float64) + self.uniform(purpose)).mul(0.5**STRATA)

    def _generators(self, purpose: str) -> list[torch.Generator]:
        return [generator(self.seed, purpose, sample) for sample in self.samples]


@lru_cache(maxsize=8)
def _permutation(seed: int, purpose: str, epoch: int, size: int) -> tuple[int, ...]:
    return tuple(torch.randperm(size, generator=generator(seed, purpose, "epoch", epoch)).tolist())


def _stratum(seed: int, purpose: str, sample: int) -> int:
    """Halves within halves: two neighbours draw who gets which, then every second of them with its like, and so on."""
    found = 0
    for level in range(STRATA):
        pair, which = divmod(sample, 2)
        found = 2 * found + (which ^ seed_of(seed, purpose, "stratum", level, found, pair) & 1)
        sample = pair
    return found
