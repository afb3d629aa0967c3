"""What a person sees of a job: progress and refusals on stderr, the result on stdout, a log beside the output."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, Self, cast

import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from tenshot.core.errors import Cancelled, Refusal
from tenshot.core.events import EventGroup, Events


@dataclass
class Job:
    """A job as far as it is known: `done` of `total` units, `first` of them there at the start. Times in seconds."""

    name: str
    total: int
    first: int
    start: float
    done: int
    figures: Mapping[str, float]

    def pace(self, now: float) -> str:
        """Speed and time left: "3.1 it/s, 0:04 left"; empty before the first unit."""
        made, seconds = self.done - self.first, now - self.start
        if made <= 0 or seconds <= 0:
            return ""
        return f"{speed(made / seconds)}, {clock((self.total - self.done) * seconds / made)} left"

    def line(self, now: float) -> str:
        share = self.done / self.total if self.total else 1.0
        parts = [f"{self.name}: {self.done}/{self.total} {share:.0%}", self.pace(now), named(self.figures)]
        return ", ".join(part for part in parts if part)


class Lines(Events):
    """Progress as plain lines for files and pipes: a job's first and last, and one every `every` seconds between."""

    def __init__(
        self, out: rich.console.Console, every: float = 5.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.out = out
        self.every = every
        self.now = now
        self.jobs: list[Job] = []
        self.told = (0.0, "")

    def say(self, text: str) -> None:
        self.out.print(Text(text), soft_wrap=True)

    def begin(self, job: str, total: int, done: int = 0) -> None:
        self.jobs.append(Job(job, total, done, self.now(), done, {}))
        self._tell()

    def advance(self, done: int, **figures: float) -> None:
        if not self.jobs:
            return
        self.jobs[-1].done, self.jobs[-1].figures = done, figures
        if self.now() - self.told[0] >= self.every:
            self._tell()

    def end(self) -> None:
        if self.jobs:
            self._tell()
            self.jobs.pop()

    def _tell(self) -> None:
        now, job = self.now(), self.jobs[-1]
        what = f"{job.name} {job.done}"
        if what != self.told[1]:
            self.out.print(Text(job.line(now)), soft_wrap=True)
            self.told = (now, what)


class Bars(Events):
    """Progress as bars, on a terminal; a job within a job gets a bar of its own while it lasts."""

    def __init__(self, out: rich.console.Console) -> None:
        self.out = out
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(None),
            TextColumn("{task.percentage:>3.0f}%"),
            MofNCompleteColumn(),
            _Pace(),
            TextColumn("{task.fields[figures]}", style="cyan", markup=False),
            console=out,
            expand=True,
            refresh_per_second=5,
        )
        self.jobs: list[TaskID] = []

    def say(self, text: str) -> None:
        self.out.print(Text(text), soft_wrap=True)

    def begin(self, job: str, total: int, done: int = 0) -> None:
        if not self.jobs:
            for old in self.bars.task_ids:
                self.bars.remove_task(old)
            self.bars.start()
        self.jobs.append(self.bars.add_task(job, total=total, completed=done, figures=""))

    def advance(self, done: int, **figures: float) -> None:
        if self.jobs:
            fitting = figures if self.out.width >= 110 else dict(list(figures.items())[:1])
            self.bars.update(self.jobs[-1], completed=done, figures=named(fitting))

    def end(self) -> None:
        if not self.jobs:
            return
        job = self.jobs.pop()
        if self.jobs:
            self.bars.remove_task(job)
        else:
            self.bars.stop()


class _Pace(ProgressColumn):
    """Units in a second and the time left."""

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        if not rate:
            return Text("")
        left = clock(task.elapsed or 0) if task.finished else clock(task.time_remaining or 0)
        return Text(f"{speed(rate)} {left}", style="green")


class Steady:
    """A stream whose reader may go away: what cannot be written is dropped, and the work goes on."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Console(EventGroup):
    """What a person follows on stderr: bars on a terminal, else a plain line now and then."""

    def __init__(self, out: rich.console.Console | None = None) -> None:
        out = out or rich.console.Console(file=cast(IO[str], Steady(sys.stderr)))
        super().__init__(Bars(out) if out.is_terminal else Lines(out))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Take down the bars of jobs that an error left open."""
        for listener in self.listeners:
            while isinstance(listener, Bars | Lines) and listener.jobs:
                listener.end()


class LogFile(Events):
    """Appends what happens to `path`, a dated line each.

    A refused run leaves nothing behind: lines wait until the first step, or until the run is over and was not refused.
    path None: no log.
    """

    def __init__(self, path: Path | None, title: str = "") -> None:
        self.path = path
        self.waiting: list[str] = []
        self.started = False
        self.jobs: list[str] = []
        if title:
            self._write(title)

    def say(self, text: str) -> None:
        self._write(text)

    def begin(self, job: str, total: int, done: int = 0) -> None:
        self.jobs.append(job)
        self._write(f"begin {job}: {done}/{total}")

    def end(self) -> None:
        if self.jobs:
            self._write(f"end {self.jobs.pop()}")

    def step(self, step: int, **figures: float) -> None:
        self.started = True
        self._write(f"step {step}: {' '.join(f'{name}={value:.6g}' for name, value in figures.items())}")

    def checkpoint(self, step: int) -> None:
        self._write(f"checkpoint after step {step}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, Refusal) and not self.started:
            return
        self.started = True
        with suppress(OSError):  # a full disk has been told already
            self._write(_outcome(error))

    def _write(self, text: str) -> None:
        self.waiting += [f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}\n"]
        if self.started and self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(self.waiting)
            self.waiting.clear()


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "done"
    if isinstance(error, Cancelled):
        return f"cancelled: {error}"
    if isinstance(error, Refusal):
        return f"refused: {error}"
    return "failed: " + "".join(traceback.format_exception(error)).rstrip()


STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]


class Interrupt(Events):
    """Inside its `with` the first Ctrl-C asks the job to stop where it is safe, the second stops it at once.

    The end that a service manager or a closing terminal asks for is a Ctrl-C too. They may ask several times: only a
    person's second one means at once.
    """

    def __init__(self) -> None:
        self.asked = False
        self.before: dict[int, Any] = {}

    def cancelled(self) -> bool:
        return self.asked

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            heard = [each for each in STOPS if each == signal.SIGINT or signal.getsignal(each) != signal.SIG_IGN]
            self.before = {each: signal.signal(each, self._stop) for each in heard}  # nohup's wish is heard
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        first, self.asked = not self.asked, True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if first:
            again = b"; press Ctrl-C again to stop at once" if number == signal.SIGINT else b""
            with suppress(OSError):  # its terminal may be gone
                # Not through sys.stderr: the signal may have come in the middle of a print.
                os.write(2, b"\nstopping at the next safe moment" + again + b"\n")


def named(figures: Mapping[str, float]) -> str:
    """Figures in words, but for the seconds, which the speed tells better."""
    return " ".join(f"{name} {value:.4g}" for name, value in figures.items() if name != "seconds")


def speed(rate: float) -> str:
    return f"{rate:.1f} it/s" if rate >= 1 else f"{1 / rate:.1f} s/it"


def clock(seconds: float) -> str:
    """Seconds as minutes:seconds or hours:minutes:seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
