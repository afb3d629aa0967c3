"""Batches: which pictures they are of, what they hold, and how they are put together; against plain python."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from tenshot.core.device import generator
from tenshot.diffusion import losses
from tenshot.diffusion.process import DDPM
from tenshot.families.base import MicroConditioning
from tenshot.train.engine import denoising
from tenshot.train.engine.denoising import Batch, Latents, Objective
from tenshot.train.engine.rng import CounterRNG

PROCESS = DDPM.from_config({"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"})
SIZES = [(8, 4), (4, 8), (8, 4), (4, 8), (8, 4), (6, 6)]


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def oblong(**more: object) -> Latents:
    each = [(some(3, *size, seed=row), some(3, *size, seed=row + 9).abs()) for row, size in enumerate(SIZES)]
    return Latents(each, SIZES, [MicroConditioning.whole((row, 1)) for row in range(len(SIZES))], **more)


def batch(rows: list[int], channels: int = 3, side: int = 4, mask: torch.Tensor | None = None, seed: int = 0) -> Batch:
    shape, frames = (len(rows), channels, side, side), [MicroConditioning.whole((row, 2)) for row in rows]
    times = torch.arange(len(rows)) * 100 + 5
    return Batch(rows, frames, some(*shape, seed=seed), some(*shape, seed=seed + 1), times, mask)


def test_latents_of_whole_pictures():
    mean, std = some(2, 4, 3, 5), some(2, 4, 3, 5, seed=1).abs()
    made = Latents.of(mean, std)
    assert (made.sizes, made.frames) == ([(3, 5)] * 2, [MicroConditioning.whole((24, 40))] * 2)
    assert all(torch.equal(made.each[row][0], mean[row]) and torch.equal(made.each[row][1], std[row]) for row in (0, 1))
    assert Latents.of(mean, std, 4).frames[0].target_size == (12, 20)
    with pytest.raises(ValueError, match="is shorter than"):
        Latents.of(mean, std[:1])


def test_posteriors_are_float32():
    mean, std = some(2, 4, 2, 2).half(), some(2, 4, 2, 2, seed=1).abs().half()
    for told in (Latents.of(mean, std), Latents.of(mean.double(), std.double())):
        found = told.posteriors([1, 0])
        assert [part.dtype for part in found] == [torch.float32] * 2
        assert torch.equal(found[0], mean[[1, 0]].float()) and torch.equal(found[1], std[[1, 0]].float())


class TestBuckets:
    def test_rows_stand_with_those_of_their_size_in_the_order_of_sizes(self):
        assert oblong().buckets == ((1, 3), (5,), (0, 2, 4)) and oblong().epoch == 6
        repeated = oblong(repeats=[1, 2, 3, 1, 1, 2])
        assert repeated.buckets == ((1, 1, 3), (5, 5), (0, 2, 2, 2, 4)) and repeated.epoch == 10

    @pytest.mark.parametrize("size", [1, 2, 3])
    def test_every_epoch_has_every_row_and_every_batch_one_size(self, size: int):
        """A bucket that does not come out even begins again, in the same order."""
        latents = oblong()
        count = sum(-(-len(rows) // size) for rows in latents.buckets)
        epochs = []
        for epoch in range(12):
            steps = range(epoch * count, (epoch + 1) * count)
            picked = [latents.pick(CounterRNG(3, range(step * size, (step + 1) * size)), "picture") for step in steps]
            assert all(len(rows) == size and len({SIZES[row] for row in rows}) == 1 for rows in picked)
            times = Counter(row for rows in picked for row in rows)
            for bucket in latents.buckets:
                more = -len(bucket) % size
                assert sum(times[row] for row in bucket) == len(bucket) + more
                assert max(times[row] for row in bucket) - min(times[row] for row in bucket) <= (more > 0)
            epochs.append(tuple(map(tuple, picked)))
        assert len(set(epochs)) > 6

    def test_an_epochs_order_is_that_of_its_own_generators(self):
        latents, size = oblong(), 2
        count = 1 + 1 + 2
        for step in range(3 * count):
            batches = []
            for number, rows in enumerate(latents.buckets):
                dice = generator(3, "picture", "epoch", step // count, number)
                order = [rows[place] for place in torch.randperm(len(rows), generator=dice).tolist()]
                order += order[: -len(rows) % size] if len(rows) > 1 else order
                batches += [order[start : start + size] for start in range(0, len(order), size)]
            mixed = torch.randperm(count, generator=generator(3, "picture", "epoch", step // count)).tolist()
            found = latents.pick(CounterRNG(3, range(step * size, (step + 1) * size)), "picture")
            assert found == batches[mixed[step % count]]

    def test_a_batch_has_the_shape_of_its_pictures(self):
        for step in range(6):
            made = Objective(PROCESS).draw(oblong(), CounterRNG(1, [2 * step, 2 * step + 1]))
            assert made.clean.shape == made.noise.shape == (2, 3, *SIZES[made.rows[0]])
            assert made.frames == [MicroConditioning.whole((row, 1)) for row in made.rows] and made.mask is None


def test_masks_of_rows_with_and_without_one():
    half = torch.tensor([[1.0, 0.0], [1.0, 0.0]])[None]
    latents = Latents([(some(3, 2, 2), some(3, 2, 2))] * 3, [(2, 2)] * 3, [MicroConditioning.whole((2, 2))] * 3)
    assert latents.mask([0, 1]) is None
    masked = Latents(latents.each, latents.sizes, latents.frames, [None, half, None])
    assert masked.mask([0, 2]) is None
    assert torch.equal(masked.mask([1]), half[None])
    assert torch.equal(masked.mask([1, 2]), torch.stack([half, torch.ones(1, 2, 2)]))


class TestJoined:
    def test_the_first_comes_before_the_second(self):
        one, other = batch([0, 1]), batch([7], seed=5)
        both = denoising.joined(one, other)
        assert both is not None and both.rows == [0, 1, 7] and both.frames == one.frames + other.frames
        assert torch.equal(both.clean, torch.cat([one.clean, other.clean])) and both.mask is None
        assert torch.equal(both.noise, torch.cat([one.noise, other.noise]))
        assert both.timesteps.tolist() == [5, 105, 5]

    def test_only_what_has_one_shape(self):
        assert denoising.joined(batch([0]), batch([1], side=5)) is None
        assert denoising.joined(batch([0]), batch([1], channels=4)) is None

    @pytest.mark.parametrize("first", [True, False])
    def test_where_one_has_a_mask_all_of_the_other_counts(self, first: bool):
        mask = some(2, 1, 4, 4).abs()
        pair = batch([0, 1], mask=mask), batch([7])
        both = denoising.joined(*(pair if first else pair[::-1]))
        whole = torch.ones(1, 1, 4, 4)
        assert both is not None and torch.equal(both.mask, torch.cat([mask, whole] if first else [whole, mask]))


def test_the_loss_is_where_the_denoiser_is():
    """Only the denoiser's place counts, not that of the pictures."""
    made = batch([0, 1], mask=torch.ones(2, 1, 4, 4))
    asked = []

    def predict(noisy: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        asked.append((noisy.is_meta, times.is_meta))
        return noisy * 0.5

    found = Objective(PROCESS).per_sample(predict, made, torch.device("meta"))
    assert found.is_meta and found.shape == (2,) and asked == [(True, True)]


def test_the_loss_is_of_what_a_mask_lets_count_as_the_process_weighs_it():
    made = batch([0, 1, 2], mask=(some(3, 1, 4, 4, seed=4) > 0).float())
    process = replace(PROCESS, snr_gamma=5.0)
    found = Objective(process).per_sample(lambda noisy, times: noisy * 0.5, made, torch.device("cpu"))
    noisy = process.add_noise(made.clean, made.noise, made.timesteps)
    error = losses.errors(noisy * 0.5, made.noise, mask=made.mask)
    torch.testing.assert_close(found, error * process.weight(made.timesteps))
    assert Objective(process).noise_offset == 0


def test_pictures_of_one_size_are_picked_one_by_one():
    latents, rng = Latents.of(some(5, 3, 2, 2), some(5, 3, 2, 2)), CounterRNG(4, range(7, 10))
    assert latents.pick(rng, "picture") == rng.pick("picture", 5)
    (row,) = Objective(PROCESS).draw(latents, CounterRNG(4, [3])).rows
    assert row == CounterRNG(4, [3]).pick("picture", 5)[0]
