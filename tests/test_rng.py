"""Random choices follow from (seed, purpose, sample), and from nothing else."""

from __future__ import annotations

import itertools

import pytest
import torch

from tenshot.train.engine.rng import CounterRNG

KINDS = {
    "pick": lambda rng: rng.pick("p", 5),
    "noise": lambda rng: rng.noise("p", (2, 3)).tolist(),
    "integers": lambda rng: rng.integers("p", 0, 1000).tolist(),
    "uniform": lambda rng: rng.uniform("p").tolist(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", [1, 2, 3, 12])
def test_draws_do_not_depend_on_how_a_step_is_cut(kind: str, cut: int):
    pieces = [KINDS[kind](CounterRNG(7, range(first, first + cut))) for first in range(0, 12, cut)]
    assert list(itertools.chain(*pieces)) == KINDS[kind](CounterRNG(7, range(12)))


@pytest.mark.parametrize("kind", KINDS)
def test_draws_do_not_depend_on_what_was_drawn_before(kind: str):
    fresh = KINDS[kind](CounterRNG(7, [4]))
    torch.manual_seed(99)
    KINDS[kind](CounterRNG(7, range(40)))
    assert KINDS[kind](CounterRNG(7, [4])) == fresh


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_every_epoch_is_a_permutation_of_its_own(size: int):
    epochs = [tuple(CounterRNG(3, range(e * size, (e + 1) * size)).pick("picture", size)) for e in range(30)]
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
    assert len(set(epochs)) > (1 if size > 1 else 0)


def test_seeds_differ_by_run_purpose_and_sample():
    keys = itertools.product([0, 1, 2**62], ["picture", "noise", "class noise", "posterior"], [0, 1, 10])
    drawn = [tuple(CounterRNG(seed, [sample]).noise(purpose, (4,))[0].tolist()) for seed, purpose, sample in keys]
    assert len(set(drawn)) == len(drawn)


def test_seeds_do_not_run_together():
    """Seed 1 and sample 11 is not seed 11 and sample 1."""
    assert not torch.equal(CounterRNG(1, [11]).noise("", (4,)), CounterRNG(11, [1]).noise("", (4,)))


def test_noise_is_standard_normal_and_timesteps_cover_their_range():
    rng = CounterRNG(0, range(2000))
    noise = rng.noise("noise", (4, 2, 2))
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    steps = rng.integers("timestep", 0, 10)
    assert torch.bincount(steps).min() > 150
    assert steps.max() == 9
    assert abs(rng.uniform("u").mean() - 0.5) < 0.03
