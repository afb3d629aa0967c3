"""The engine between requests and the processes that draw: here stand-ins for these, which do as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from tenshot.core.errors import Fault, Refusal
from tenshot.serve import engine as engines
from tenshot.serve import messages
from tenshot.serve.engine import Engine, Late, Unavailable
from tenshot.serve.metrics import Metrics
from tenshot.serve.queue import Queue
from tests.test_serve_queue import rows


class Process:
    exitcode = -9
    pid = None

    def join(self, timeout: float | None = None) -> None:
        """It has ended."""


class Device(engines._Device):
    """Draws when it is asked to. told: what it heard."""

    def __init__(self) -> None:
        super().__init__(messages.Setup("cpu", [], 1))
        self.told: list[object] = []
        self.process = Process()
        self.starts = 0

    def start(self, heard: Callable[[object], None]) -> None:
        self.heard, self.starts = heard, self.starts + 1
        heard(messages.Ready("cpu"))

    def tell(self, told: object) -> None:
        self.told.append(told)

    def end(self) -> None:
        """Nothing to end."""

    @property
    def pictures(self) -> list[int]:
        """That it was told to draw last."""
        return [*next(each for each in reversed(self.told) if isinstance(each, messages.Draw)).pictures]

    def draw(self) -> None:
        for number in self.pictures:
            self.heard(messages.Drawn(number, (1, 1), bytes(3), f"text {number}"))


def engine(wait: float = 60, devices: int = 1) -> tuple[Engine, list[Device], list[str]]:
    said: list[str] = []
    made = Engine([], Queue(100, 2), wait, said.append, Metrics())
    made.devices = [Device() for _ in range(devices)]
    return made, made.devices, said


def played(play: Coroutine[object, object, None]) -> None:
    asyncio.run(asyncio.wait_for(play, 20))


async def settled() -> None:
    for _ in range(9):
        await asyncio.sleep(0)


def test_pictures_come_one_by_one_and_in_order() -> None:
    async def play() -> None:
        made, (device,), _ = engine()
        made.start()
        await made.is_ready()
        ticket = made.submit(rows("a", 3))
        assert made.at_work(ticket) == [*ticket.rows][:2]
        device.heard(messages.Step({1: (2, 4), 2: (1, 4)}))
        await settled()
        assert ticket.progress == pytest.approx((2 / 4 + 1 / 4) / 3)
        device.draw()
        first = await anext(ticket.drawn())
        assert first.infotext == "text 1" and not ticket.over
        await settled()
        device.draw()
        assert [each.number for each in await ticket.all()] == [1, 2]
        assert ticket.progress == 1 and not made.tickets and ticket.limit.cancelled()

    played(play())


def test_a_process_that_dies_fails_what_it_had_and_is_started_anew() -> None:
    async def play() -> None:
        made, (device,), said = engine()
        made.start()
        await made.is_ready()
        hit, spared = made.submit(rows("a", 2)), made.submit(rows("b", width=72))
        device.heard(None)
        with pytest.raises(Unavailable, match=r"SIGKILL \(out of memory\?\)"):
            await hit.all()
        while device.starts < 2 or not device.given:
            await asyncio.sleep(0.01)
        assert [*device.told[-1].pictures.values()] == [spared.rows[0].options]
        device.draw()
        assert len(await spared.all()) == 1
        assert "started anew" in said[0]

    played(play())


def test_what_nobody_wants_is_dropped_at_once() -> None:
    """Its places are free for others before the process has heard of it."""

    async def play() -> None:
        made, (device,), _ = engine()
        made.start()
        await made.is_ready()
        ticket = made.submit(rows("a", 3))
        other = made.submit(rows("b", steps=9))
        made.drop(ticket)
        assert await ticket.all() == [] and not made.queue.rows and [*made.tickets.values()] == [other]
        assert device.told[-2] == messages.Drop(frozenset({1, 2})) and device.pictures == [3]
        device.heard(messages.Step({1: (1, 4), 2: (1, 4)}))
        device.heard(messages.Drawn(1, (1, 1), bytes(3), "too late"))
        await settled()
        assert not ticket.pictures

    played(play())


def test_others_join_as_soon_as_there_is_room() -> None:
    """A picture whose steps are done makes room while it is decoded; other weights wait until all steps are done."""

    async def play() -> None:
        made, (device,), _ = engine()
        made.start()
        await made.is_ready()
        made.submit(rows("a", 2))
        made.submit(rows("b", 2, steps=7, sampler="Heun"))
        made.submit(rows("c", model="another"))
        assert device.pictures == [1, 2]
        device.heard(messages.Step({1: (4, 4), 2: (2, 4)}))
        await settled()
        assert device.pictures == [3]
        device.heard(messages.Drawn(1, (1, 1), bytes(3), ""))
        await settled()
        assert device.pictures == [3]
        device.heard(messages.Step({2: (4, 4), 3: (2, 7)}))
        await settled()
        assert device.pictures == [4]
        device.heard(messages.Step({3: (7, 7), 4: (6, 7)}))
        await settled()
        assert device.pictures == [4]
        device.heard(messages.Step({4: (7, 7)}))
        await settled()
        assert device.pictures == [5] and [*device.given] == [2, 3, 4, 5]

    played(play())


def test_pictures_on_the_way_are_told_where_they_are_wanted() -> None:
    async def play() -> None:
        made, (device,), _ = engine()
        made.start()
        await made.is_ready()
        ticket = made.submit(rows("a"))
        device.heard(messages.Step({1: (2, 6)}))
        await settled()
        assert messages.Show(frozenset({1})) not in device.told
        ticket.partials = 2
        for done, asked in ((1, 0), (2, 1), (3, 1), (4, 2), (5, 2)):
            device.heard(messages.Step({1: (done, 6)}))
            await settled()
            assert device.told.count(messages.Show(frozenset({1}))) == asked, done
            if done in (3, 5):
                device.heard(messages.Shown(1, (1, 1), bytes(3)))
        device.draw()
        assert [each.partial async for each in ticket.drawn()] == [0, 1, None]

    played(play())


def test_a_skipped_picture_is_left_out() -> None:
    async def play() -> None:
        made, (device,), _ = engine()
        made.start()
        await made.is_ready()
        ticket = made.submit(rows("a", 3))
        made.drop(ticket, rows=made.at_work(ticket))
        await settled()
        device.draw()
        assert [each.number for each in await ticket.all()] == [2]

    played(play())


def test_what_is_refused_is_refused_alone() -> None:
    async def play() -> None:
        made, (device,), _ = engine()
        made.start()
        await made.is_ready()
        bad, good = made.submit(rows("a", width=72)), made.submit(rows("b"))
        device.heard(messages.Failed(1, (Fault("init_image", "no picture"),)))
        with pytest.raises(Refusal, match="no picture"):
            await bad.all()
        await settled()
        device.draw()
        assert len(await good.all()) == 1

    played(play())


def test_deadlines_hold_in_the_queue_and_at_work() -> None:
    async def play() -> None:
        made, (device,), _ = engine(wait=0.05)
        made.start()
        await made.is_ready()
        working, waiting = made.submit(rows("a")), made.submit(rows("b", width=72))
        for ticket in (working, waiting):
            with pytest.raises(Late, match=r"0\.05 seconds"):
                await ticket.all()
        assert messages.Drop(frozenset({1})) in device.told

    played(play())


def test_the_end_finishes_what_has_begun_and_answers_the_rest() -> None:
    async def play() -> None:
        made, (device,), _ = engine()
        made.start()
        await made.is_ready()
        begun, waiting = made.submit(rows("a")), made.submit(rows("b", width=72))
        stopping = asyncio.create_task(made.stop(10))
        with pytest.raises(Unavailable, match="being stopped") as stopped:
            await waiting.all()
        assert stopped.value.again == 30 and not made.ready
        with pytest.raises(Unavailable, match="being stopped"):
            made.submit(rows("c"))
        device.draw()
        assert len(await begun.all()) == 1
        await stopping
        assert device.told[-1] is None

    played(play())


def test_every_device_gets_its_own() -> None:
    async def play() -> None:
        made, devices, _ = engine(devices=2)
        made.start()
        await made.is_ready()
        made.submit(rows("a", 4))
        assert [[*each.told[-1].pictures] for each in devices] == [[1, 2], [3, 4]]

    played(play())


def test_a_model_that_is_none_is_refused_at_the_start() -> None:
    async def play() -> None:
        made, (device,), _ = engine()
        device.start = lambda heard: heard(messages.Unfit((Fault("model", "none"),)))
        made.start()
        with pytest.raises(Refusal, match="model: none"):
            await made.is_ready()

    played(play())


def test_a_process_that_ends_before_it_ever_drew_ends_the_server() -> None:
    async def play() -> None:
        made, (device,), _ = engine()
        device.start = lambda heard: heard(None)
        made.start()
        with pytest.raises(Unavailable, match="SIGKILL"):
            await made.is_ready()

    played(play())
