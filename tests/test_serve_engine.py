"""The engine between requests and the processes that draw: here stand-ins for these, which do as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from tenshot.core.errors import Fault, Refusal
from tenshot.serve import worker
from tenshot.serve.engine import Engine, Late, Unavailable
from tenshot.serve.metrics import Metrics
from tenshot.serve.queue import Queue
from tests.test_serve_queue import rows


class Process:
    exitcode = -9
    pid = None

    def join(self, timeout: float | None = None) -> None:
        """It has ended."""


class Device:
    """Draws when it is asked to. told: what it heard."""

    def __init__(self) -> None:
        self.setup = worker.Setup("cpu", [], 1)
        self.given: dict[int, object] = {}
        self.loaded, self.ready, self.busy, self.was_ready, self.delay, self.memory = "", False, False, False, 0.0, 0
        self.told: list[object] = []
        self.process = Process()
        self.starts = 0

    def start(self, heard: Callable[[object], None]) -> None:
        self.heard, self.starts = heard, self.starts + 1
        heard(worker.Ready("cpu"))

    def tell(self, told: object) -> None:
        self.told.append(told)

    def end(self) -> None:
        """Nothing to end."""

    def draw(self) -> None:
        """All that it was told last."""
        asked = next(each for each in reversed(self.told) if isinstance(each, worker.Draw))
        for number in asked.pictures:
            self.heard(worker.Drawn(number, (1, 1), bytes(3), f"text {number}"))
        self.heard(worker.Idle(5))


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
        device.heard(worker.Step((1, 2), 2, 4))
        await settled()
        assert ticket.progress == pytest.approx((0 + 2 / 4) / 3)
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
        hit, spared = made.submit(rows("a", 2)), made.submit(rows("b", steps=3))
        device.heard(None)
        with pytest.raises(Unavailable, match=r"SIGKILL \(out of memory\?\)"):
            await hit.all()
        while device.starts < 2 or not device.busy:
            await asyncio.sleep(0.01)
        assert [*device.told[-1].pictures.values()] == [spared.rows[0].options]
        device.draw()
        assert len(await spared.all()) == 1
        assert "started anew" in said[0]

    played(play())


def test_what_nobody_wants_is_dropped_at_once() -> None:
    async def play() -> None:
        made, (device,), _ = engine()
        made.start()
        await made.is_ready()
        ticket = made.submit(rows("a", 3))
        made.drop(ticket)
        assert await ticket.all() == [] and not made.queue.rows and not made.tickets
        assert device.told[-1] == worker.Drop(frozenset({1, 2}))
        device.heard(worker.Drawn(1, (1, 1), bytes(3), "too late"))
        device.heard(worker.Idle(0))
        await settled()
        assert not ticket.pictures
        made.submit(rows("b"))
        assert [*device.told[-1].pictures] == [3]

    played(play())


def test_pictures_on_the_way_are_told_where_they_are_wanted() -> None:
    async def play() -> None:
        made, (device,), _ = engine()
        made.start()
        await made.is_ready()
        ticket = made.submit(rows("a"))
        device.heard(worker.Step((1,), 2, 6))
        await settled()
        assert worker.Show() not in device.told
        ticket.partials = 2
        for done, asked in ((1, 0), (2, 1), (3, 1), (4, 2), (5, 2)):
            device.heard(worker.Step((1,), done, 6))
            await settled()
            assert device.told.count(worker.Show()) == asked, done
            if done in (3, 5):
                device.heard(worker.Shown(1, (1, 1), bytes(3)))
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
        device.heard(worker.Idle(0))
        await settled()
        device.draw()
        assert [each.number for each in await ticket.all()] == [2]

    played(play())


def test_what_is_refused_is_refused_alone() -> None:
    async def play() -> None:
        made, (device,), _ = engine()
        made.start()
        await made.is_ready()
        bad, good = made.submit(rows("a", steps=3)), made.submit(rows("b", steps=4))
        device.heard(worker.Failed(1, (Fault("init_image", "no picture"),)))
        device.heard(worker.Idle(0))
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
        working, waiting = made.submit(rows("a")), made.submit(rows("b", steps=3))
        for ticket in (working, waiting):
            with pytest.raises(Late, match=r"0\.05 seconds"):
                await ticket.all()
        assert worker.Drop(frozenset({1})) in device.told

    played(play())


def test_the_end_finishes_what_has_begun_and_answers_the_rest() -> None:
    async def play() -> None:
        made, (device,), _ = engine()
        made.start()
        await made.is_ready()
        begun, waiting = made.submit(rows("a")), made.submit(rows("b", steps=3))
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
        device.start = lambda heard: heard(worker.Unfit((Fault("model", "none"),)))
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
