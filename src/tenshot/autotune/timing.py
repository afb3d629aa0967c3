"""What takes how long: two things are measured in turns, warmed up, and every figure comes with its spread."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from tenshot.core import device

SHORT = 0.2  # seconds that a turn of many quick calls takes at least
LEAST = 2  # turns; one alone has no spread

Spread = tuple[float, float]
Clock = Callable[[], float]
T = TypeVar("T")


@dataclass(frozen=True)
class Turns:
    """Seconds of a call in each turn: of torch in float32, and of what is compared with it."""

    plain: tuple[float, ...] = ()
    mine: tuple[float, ...] = ()

    @property
    def seconds(self) -> tuple[float, float]:
        """The medians; zeros where nothing was measured."""
        return (median(self.plain), median(self.mine)) if self.mine else (0.0, 0.0)

    @property
    def spread(self) -> Spread | None:
        """The least and the greatest speedup of any turn over any other; None where nothing was measured.

        It is above 1 only if every turn of torch took longer than every other; with three turns each, equal things are
        so in one of twenty trials.
        """
        return (min(self.plain) / max(self.mine), max(self.plain) / min(self.mine)) if self.mine else None


def speedup(plain: float, mine: float) -> float:
    """0 where nothing was measured."""
    return plain / mine if mine else 0.0


def certain(spread: Spread | None) -> bool:
    """Is it faster, whichever turns are compared?"""
    return spread is not None and spread[0] > 1


def told(ratio: float, spread: Spread | None) -> str:
    """A speedup in words. Nothing is claimed that the spread leaves open."""
    if spread is None:
        return f"{ratio:.2f} times as fast" if ratio else "not timed"
    doubt = ": not for certain" if spread[0] <= 1 <= spread[1] else ""
    return f"{ratio:.2f} times as fast ({spread[0]:.2f} to {spread[1]:.2f}{doubt})"


def seconds(work: Callable[[], T], clock: Clock = time.perf_counter) -> tuple[float, T]:
    start = clock()
    found = work()
    device.synchronize()
    return clock() - start, found


def in_turns(
    plain: Callable[[], object],
    mine: Callable[[], object],
    rounds: int,
    until: float = math.inf,
    clock: Clock = time.perf_counter,
) -> Turns:
    """Both in turns, who begins in turns too, after each was warmed up; fewer rounds where `clock` passes `until`."""
    works = (plain, mine)
    times: tuple[list[float], list[float]] = ([], [])
    counts = [_count(work, clock) for work in works] if rounds else []
    for number in range(rounds):
        if clock() > until:
            break
        for place in (0, 1) if number % 2 == 0 else (1, 0):
            count = counts[place]
            if count > 1:
                works[place]()  # so that the other's threads have gone to sleep
            times[place].append(seconds(lambda: [works[place]() for _ in range(count)], clock)[0] / count)  # noqa: B023
    return Turns(*map(tuple, times)) if len(times[0]) >= LEAST else Turns()


def _count(work: Callable[[], object], clock: Clock) -> int:
    """How many calls make a turn; a quick one is called twice before, to warm up."""
    once, _ = seconds(work, clock)
    return 1 if once > SHORT else max(1, round(SHORT / max(seconds(work, clock)[0], 1e-6)))
