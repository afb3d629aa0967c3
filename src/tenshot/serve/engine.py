"""What is between the requests and the processes that draw: who waits, who is drawn, and what became of each."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from PIL import Image

from tenshot.core import distributed
from tenshot.core.errors import Refusal
from tenshot.serve import messages, worker
from tenshot.serve.metrics import Metrics
from tenshot.serve.queue import Kind, Queue, Row

PATIENCE = 5.0  # seconds that a process has to end by itself
FIRST, LONGEST = (
    0.1,
    30.0,
)  # seconds before one that died is started anew; twice as long each time that it came to nothing


class Unavailable(Exception):
    """It is not the request's fault. again: seconds after which asking again makes sense; None: it does not."""

    def __init__(self, why: str, again: float | None = None) -> None:
        super().__init__(why)
        self.again = again


class Late(Unavailable):
    """Its deadline is over."""


@dataclass(frozen=True)
class Picture:
    """number: of the request's pictures, from 0. partial: which of those on the way to it, from 0; None: it is done.

    maps: what its ControlNets saw.
    """

    number: int
    row: Row
    image: Image.Image
    infotext: str
    partial: int | None = None
    maps: Sequence[Image.Image] = ()


@dataclass(eq=False)
class Ticket:
    """A request at work. left: rows that are not drawn yet. step, steps: of the one that was heard of last.

    partials: how many pictures on the way to each one are told, too. preview: what one looked like last.
    """

    rows: Sequence[Row]
    began: float
    left: set[Row] = field(default_factory=set)
    pictures: dict[int, Picture] = field(default_factory=dict)
    step: int = 0
    steps: int = 0
    interrupted: bool = False
    error: Exception | None = None
    limit: asyncio.TimerHandle | None = None
    partials: int = 0
    preview: Image.Image | None = None

    def __post_init__(self) -> None:
        self.left = {*self.rows}
        self._news: asyncio.Queue[Picture | None] = asyncio.Queue()
        self._begun: dict[Row, float] = {}  # of those under way, from 0 to 1
        self._looks: dict[Row, int] = {}
        self._partial: dict[Row, int] = {}

    @property
    def over(self) -> bool:
        return not self.left

    @property
    def progress(self) -> float:
        """From 0 to 1."""
        return (len(self.rows) - len(self.left) + sum(self._begun.values())) / len(self.rows)

    async def drawn(self) -> AsyncIterator[Picture]:
        """Each picture as soon as it is there; what is dropped does not come. Raises Refusal, Unavailable."""
        while (picture := await self._news.get()) is not None:
            yield picture
        if self.error:
            raise self.error

    async def all(self) -> list[Picture]:
        """In the order they were asked for; raises as `drawn`."""
        found = [each async for each in self.drawn() if each.partial is None]
        return sorted(found, key=lambda each: each.number)

    def went(self, row: Row, step: int, steps: int) -> bool:
        """Is it time to look at it? Once for each picture on the way."""
        self.step, self.steps, self._begun[row] = step, steps, step / steps
        looks = self._looks.get(row, 0)
        due = looks < self.partials and step < steps and step * (self.partials + 1) >= steps * (looks + 1)
        self._looks[row] = looks + due
        return due

    def look(self, row: Row, image: Image.Image) -> None:
        self.preview, told = image, self._partial.get(row, 0)
        if told < self.partials:
            self._partial[row] = told + 1
            self._news.put_nowait(Picture(row.number, row, image, "", told))

    def have(self, picture: Picture) -> None:
        self.pictures[picture.number] = picture
        self._news.put_nowait(picture)
        self.without([picture.row])

    def without(self, rows: Sequence[Row]) -> None:
        if self.left:
            self.left.difference_update(rows)
            self.step = 0
            for row in rows:
                self._begun.pop(row, None)
            if not self.left:
                self._news.put_nowait(None)


class _Device:
    """A process that draws, and the rows that it was given. finishing: those of them that have left its batch.

    kind: of its batch.
    """

    def __init__(self, setup: messages.Setup) -> None:
        self.setup = setup
        self.given: dict[int, tuple[Ticket, Row]] = {}
        self.finishing: set[int] = set()
        self.kind = Kind("", "")
        self.ready = self.was_ready = False
        self.delay = FIRST
        self.memory = 0
        self.process: BaseProcess | None = None
        self.pipe: Connection | None = None

    def start(self, heard: Callable[[messages.Told | None], None]) -> None:
        """heard: gets what it tells, in another thread; None when it has ended."""
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        self.process = context.Process(target=worker.work, args=(there, self.setup), daemon=True)
        self.process.start()
        there.close()
        self.pipe = here
        self.kind = Kind("", "")

        def listen() -> None:
            while True:
                try:
                    told = here.recv()
                except (EOFError, OSError):
                    heard(None)
                    return
                heard(told)

        threading.Thread(target=listen, daemon=True).start()

    def tell(self, told: messages.Heard | None) -> None:
        try:
            if self.pipe:
                self.pipe.send(told)
        except OSError:  # it has just ended, which is heard of
            pass

    def gone(self, numbers: Iterable[int]) -> None:
        """They are not drawn here any more."""
        for number in numbers:
            self.given.pop(number, None)
            self.finishing.discard(number)

    def end(self) -> None:
        if self.process and self.process.pid:
            self.process.join(PATIENCE)
            distributed.end(self.process.pid)
            self.process.join()


class Engine:
    """All of it in one event loop, but the processes. say: for the log."""

    def __init__(
        self, setups: Sequence[messages.Setup], queue: Queue, wait: float, say: Callable[[str], None], metrics: Metrics
    ) -> None:
        self.queue, self.wait, self.say, self.metrics = queue, wait, say, metrics
        self.devices = [_Device(setup) for setup in setups]
        self.tickets: dict[str, Ticket] = {}
        self.closing = False
        self.unfit: Exception | None = None
        self._numbers = count(1)
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def ready(self) -> bool:
        return not self.closing and any(each.ready for each in self.devices)

    def start(self) -> None:
        for each in self.devices:
            self._start(each)

    async def is_ready(self) -> None:
        """Until all devices are. Raises Refusal where one cannot begin; Unavailable where it ends instead."""
        while not all(each.ready for each in self.devices):
            await self._change()
            if self.unfit:
                raise self.unfit

    def submit(self, rows: Sequence[Row]) -> Ticket:
        """Raises Full, Unavailable."""
        if self.closing:
            raise Unavailable("the server is being stopped", 30)
        self.queue.put(rows)
        loop = asyncio.get_running_loop()
        ticket = Ticket(rows, loop.time())
        self.tickets[rows[0].request] = ticket
        ticket.limit = loop.call_later(self.wait, self._late, ticket)
        self._pump()
        return ticket

    def drop(self, ticket: Ticket, error: Exception | None = None, rows: Sequence[Row] | None = None) -> None:
        """Neither wait for nor draw what is left of it, or `rows` of that. error: what whoever waits for it gets."""
        gone = [row for row in ticket.left if rows is None or row in rows]
        self.queue.drop(gone)
        ticket.error = ticket.error or error
        for each in self.devices:
            if numbers := frozenset(number for number, (of, row) in each.given.items() if of is ticket and row in gone):
                each.tell(messages.Drop(numbers))
                each.gone(numbers)
        ticket.without(gone)
        self._over(ticket)
        self._pump()

    def show(self, ticket: Ticket) -> None:
        """Have its pictures at work looked at after the next step."""
        for each in self.devices:
            if numbers := frozenset(number for number, (of, _) in each.given.items() if of is ticket):
                each.tell(messages.Show(numbers))

    def keep(self, asked: messages.Load | messages.Unload) -> None:
        """Of every device, after its step."""
        for each in self.devices:
            each.tell(asked)

    def at_work(self, ticket: Ticket) -> list[Row]:
        """Its rows that are drawn now."""
        return [row for each in self.devices for of, row in each.given.values() if of is ticket and row in ticket.left]

    def since(self, ticket: Ticket) -> float:
        """Seconds since it was asked."""
        return asyncio.get_running_loop().time() - ticket.began

    async def stop(self, grace: float) -> None:
        """What has begun is finished, for at most `grace` seconds; all else is answered."""
        self.closing = True
        for ticket in [*self.tickets.values()]:
            if not self.at_work(ticket) and not ticket.pictures:
                self.drop(ticket, Unavailable("the server is being stopped", 30))
        end = asyncio.get_running_loop().time() + grace
        while self.tickets and (left := end - asyncio.get_running_loop().time()) > 0:
            await self._change(left)
        for ticket in [*self.tickets.values()]:
            self.drop(ticket, Unavailable("the server was stopped", 30))
        for each in self.devices:
            each.tell(None)
        await asyncio.gather(*(asyncio.to_thread(each.end) for each in self.devices))

    def _start(self, one: _Device) -> None:
        loop = asyncio.get_running_loop()

        def heard(told: messages.Told | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._heard, one, told)

        if not self.closing:
            one.start(heard)

    def _pump(self) -> None:
        """Give every device what may join its batch, or the next one."""
        for each in self.devices:
            if not each.ready:
                continue
            at_work = len(each.given) - len(each.finishing)
            if at_work:
                rows = self.queue.join(each.kind, self.queue.batch - at_work)
            elif rows := self.queue.take(each.kind.weights):
                if rows[0].kind.weights != each.kind.weights:
                    self.metrics.swapped()
                each.kind = rows[0].kind
            if rows:
                given = {next(self._numbers): row for row in rows}
                each.given |= {number: (self.tickets[row.request], row) for number, row in given.items()}
                each.tell(messages.Draw({number: row.options for number, row in given.items()}))
        self.metrics.waiting(len(self.queue.rows))

    def _heard(self, one: _Device, told: messages.Told | None) -> None:
        match told:
            case None:
                self._died(one)
            case messages.Ready():
                one.ready, one.was_ready, one.delay = True, True, FIRST
            case messages.Said():
                self.say(told.text)
            case messages.Unfit():
                self.unfit = Refusal(*told.faults)
            case messages.Step():
                self._stepped(one, told.steps)
            case messages.Shown() if told.number in one.given:
                ticket, row = one.given[told.number]
                ticket.look(row, Image.frombytes("RGB", told.size, told.pixels))
            case messages.Drawn() if told.number in one.given:
                ticket, row = one.given[told.number]
                image = Image.frombytes("RGB", told.size, told.pixels)
                maps = [Image.frombytes("RGB", size, pixels) for size, pixels in told.maps]
                one.gone({told.number})
                ticket.have(Picture(row.number, row, image, told.infotext, maps=maps))
                self._over(ticket)
            case messages.Failed() if told.number in one.given:
                ticket, _ = one.given[told.number]
                one.gone({told.number})
                self.drop(ticket, Refusal(*told.faults) if told.faults else Unavailable(told.why))
            case messages.Held():
                one.memory = told.memory
                self.metrics.held(one.setup.device, told.models, told.memory)
        self._pump()
        self._changed()

    def _stepped(self, one: _Device, steps: Mapping[int, tuple[int, int]]) -> None:
        """Those that nobody wants any more are not among the given."""
        self.metrics.step(len(steps))
        due = set()
        for number in steps.keys() & one.given.keys():
            ticket, row = one.given[number]
            done, of_all = steps[number]
            if ticket.went(row, done, of_all):
                due.add(number)
            if done == of_all:
                one.finishing.add(number)
        if due:
            one.tell(messages.Show(frozenset(due)))

    def _died(self, one: _Device) -> None:
        if self.closing or self.unfit or one.process is None:
            return
        one.process.join()
        why = f"the process that draws ended: {distributed.death(one.process.exitcode)}"
        if not one.was_ready:
            self.unfit = Unavailable(why)
            return
        came_to_something, one.ready = one.ready, False
        again = one.delay if came_to_something else min(one.delay * 2, LONGEST)
        self.say(f"{why}; it is started anew")
        self.metrics.restarted()
        given, one.delay = [*one.given.values()], again
        one.gone([*one.given])
        for ticket, _ in given:
            self.drop(ticket, Unavailable(f"{why}; it is started anew"))
        asyncio.get_running_loop().call_later(again, self._start, one)

    def _late(self, ticket: Ticket) -> None:
        self.drop(ticket, Late(f"it was not done after {self.wait:g} seconds", 30))

    def _over(self, ticket: Ticket) -> None:
        if ticket.over:
            if ticket.limit:
                ticket.limit.cancel()
            self.tickets.pop(ticket.rows[0].request, None)
            self._changed()

    async def _change(self, limit: float | None = None) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await asyncio.wait([waiter], timeout=limit)

    def _changed(self) -> None:
        waiters, self._waiters = self._waiters, []
        for each in waiters:
            if not each.done():
                each.set_result(None)
