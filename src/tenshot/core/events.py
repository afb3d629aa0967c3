"""What a long job tells whoever listens: progress, pictures, and the question whether to go on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from tenshot.core.errors import Cancelled

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")


class Events:
    """A listener that does nothing; override what you want to hear."""

    def say(self, text: str) -> None:
        """A sentence for the person in front of the screen."""

    def begin(self, job: str, total: int, done: int = 0) -> None:
        """A job of `total` units starts, `done` of them already there."""

    def advance(self, done: int, **figures: float) -> None:
        """`done` units of the current job are there; figures such as loss or rate come along."""

    def end(self) -> None:
        """The current job is over."""

    def step(self, step: int, **figures: float) -> None:
        """Training step number `step` (from 1) was made; figures as the loop measured them."""

    def checkpoint(self, step: int) -> None:
        """Weights after `step` steps are whole and in memory: the moment for previews."""

    def picture(self, tag: str, step: int, image: Image.Image) -> None:
        """A preview was drawn."""

    def watches(self, done: int) -> bool:
        """Answer True to be shown what the current drawing has come to after `done` units of the job."""
        return False

    def drawing(self, done: int, total: int, images: Sequence[Image.Image]) -> None:
        """What the pictures of the batch that is drawn look like after `done` of `total` units: small, and roughly."""

    def cancelled(self) -> bool:
        """Answer True to stop at the next safe moment."""
        return False


class Subtask(Events):
    """Hears a job within another: its units count as units of the outer one, after the `done` ones there."""

    def __init__(self, outer: Events, done: int) -> None:
        self.outer, self.done = outer, done

    def advance(self, done: int, **figures: float) -> None:
        self.outer.advance(self.done + done, **figures)

    def cancelled(self) -> bool:
        return self.outer.cancelled()


class EventGroup(Events):
    """Several listeners as one."""

    def __init__(self, *listeners: Events) -> None:
        self.listeners = listeners

    def say(self, text: str) -> None:
        for listener in self.listeners:
            listener.say(text)

    def begin(self, job: str, total: int, done: int = 0) -> None:
        for listener in self.listeners:
            listener.begin(job, total, done)

    def advance(self, done: int, **figures: float) -> None:
        for listener in self.listeners:
            listener.advance(done, **figures)

    def end(self) -> None:
        for listener in self.listeners:
            listener.end()

    def step(self, step: int, **figures: float) -> None:
        for listener in self.listeners:
            listener.step(step, **figures)

    def checkpoint(self, step: int) -> None:
        for listener in self.listeners:
            listener.checkpoint(step)

    def picture(self, tag: str, step: int, image: Image.Image) -> None:
        for listener in self.listeners:
            listener.picture(tag, step, image)

    def watches(self, done: int) -> bool:
        return any(listener.watches(done) for listener in self.listeners)

    def drawing(self, done: int, total: int, images: Sequence[Image.Image]) -> None:
        for listener in self.listeners:
            listener.drawing(done, total, images)

    def cancelled(self) -> bool:
        return any(listener.cancelled() for listener in self.listeners)


def track(items: Iterable[T], job: str, total: int, events: Events) -> Iterator[T]:
    """Iterate over `items` as a job that is announced, counted and can be cancelled; without items it is none."""
    if not total:
        return
    events.begin(job, total)
    try:
        for number, item in enumerate(items, 1):
            if events.cancelled():
                raise Cancelled(f"stopped while {job}")
            yield item
            events.advance(number)
    finally:
        events.end()
