"""The training bench measures the same work twice: both recipes' losses agree, where the dice are the same."""

from __future__ import annotations

from itertools import islice

import pytest

from tenshot.bench import train
from tenshot.core.options import resolve


@pytest.mark.parametrize("method", ["lora", "dreambooth"])
def test_the_losses_of_both_recipes_agree(method: str):
    options = resolve(train.BenchTrainOptions, {"resolution": 64, "train_batch_size": 2})
    plain, ours = (list(islice(train._recipe(options, method, each), 3)) for each in (train.PLAIN, train.OURS))
    assert len(set(plain)) == 3
    assert ours == pytest.approx(plain, rel=1e-4)


def test_figures_and_their_ratios():
    rounds = [{"losses": [0.5, 0.4], "seconds": [1.0, 3.0, 2.0], "work": [3.0], "peak": 3e9, "libraries": 1e9}]
    better = [{"losses": [0.5, 0.404], "seconds": [1.0, 1.0, 1.0], "work": [2.0], "peak": 2e9, "libraries": 1e9}]
    rows = [train._row("lora", name, each) for name, each in ((train.PLAIN, rounds), (train.OURS, better))]
    assert (rows[0]["seconds_per_step"], rows[0]["steps_per_second"], rows[0]["peak_memory_bytes"]) == (2.0, 0.5, 3e9)
    assert train._ratio("lora", rows) == {
        "method": "lora",
        "speedup": 2.0,
        "speedup_by_cpu_seconds": 1.5,
        "memory_ratio": 0.67,
        "memory_ratio_without_libraries": 0.5,
        "largest_loss_difference": 0.01,
    }
