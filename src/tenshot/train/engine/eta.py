"""What is ahead and what it will take: said before it begins, as a range, from what was measured on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tenshot import pipeline
from tenshot.core.durations import span as span
from tenshot.core.events import EventGroup, Events
from tenshot.core.size import Size
from tenshot.model.model import Model
from tenshot.pipeline import Request, SamplingSettings

GUESSED = (0.6, 1.8)  # of what was reckoned from the pace of drawing alone
MEASURED = (0.9, 1.25)  # of what was measured as it will be done
BACKWARD = 3  # a training step's time in forward passes
DISK = 300e6  # bytes written and read again in a second
LOOKS = (0.1, 0.25, 0.5, 0.75)  # shares of the steps after which the forecast is looked at again


@dataclass(frozen=True)
class Pace:
    """Seconds on this machine. call: of the denoiser for one picture. decode: of one picture, as encoding one."""

    call: float
    decode: float

    def drawing(self, pictures: int, settings: SamplingSettings) -> float:
        calls = 1 if settings.guidance == 1 else 2
        return pictures * (settings.steps * calls * self.call + self.decode)

    def training(self, steps: int, samples: int) -> float:
        """samples: pictures in a step, those of the class too."""
        return steps * samples * BACKWARD * self.call


class _Ticks(Events):
    def __init__(self) -> None:
        self.times: list[float] = []

    def advance(self, done: int, **figures: float) -> None:
        self.times.append(time.perf_counter())


def pace(base: Model, size: Size | None, events: Events, pictures: int = 1) -> Pace:
    """A few denoising steps of `pictures` in one batch, the first to warm up, and their decoding."""
    ticks = _Ticks()
    settings = SamplingSettings(size=size, steps=3, batch=pictures)
    requests = [Request("", number) for number in range(pictures)]
    drawn = pipeline.latents(base, requests, settings, EventGroup(events, ticks), "measuring drawing steps")
    start = time.perf_counter()
    pipeline.decode(base, drawn, pictures)
    decoded = time.perf_counter() - start
    steps = len(ticks.times) - 1
    return Pace((ticks.times[-1] - ticks.times[0]) / steps / 2 / pictures, decoded / pictures)


Part = tuple[float, float]  #: seconds, at least and at most


def about(seconds: float, share: Part) -> Part:
    return seconds * share[0], seconds * share[1]


def words(parts: Mapping[str, Part], whole: str) -> str:
    """ "WHOLE will take 4 to 6 minutes: training 3 to 4 minutes, saving 1 s"."""
    parts = {name: each for name, each in parts.items() if each[1] >= 0.5} or dict(list(parts.items())[:1])
    low, high = (sum(each[place] for each in parts.values()) for place in (0, 1))
    told = f"{whole} will take {span(low, high)}"
    if len(parts) == 1:
        return f"{told} ({next(iter(parts))})"
    return f"{told}: {', '.join(f'{name} {span(*each)}' for name, each in parts.items())}"


class Revised(Events):
    """Watches a training and says where it will take longer or shorter than `forecast` said.

    looks: how often validation pictures are still to be drawn, from the step reached. after: what follows training.
    """

    def __init__(self, events: Events, steps: int, forecast: Part, every: int | None, after: float) -> None:
        self.events, self.steps, self.forecast, self.every, self.after = events, steps, forecast, every, after
        self.first, self.spent, self.made = 0, 0.0, 0
        self.jobs: list[tuple[str, float]] = []
        self.look = 0.0
        self.due = sorted({max(2, round(steps * share)) for share in LOOKS})

    def begin(self, job: str, total: int, done: int = 0) -> None:
        self.jobs.append((job, time.perf_counter()))
        if job == "training":
            self.first = done

    def end(self) -> None:
        job, start = self.jobs.pop()
        if job == "drawing validation pictures":
            self.look = time.perf_counter() - start

    def step(self, step: int, **figures: float) -> None:
        self.spent += figures["seconds"]
        self.made += 1
        if step not in self.due or step == self.steps:
            return
        left = (self.steps - step) * self.spent / self.made
        looks = -(-(self.steps - step) // self.every) if self.every else 0
        left += looks * self.look + self.after
        low, high = (bound * (self.steps - step) / self.steps for bound in self.forecast)
        if not 0.8 * low <= left <= 1.2 * high:
            self.events.say(f"after step {step}: {span(*about(left, MEASURED))} left in all, other than was forecast")
            self.forecast = about(left * self.steps / (self.steps - step), MEASURED)


@dataclass
class Phases(Events):
    """How long each phase took, in seconds; what goes on within another counts for itself alone."""

    seconds: dict[str, float] = field(default_factory=dict)
    running: list[str] = field(default_factory=list)
    since: float = field(default_factory=time.perf_counter)

    def begin(self, job: str, total: int, done: int = 0) -> None:
        self._charge()
        self.running.append(job)

    def end(self) -> None:
        self._charge()
        self.running.pop()

    def _charge(self) -> None:
        now = time.perf_counter()
        name = (self.running[-1] if self.running else "getting ready").replace(" ", "_")
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.since
        self.since = now

    def told(self) -> dict[str, float]:
        self._charge()
        return {name: round(seconds, 2) for name, seconds in self.seconds.items()}


def total(parts: Sequence[Part]) -> Part:
    return sum(low for low, _ in parts), sum(high for _, high in parts)
