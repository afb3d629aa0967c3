"""Random choices follow from (seed, purpose, sample), and from nothing else."""

from __future__ import annotations

import itertools

import pytest
import torch

from tenshot.train.engine.rng import STRATA, CounterRNG

KINDS = {
    "pick": lambda rng: rng.pick("p", 5),
    "noise": lambda rng: rng.noise("p", (2, 3)).tolist(),
    "integers": lambda rng: rng.integers("p", 0, 1000).tolist(),
    "uniform": lambda rng: rng.uniform("p").tolist(),
    "stratified": lambda rng: rng.stratified("p").tolist(),
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


@pytest.mark.parametrize("power", range(STRATA + 1))
def test_a_run_of_samples_has_one_in_each_part(power: int):
    parts = 2**power
    for block in range(3):
        drawn = CounterRNG(2, range(block * parts, (block + 1) * parts)).stratified("timestep")
        assert sorted((drawn * parts).long().tolist()) == list(range(parts))


def test_parts_come_in_an_order_that_block_and_purpose_and_seed_have_to_themselves():
    def order(seed: int, purpose: str, block: int) -> tuple[int, ...]:
        drawn = CounterRNG(seed, range(32 * block, 32 * block + 32)).stratified(purpose)
        return tuple((drawn * 32).long().tolist())

    orders = {order(*key) for key in itertools.product([0, 1], ["timestep", "class timestep"], range(4))}
    assert len(orders) == 16


def test_each_single_draw_is_uniform_over_the_seeds():
    """One more in each block would be no reason to prefer some times to others."""
    for sample in (0, 1, 6, 1023, 40_000):
        drawn = torch.cat([CounterRNG(seed, [sample]).stratified("timestep") for seed in range(1600)])
        assert torch.histc(drawn.float(), 8, 0, 1).sub(200).abs().max() < 60  # 4.5 sigma
        assert torch.histc((drawn * 2**STRATA % 1).float(), 4, 0, 1).sub(400).abs().max() < 78


def test_short_runs_have_the_mean_of_long_ones():
    """Free draws would lie 0.017 apart."""
    means = torch.stack([CounterRNG(seed, range(300)).stratified("timestep").mean() for seed in range(20)])
    assert means.std() < 0.002 and (means - 0.5).abs().max() < 0.004
