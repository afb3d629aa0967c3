"""Jobs: requests whose answer is fetched later, by an address that is the caller's own (Prefer: respond-async)."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
import traceback
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastapi import APIRouter, HTTPException, Request, Response

from tenshot.serve.drawing import JOB, Server
from tenshot.serve.engine import Ticket
from tenshot.serve.safety import DRAWING, Denied

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PREFERENCE = re.compile(r"(?:^|[,;])\s*respond-async\s*(?:$|[,;])", re.I)
WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,4})\b", re.I)
LONGEST = 60  # seconds that an answer is waited for, whatever was asked
HELD = 256_000_000  # bytes of answers
SOON = "1"  # seconds until asking again makes sense


@dataclass(eq=False)
class Job:
    """A request at work or answered. ticket: once it is taken. over: when it was answered."""

    name: str
    caller: str
    path: str
    began: float = field(default_factory=time.time)
    ticket: Ticket | None = None
    status: int = 0
    kind: str = "application/json"
    body: bytes = b""
    taken: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def accept(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.taken.set()

    async def send(self, message: Message) -> None:
        """What would have been sent, kept."""
        if message["type"] == "http.response.start":
            headers = {name.lower(): value for name, value in message["headers"]}
            self.status = message["status"]
            self.kind = headers.get(b"content-type", b"application/json").decode("latin-1")
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")


class Jobs:
    """most: that are kept. keep: seconds that an answer is."""

    def __init__(self, server: Server, most: int, keep: float) -> None:
        self.server, self.most, self.keep = server, most, keep
        self.known: OrderedDict[str, Job] = OrderedDict()
        self._running: set[asyncio.Task[None]] = set()

    def begin(self, app: ASGIApp, scope: Scope, body: bytes) -> Job:
        """Raises Denied where all that are kept are at work."""
        self._make_room(self.most - 1)
        if len(self.known) >= self.most:
            why = f"{len(self.known)} jobs are at work, and {self.most} are the most"
            raise Denied(429, why, ((b"retry-after", b"5"),))
        job = Job(secrets.token_urlsafe(18), self.server.callers.of(Request(scope)).name, scope["path"])
        self.known[job.name] = job
        running = asyncio.create_task(self._run(job, app, {**scope, JOB: job.accept}, body))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return job

    def of(self, caller: str) -> list[Job]:
        return [each for each in self.known.values() if each.caller == caller]

    def forget(self, job: Job) -> None:
        """Nobody waits for it any more: what is not drawn yet of it is left undrawn."""
        self.known.pop(job.name, None)
        job.gone.set()

    def _make_room(self, most: int) -> None:
        """The answers that have been there for longest leave."""
        done = [each for each in self.known.values() if each.done.is_set()]
        while done and (len(self.known) > most or sum(len(each.body) for each in done) > HELD):
            del self.known[done.pop(0).name]

    async def _run(self, job: Job, app: ASGIApp, scope: Scope, body: bytes) -> None:
        given = False

        async def receive() -> Message:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            await job.gone.wait()
            return {"type": "http.disconnect"}

        try:
            await app(scope, receive, job.send)
        except Exception as error:
            self.server.engine.say("".join(traceback.format_exception(error)).rstrip())
        finally:
            job.status = job.status or 500
            job.done.set()
        if job.name in self.known:
            self.known.move_to_end(job.name)
            self._make_room(self.most)
            asyncio.get_running_loop().call_later(self.keep, self.known.pop, job.name, None)


class Later:
    """A layer around the application, for whoever prefers not to wait for the answer."""

    def __init__(self, app: ASGIApp, jobs: Jobs) -> None:
        self.app, self.jobs = app, jobs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        prefer = _header(scope, b"prefer") if scope["type"] == "http" and scope["path"] in DRAWING else ""
        if not PREFERENCE.search(prefer) or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        job = self.jobs.begin(self.app, scope, await _whole(receive))
        await _either(job.taken, job.done)
        if found := WAIT.search(prefer):
            await _either(job.done, limit=min(int(found[1]), LONGEST))
        if job.done.is_set():  # so is a refusal told at once
            self.jobs.forget(job)
            answer = Response(job.body, job.status, media_type=job.kind)
        else:
            headers = {"location": f"/jobs/{job.name}", "retry-after": SOON, "preference-applied": "respond-async"}
            answer = Response(json.dumps(told_of(job, self.jobs.server)), 202, headers, "application/json")
        await answer(scope, receive, send)


def router(jobs: Jobs) -> APIRouter:
    at, server = APIRouter(tags=["Jobs"]), jobs.server

    def own(request: Request, name: str) -> Job:
        found = [each for each in jobs.of(server.callers.of(request).name) if each.name == name]
        if not found:
            raise HTTPException(404, "no such job of yours, or no longer")
        return found[0]

    @at.get("/jobs")
    async def mine(request: Request) -> list[dict[str, object]]:
        """The caller's own."""
        return [told_of(each, server) for each in jobs.of(server.callers.of(request).name)]

    @at.get("/jobs/{name}", responses={202: {"description": "at work"}})
    async def job(name: str, request: Request) -> Response:
        """202 while it is at work; then what the request would have been answered."""
        found = own(request, name)
        if found.done.is_set():
            return Response(found.body, found.status, media_type=found.kind)
        return Response(json.dumps(told_of(found, server)), 202, {"retry-after": SOON}, "application/json")

    @at.delete("/jobs/{name}", status_code=204)
    async def cancel(name: str, request: Request) -> None:
        """It is not drawn any further, and its answer is gone."""
        jobs.forget(own(request, name))

    return at


def told_of(job: Job, server: Server) -> dict[str, object]:
    ticket = job.ticket
    drawing = bool(ticket and server.engine.at_work(ticket))
    waits = ticket and not drawing and not ticket.over
    return {
        "id": job.name,
        "url": f"/jobs/{job.name}",
        "request": job.path,
        "status": "done" if job.done.is_set() else "drawing" if drawing else "waiting",
        "code": job.status or None,
        "asked_at": job.began,
        "progress": 1.0 if job.done.is_set() else ticket.progress if ticket else 0.0,
        "pictures_before": server.engine.queue.before(ticket.left) if ticket and waits else 0,
    }


def _header(scope: Scope, name: bytes) -> str:
    return ", ".join(value.decode("latin-1") for key, value in scope["headers"] if key == name)


async def _whole(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return b"".join(parts)


async def _either(*events: asyncio.Event, limit: float | None = None) -> None:
    waits = [asyncio.create_task(each.wait()) for each in events]
    await asyncio.wait(waits, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
    for each in waits:
        each.cancel()
