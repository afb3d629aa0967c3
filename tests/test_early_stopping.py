"""Stopping when it has learned: the rule itself, and a run that stops and is resumed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tenshot.core.errors import Cancelled
from tenshot.train.engine import early_stopping, loop
from tests.test_loop import Ear, Regression, options, weights


def test_a_loss_that_falls_has_not_learned_and_one_that_lies_still_has():
    falling = [1 - n / 1000 for n in range(75)]
    assert not any(early_stopping.converged(falling[:n]) for n in range(75))
    settled = [math.exp(-n / 3) for n in range(90)]
    assert next(n for n in range(90) if early_stopping.converged(settled[:n])) == 2 * early_stopping.WINDOW


@pytest.mark.slow
def test_a_run_stops_by_itself_and_so_does_one_that_was_cut(tmp_path: Path):
    given = {"stop_when_learned": True, "max_train_steps": 5000, "train_batch_size": 8, "learning_rate": 0.05}
    whole, ear = Regression(), Ear()
    fit = loop.fit(whole, options(tmp_path / "whole", **given), ear)
    assert 2 * early_stopping.WINDOW * early_stopping.EVERY <= fit.step < 5000
    assert ear.saved[-1] == fit.step
    with pytest.raises(Cancelled):
        loop.fit(Regression(), options(tmp_path / "cut", **given), Ear(405))
    cut = Regression()
    assert loop.fit(cut, options(tmp_path / "cut", **given), Ear()).step == fit.step
    assert weights(cut) == weights(whole)
    again = Regression()
    assert loop.fit(again, options(tmp_path / "cut", **given), Ear()).step == fit.step
    assert weights(again) == weights(whole)
