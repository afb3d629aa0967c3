"""Answers that are fetched later: on a real server, and what is kept of them, with an application that does as told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from tenshot.serve.jobs import Jobs, Later
from tenshot.serve.safety import Denied
from tests.servers import Running
from tests.test_serve_a1111 import PROMPT, SIZE

ASK = {"prompt": PROMPT, "seed": 3, **SIZE}
LONG = {**ASK, "steps": 150, "n_iter": 9}


def ask(server: Running, body: object, path: str = "/sdapi/v1/txt2img", **headers: str) -> requests.Response:
    told = {"Prefer": "respond-async", "User-Agent": "mine", **headers}
    return requests.post(f"{server.url}{path}", json=body, headers=told, timeout=60)


def call(server: Running, job: str, agent: str = "mine", how: str = "GET") -> requests.Response:
    return requests.request(how, f"{server.url}{job}", headers={"User-Agent": agent}, timeout=9)


def answered(server: Running, job: str) -> requests.Response:
    end = time.monotonic() + 60
    while (found := call(server, job)).status_code == 202:
        assert time.monotonic() < end and found.headers["Retry-After"] == "1"
        assert found.json()["status"] in ("waiting", "drawing")
        time.sleep(0.05)
    return found


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/sdapi/v1/txt2img", {**ASK, "steps": 40}),
        ("/v1/images/generations", {"prompt": PROMPT, "size": "64x64", "seed": 3, "steps": 40}),
    ],
)
def test_the_answer_is_the_one_that_would_have_been_given(server: Running, path: str, body: dict[str, Any]) -> None:
    told = ask(server, body, path)
    job = told.headers["Location"]
    assert told.status_code == 202 and told.headers["Preference-Applied"] == "respond-async"
    assert told.json()["url"] == job and told.json()["request"] == path
    found, plain = answered(server, job), requests.post(f"{server.url}{path}", json=body, timeout=60)
    assert found.status_code == 200 and found.headers["Content-Type"] == "application/json"

    def pictures(answer: requests.Response) -> object:
        return answer.json().get("images") or [each["b64_json"] for each in answer.json()["data"]]

    assert pictures(found) == pictures(plain)
    (mine,) = [each for each in call(server, "/jobs").json() if each["url"] == job]
    assert (mine["status"], mine["code"], mine["progress"]) == ("done", 200, 1.0)
    assert call(server, job, how="DELETE").status_code == 204 and call(server, job).status_code == 404


def test_what_is_refused_is_refused_at_once(server: Running) -> None:
    for body, status in (({**ASK, "steps": 151}, 422), ({**ASK, "sampler_name": "Zz"}, 400), ([], 422)):
        answer = ask(server, body)
        assert answer.status_code == status and "Location" not in answer.headers
    assert ask(server, ASK, Prefer="respond-async, wait=60").status_code == 200
    assert requests.get(f"{server.url}/sdapi/v1/progress", headers={"Prefer": "respond-async"}, timeout=9).ok
    assert call(server, "/jobs").json() == []


def test_nobody_sees_or_cancels_anothers(server: Running) -> None:
    job = ask(server, LONG).headers["Location"]
    assert call(server, job, "another").status_code == 404 == call(server, job, "another", "DELETE").status_code
    assert call(server, "/jobs", "another").json() == [] and call(server, job).status_code == 202
    assert call(server, "/sdapi/v1/progress").json()["state"]["job_count"] == 9
    assert call(server, job, how="DELETE").status_code == 204
    assert call(server, job).status_code == 404
    end = time.monotonic() + 9
    while call(server, "/sdapi/v1/progress").json()["state"]["job_count"]:
        assert time.monotonic() < end
        time.sleep(0.02)


class Asked:
    """One that prefers to come back. answer: what the application is to say; None: not yet."""

    def __init__(self, later: Later) -> None:
        self.sent: list[dict[str, Any]] = []
        self.scope = {"type": "http", "method": "POST", "path": "/sdapi/v1/txt2img", "query_string": b""}
        self.scope |= {"headers": [(b"prefer", b"respond-async")], "client": ("127.0.0.1", 1)}
        self.later = later

    async def ask(self) -> str:
        """The job's name."""

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"{}", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            self.sent.append(message)

        await self.later(self.scope, receive, send)
        return str(json.loads(self.sent[1]["body"])["id"])


def played(play: Callable[[Jobs, Later, list[asyncio.Event]], Awaitable[None]], most: int, keep: float) -> None:
    """play: gets jobs, the layer, and what lets each job go on."""
    go: list[asyncio.Event] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        go.append(mine := asyncio.Event())
        scope["tenshot.job"](SimpleNamespace(over=False, progress=0.5, left=set()))
        await mine.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"an answer"})

    engine = SimpleNamespace(at_work=lambda _: [], queue=SimpleNamespace(before=lambda _: 0), say=print)
    callers = SimpleNamespace(of=lambda _: SimpleNamespace(name="me"))
    jobs: Any = Jobs(SimpleNamespace(engine=engine, callers=callers), most, keep)  # type: ignore[arg-type]
    asyncio.run(asyncio.wait_for(play(jobs, Later(app, jobs), go), 20))


def test_answers_leave_when_there_are_too_many() -> None:
    async def play(jobs: Jobs, later: Later, go: list[asyncio.Event]) -> None:
        first, second = [await Asked(later).ask() for _ in range(2)]
        with pytest.raises(Denied) as denied:
            await Asked(later).ask()
        assert denied.value.status == 429 and [*jobs.known] == [first, second]
        go[1].set()
        await jobs.known[second].done.wait()
        third = await Asked(later).ask()  # the one that is done makes room
        assert [*jobs.known] == [first, third]
        go[0].set()
        await jobs.known[first].done.wait()
        assert (jobs.known[first].body, jobs.known[first].kind) == (b"an answer", "text/plain")

    played(play, 2, 60)


def test_answers_leave_after_a_while() -> None:
    async def play(jobs: Jobs, later: Later, go: list[asyncio.Event]) -> None:
        first, second = [await Asked(later).ask() for _ in range(2)]
        go[0].set()
        await jobs.known[first].done.wait()
        while first in jobs.known:
            await asyncio.sleep(0.01)
        assert [*jobs.known] == [second] and not jobs.known[second].done.is_set()

    played(play, 9, 0.05)


def test_large_answers_leave_first_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenshot.serve.jobs.HELD", 20)

    async def play(jobs: Jobs, later: Later, go: list[asyncio.Event]) -> None:
        names = [await Asked(later).ask() for _ in range(3)]
        for each, name in zip(go, names, strict=True):
            job = jobs.known[name]
            each.set()
            await job.done.wait()
            await asyncio.sleep(0)
        assert [*jobs.known] == names[1:]

    played(play, 9, 60)
