"""What is measured against torch: in turns, warmed up, with a spread; what the spread leaves open is not claimed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tenshot.autotune import report, search, timing
from tenshot.autotune.report import Proof, Report
from tenshot.autotune.timing import Turns
from tenshot.autotune.trial import TrialResult
from tenshot.runtime.backend import Candidate


class Time:
    """A clock that goes only as far as work does, and a list of who worked."""

    def __init__(self) -> None:
        self.now, self.worked = 0.0, []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, takes: Callable[[int], float]) -> Callable[[], None]:
        def done() -> None:
            self.now += takes(self.worked.count(name))
            self.worked.append(name)

        return done


def measured(plain: Callable[[int], float], mine: Callable[[int], float], rounds: int = 3, **more: Any) -> Turns:
    clock = Time()
    return timing.in_turns(clock.work("plain", plain), clock.work("mine", mine), rounds, clock=clock, **more)


def test_both_are_warmed_up_and_take_turns_at_being_first():
    clock = Time()
    plain, mine = clock.work("plain", lambda n: 1.0), clock.work("mine", lambda n: 0.5)
    turns = timing.in_turns(plain, mine, 3, clock=clock)
    assert clock.worked == ["plain", "mine", "plain", "mine", "mine", "plain", "plain", "mine"]
    assert turns == Turns((1.0, 1.0, 1.0), (0.5, 0.5, 0.5))
    assert timing.speedup(*turns.seconds) == 2
    assert turns.spread == (2, 2)


def test_a_slow_first_call_counts_for_nothing():
    """As where the one is measured cold, and the other when all is warm: 17 times as fast, and yet the same thing."""
    turns = measured(lambda n: 1.0 if n else 17.0, lambda n: 1.0)
    assert turns.spread == (1, 1)
    assert not timing.certain(turns.spread)


@pytest.mark.parametrize("seed", range(20))
def test_equal_things_are_equal_within_the_spread(seed: int):
    """On a machine whose speed changes by a half, slowly, and that is disturbed."""
    dice = random.Random(seed)
    clock = Time()

    def takes(_: int) -> float:
        return (1 + 0.5 * (clock.now / 20 % 1)) * dice.uniform(1, 1.1)

    turns = timing.in_turns(clock.work("plain", takes), clock.work("mine", takes), 5, clock=clock)
    assert turns.spread
    low, high = turns.spread
    assert low <= 1 <= high
    assert low <= timing.speedup(*turns.seconds) <= high
    assert "not for certain" in timing.told(timing.speedup(*turns.seconds), turns.spread)


def test_quick_calls_are_many_to_a_turn():
    turns = measured(lambda n: 0.01, lambda n: 0.005)
    assert timing.speedup(*turns.seconds) == pytest.approx(2)


def test_turns_end_with_the_time():
    assert len(measured(lambda n: 1.0, lambda n: 1.0, 9, until=6).mine) == 3
    assert measured(lambda n: 1.0, lambda n: 1.0, 9, until=3) == Turns()  # one turn alone has no spread
    assert measured(lambda n: 1.0, lambda n: 1.0, 0) == Turns()


def a_report(turns: Turns, chosen: bool = True) -> Report:
    picture = Image.new("RGB", (8, 8))
    fast = TrialResult(Candidate("eager", "bf16"), seconds=0.5, plain=1.0, spread=(1.9, 2.1))
    contest = search.SectionSearch("unet", [fast], fast if chosen else None)
    proof = Proof([picture], [picture], ["a cat"], 1, turns, 0.1, [float("inf")], [1.0])
    return Report("pocket", "tenshot compile pocket", {"device": "a CPU", "cores": 2}, 0.05, [contest], proof)


FASTER, OPEN = Turns((2.0, 2.2), (1.0, 1.1)), Turns((1.0, 1.3), (1.2, 0.9))


@pytest.mark.parametrize(
    ("told", "says", "claims"),
    [
        (a_report(FASTER), "Pictures 2.00 times as fast", True),
        (a_report(OPEN), "the turns leave open: 0.83 to 1.44", False),
        (a_report(Turns()), "not measured", False),
        (a_report(FASTER, chosen=False), "Torch itself is kept", False),
        (a_report(Turns((1.0, 1.1), (2.0, 2.2))), "Pictures 0.50 times as fast", False),
    ],
)
def test_the_headline_claims_nothing_that_was_not_measured(told: Report, says: str, claims: bool, tmp_path: Path):
    assert says in report.headline(told)
    report.write(replace(told), tmp_path)
    page = (tmp_path / report.PAGE).read_text()
    assert says in page
    assert ("verdict good" in page) is claims
    assert ("instead of" in page) is claims
