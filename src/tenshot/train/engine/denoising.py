"""What all diffusion training shares: draw pictures, noise, times; disturb the latents, ask the denoiser, compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

from tenshot.core import distributed
from tenshot.core.device import generator
from tenshot.core.size import Size
from tenshot.diffusion import losses
from tenshot.diffusion.process import Process
from tenshot.families.base import MicroConditioning
from tenshot.train.engine.rng import CounterRNG

Posterior = tuple[torch.Tensor, torch.Tensor]  #: mean and std [c, h/8, w/8]
Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Latents:
    """Encoded pictures as the VAE's posterior, already scaled. A row is one picture as it is learned.

    each: for every row its mean and std [c, h/8, w/8]; in memory, or read when asked for.
    sizes: for every row its (h/8, w/8). frames: for every row what it is a part of. masks: for every row what counts in
    it, [1, h/8, w/8], or None for all of it. repeats: how often a row comes in an epoch. ahead: begins to read rows.
    """

    each: Sequence[Posterior]
    sizes: Sequence[Size]
    frames: Sequence[MicroConditioning]
    masks: Sequence[torch.Tensor | None] = ()
    repeats: Sequence[int] = ()
    ahead: Callable[[Sequence[int]], None] | None = None

    @classmethod
    def of(cls, mean: torch.Tensor, std: torch.Tensor, factor: int = 8) -> Latents:
        """From tensors [n, c, h/8, w/8] of whole pictures. factor: pixels that a latent stands for, along one side."""
        size = Size(*mean.shape[-2:])
        frame = MicroConditioning.whole(Size(size.height * factor, size.width * factor))
        return cls(list(zip(mean, std, strict=True)), [size] * len(mean), [frame] * len(mean))

    def __len__(self) -> int:
        return len(self.each)

    @cached_property
    def buckets(self) -> tuple[tuple[int, ...], ...]:
        """The rows of one epoch by their size, each as often as it is repeated."""
        found: dict[Size, list[int]] = {}
        for row, size in enumerate(self.sizes):
            found.setdefault(size, []).extend([row] * (self.repeats[row] if self.repeats else 1))
        return tuple(tuple(rows) for _, rows in sorted(found.items()))

    @property
    def epoch(self) -> int:
        """How many samples a round through the pictures has."""
        return sum(map(len, self.buckets))

    def pick(self, rng: CounterRNG, purpose: str) -> list[int]:
        """The rows of a batch, all of one size. Every epoch is a new order of all of them."""
        if len(self.buckets) == 1:
            (rows,) = self.buckets
            return [rows[place] for place in rng.pick(purpose, len(rows))]
        batch, number = len(rng), rng.samples[0] // len(rng)
        count = sum(-(-len(rows) // batch) for rows in self.buckets)
        return list(_batches(rng.seed, purpose, number // count, self.buckets, batch)[number % count])

    def posteriors(self, rows: Sequence[int]) -> Posterior:
        """Mean and std of `rows`: float32 [len(rows), c, h/8, w/8]."""
        mean, std = (torch.stack(part).float() for part in zip(*(self.each[row] for row in rows), strict=True))
        return mean, std

    def mask(self, rows: Sequence[int]) -> torch.Tensor | None:
        """What counts in `rows`: float32 [len(rows), 1, h/8, w/8], or None for all of it."""
        if not any(self.masks[row] is not None for row in rows if self.masks):
            return None
        whole = torch.ones(1, *self.sizes[rows[0]])
        return torch.stack([whole if (mask := self.masks[row]) is None else mask for row in rows])


@lru_cache(maxsize=8)
def _batches(
    seed: int, purpose: str, epoch: int, shelves: tuple[tuple[int, ...], ...], batch: int
) -> list[tuple[int, ...]]:
    """An epoch in batches of one size each; a shelf that does not come out even begins again."""
    found = []
    for number, rows in enumerate(shelves):
        order = torch.randperm(len(rows), generator=generator(seed, purpose, "epoch", epoch, number)).tolist()
        full = [rows[place] for place in order]
        while len(full) % batch:
            full.append(full[len(full) - len(rows)])
        found += [tuple(full[start : start + batch]) for start in range(0, len(full), batch)]
    mixed = torch.randperm(len(found), generator=generator(seed, purpose, "epoch", epoch)).tolist()
    return [found[place] for place in mixed]


@dataclass(frozen=True)
class Batch:
    """What one step denoises. rows: pictures of their set; clean, noise: [batch, c, h/8, w/8]; timesteps: [batch].

    frames: what its pictures are parts of. mask: what counts, [batch, 1, h/8, w/8], or None for all.
    """

    rows: list[int]
    frames: list[MicroConditioning]
    clean: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    mask: torch.Tensor | None = None


@dataclass(frozen=True)
class Objective:
    """process: what the denoiser was trained to undo.

    noise_offset: share of noise that a whole channel has in common. error, bend: see `losses.errors`.
    """

    process: Process
    noise_offset: float = 0.0
    error: losses.Error = "l2"
    bend: float = 0.1

    def draw(self, latents: Latents, rng: CounterRNG, purpose: str = "") -> Batch:
        """Pictures, noise and timesteps for one batch; `purpose` tells several sets in one step apart."""
        rows = latents.pick(rng, f"{purpose}picture")
        mean, std = latents.posteriors(rows)
        if latents.ahead:
            latents.ahead(latents.pick(rng.next(distributed.world_size()), f"{purpose}picture"))
        clean = mean + std * rng.noise(f"{purpose}posterior", mean.shape[1:])
        noise = rng.noise(f"{purpose}noise", mean.shape[1:])
        if self.noise_offset:
            noise = noise + self.noise_offset * rng.noise(f"{purpose}offset", (mean.shape[1], 1, 1))
        steps = self.process.sample_t(rng, f"{purpose}timestep")
        return Batch(rows, [latents.frames[row] for row in rows], clean, noise, steps, latents.mask(rows))

    def per_sample(self, predict: Predict, batch: Batch, where: torch.device) -> torch.Tensor:
        """The weighted loss of each sample, float32 [batch]. predict: from noisy latents and times to an answer."""
        clean, noise, steps = batch.clean.to(where), batch.noise.to(where), batch.timesteps.to(where)
        mask = None if batch.mask is None else batch.mask.to(where)
        answer = predict(self.process.add_noise(clean, noise, steps), steps)
        error = losses.errors(answer, self.process.target(clean, noise, steps), self.error, self.bend, mask)
        weight = self.process.weight(steps)
        return error if weight is None else error * weight


def joined(first: Batch, second: Batch) -> Batch | None:
    """Two batches as one, the first before the second; None where their sizes differ."""
    if first.clean.shape[1:] != second.clean.shape[1:]:
        return None
    pairs = ((first.clean, second.clean), (first.noise, second.noise), (first.timesteps, second.timesteps))
    mask = None
    if first.mask is not None or second.mask is not None:
        whole = [torch.ones(len(b.rows), 1, *b.clean.shape[2:]) if b.mask is None else b.mask for b in (first, second)]
        mask = torch.cat(whole)
    clean, noise, timesteps = (torch.cat(pair) for pair in pairs)
    return Batch(first.rows + second.rows, first.frames + second.frames, clean, noise, timesteps, mask)
