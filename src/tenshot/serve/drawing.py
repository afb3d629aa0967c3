"""A request from the moment that it is asked until it is answered, whichever API it came by."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.requests import Request

from tenshot.io.png import picture_bytes, png_bytes
from tenshot.serve.callers import Caller, Callers
from tenshot.serve.engine import Engine, Picture, Ticket
from tenshot.serve.metrics import Metrics
from tenshot.serve.requests import Desk, Draft

JOB = "tenshot.job"  #: of a request's scope: what hears of the ticket, where the answer is fetched later


@dataclass(frozen=True)
class Server:
    """What every API needs."""

    desk: Desk
    engine: Engine
    metrics: Metrics
    callers: Callers = field(default_factory=Callers)

    @asynccontextmanager
    async def asked(self, request: Request, draft: Draft, task: str | None = None) -> AsyncIterator[Ticket]:
        """A request at work. Whoever asked and goes away without an answer no longer wants it.

        Raises Refusal, Unavailable.
        """
        caller = self.callers.of(request)
        ticket: Ticket | None = None
        watch: asyncio.Task[None] | None = None
        name = task or secrets.token_hex(8)
        try:
            rows = await asyncio.to_thread(self.desk.rows, caller.name, draft)
            ticket = self.engine.submit(rows)
            caller.tickets[name] = caller.last = ticket
            if accept := request.scope.get(JOB):
                accept(ticket)
            watch = asyncio.create_task(self._gone(request, ticket))
            yield ticket
        finally:
            if watch:
                watch.cancel()
            if ticket:
                self.engine.drop(ticket)
                if caller.tickets.get(name) is ticket:
                    del caller.tickets[name]
            await asyncio.to_thread(self.desk.done, draft.folder)

    async def _gone(self, request: Request, ticket: Ticket) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.engine.drop(ticket)

    def interrupt(self, caller: Caller) -> None:
        """Its requests answer with the pictures that are there."""
        for ticket in caller.at_work():
            ticket.interrupted = True
            self.engine.drop(ticket)

    def skip(self, caller: Caller) -> None:
        """The pictures that are drawn now are left out."""
        for ticket in caller.at_work():
            self.engine.drop(ticket, rows=self.engine.at_work(ticket))


async def encoded(picture: Picture) -> bytes:
    """In the format that was asked for."""
    options = picture.row.options
    kind = options.format or "png"
    return await asyncio.to_thread(picture_bytes, picture.image, picture.infotext, kind, options.quality)


async def preview(server: Server, ticket: Ticket) -> str | None:
    """What its picture at work looked like when somebody asked last, base64; it is looked at anew for the next."""
    server.engine.show(ticket)
    if ticket.preview is None:
        return None
    return base64.b64encode(await asyncio.to_thread(png_bytes, ticket.preview, "")).decode()


def now() -> int:
    return int(time.time())
