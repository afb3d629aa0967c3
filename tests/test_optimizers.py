"""Every optimizer learns, resumes bit for bit, and is refused where it cannot work."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from tenshot.core.errors import Cancelled, Refusal
from tenshot.train.engine import loop, optimizers
from tenshot.train.engine.rng import CounterRNG
from tenshot.train.options import Optimizer
from tests.test_loop import Ear, Regression, options, weights

HERE = [name for name in get_args(Optimizer) if name != "adamw8bit"]


def test_the_table_and_the_option_agree():
    assert set(optimizers.KINDS) == set(get_args(Optimizer))


@pytest.mark.parametrize("name", HERE)
def test_it_learns_and_resumes_bit_for_bit(name: str, tmp_path: Path):
    pytest.importorskip(optimizers.KINDS[name].place.split(":")[0])
    steps, rate = (400, 1.0) if name == "prodigy" else (60, 0.02)
    given = {"optimizer": name, "max_train_steps": steps, "learning_rate": rate}
    whole = Regression()
    before = whole.loss(CounterRNG(99, range(500))).item()
    loop.fit(whole, options(tmp_path / "whole", train_batch_size=4, **given), Ear())
    assert whole.loss(CounterRNG(99, range(500))).item() < 0.9 * before
    for last in (7, 8, 23):
        with pytest.raises(Cancelled):
            loop.fit(Regression(), options(tmp_path / "cut", train_batch_size=4, **given), Ear(last))
    cut = Regression()
    loop.fit(cut, options(tmp_path / "cut", train_batch_size=4, **given), Ear())
    assert weights(cut) == weights(whole)


def test_looking_on_changes_nothing(tmp_path: Path):
    class Looker:
        seen: list[dict[str, list[float]]] = []  # noqa: RUF012

        def due(self, step: int) -> bool:
            return step % 3 == 0

        def done(self, step: int) -> bool:
            return False

        def validate(self, step: int) -> None:
            self.seen.append(weights(method))

    for given in ({"use_ema": True, "ema_decay": 0.5}, {"optimizer": "schedulefree"}):
        if "optimizer" in given:
            pytest.importorskip("schedulefree")
        method = Regression()
        loop.fit(method, options(tmp_path / f"plain {len(given)}", **given), Ear())
        plain = weights(method)
        Looker.seen.clear()
        method = Regression()
        loop.fit(method, options(tmp_path / f"seen {len(given)}", **given), Ear(), Looker())
        assert weights(method) == plain
        assert Looker.seen[-1] == plain  # what was looked at last is what is saved


@pytest.mark.parametrize(("given", "where"), [
    ({"optimizer": "adamw8bit"}, "--optimizer"),
    ({"use_8bit_adam": True, "optimizer": "lion"}, "--use_8bit_adam"),
    ({"optimizer": "schedulefree", "lr_scheduler": "cosine"}, "--lr_scheduler"),
    ({"optimizer": "schedulefree", "use_ema": True}, "--use_ema"),
    ({"optimizer": "prodigy", "learning_rate": 1e-4}, "--learning_rate"),
])  # fmt: skip
def test_what_cannot_work_is_refused(given: dict, where: str, tmp_path: Path):
    with pytest.raises(Refusal) as caught:
        optimizers.check(options(tmp_path, **given), "cpu")
    assert where in [fault.where for fault in caught.value.faults]


def test_what_is_not_installed_is_refused_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(optimizers.KINDS, "lion", optimizers.Kind("no_such_package:Lion", lambda o: {}))
    with pytest.raises(Refusal, match="no_such_package is not installed"):
        optimizers.check(options(tmp_path, optimizer="lion"), "cpu")
