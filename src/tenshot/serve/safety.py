"""Who may ask, and how much: before any of a request is read. Also a page in the user's browser reaches loopback."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tenshot.core.errors import Fault, Refusal
from tenshot.io import text_files
from tenshot.serve.metrics import Metrics
from tenshot.serve.options import KEY, SHORTEST, ServeOptions

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN = ("/healthz", "/readyz")  #: without a key
DRAWING = ("/sdapi/v1/txt2img", "/sdapi/v1/img2img", "/v1/images/generations", "/v1/images/edits")  #: are measured
LOCAL = ("127.0.0.1", "localhost", "[::1]")
TYPES = ("application/json", "multipart/form-data")
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
]


def key(options: ServeOptions) -> str | None:
    """The key that clients must give; None: none. Raises Refusal where the one that is told is no key."""
    where, told = KEY, os.environ.get(KEY, "")
    if options.api_key_file:
        where = f"--api_key_file {options.api_key_file}"
        told = text_files.text(options.api_key_file, "a key, in one line", 1000).strip()
    elif not told:
        return None
    if len(told) < SHORTEST or not told.isascii() or not told.isprintable() or " " in told:
        fits = f"{SHORTEST} or more ASCII letters, figures and signs without a space"
        raise Refusal(Fault(where, f"{len(told)} characters that make no key", fits, "openssl rand -hex 16"))
    return told


@dataclass(eq=False)  # frozen, it could not be raised through a context manager
class Denied(Exception):
    status: int
    why: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Guard:
    """The outermost layer of the server."""

    def __init__(self, app: ASGIApp, options: ServeOptions, key: str | None, metrics: Metrics) -> None:
        self.app, self.key, self.metrics = app, key, metrics
        self.hosts = {each.lower() for each in (*LOCAL, options.host, f"[{options.host}]", *options.allow_host)}
        self.most = options.max_body * 1_000_000

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        asked = time.monotonic()
        begun, body = False, Body(receive, self.most)

        async def answer(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                if body.over and message["status"] != body.denied.status:  # it was taken for a damaged one
                    raise body.denied
                begun = True
                if scope["path"] in DRAWING:
                    self.metrics.answered(scope["path"], message["status"], time.monotonic() - asked)
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        try:
            self.admit(scope, headers)
            await self.app(scope, body.receive, answer)
        except Denied as denied:
            if not begun:
                await _deny(denied, answer)

    def admit(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """Raises Denied."""
        host = headers.get("host", "").lower()
        if not _named(host, self.hosts):
            raise Denied(403, f"this server is not called {host[:200]!r} (--allow_host)")
        if self.key and scope["path"] not in OPEN and not hmac.compare_digest(_given(headers), self.key.encode()):
            raise Denied(401, "a key is needed, as Bearer or as password", ((b"www-authenticate", b"Basic"),))
        if scope["method"] in ("GET", "HEAD"):
            return
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        if site not in ("none", "same-origin") or (origin is not None and urlsplit(origin).netloc.lower() != host):
            raise Denied(403, "asked by a page of another site")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        length = headers.get("content-length", "")
        if (kind or length not in ("", "0") or "transfer-encoding" in headers) and kind not in TYPES:
            raise Denied(415, f"content of type {kind[:100]!r}, not {' or '.join(TYPES)}")
        if length.isdecimal() and int(length) > self.most:
            raise Denied(413, f"{int(length):,} bytes, and {self.most:,} are the most")


def _named(host: str, known: Collection[str]) -> bool:
    """Also with a port behind it."""
    return host in known or (host.rpartition(":")[2].isdecimal() and host.rpartition(":")[0] in known)


def _given(headers: Mapping[str, str]) -> bytes:
    """The key that a client gives, as Bearer or as a Basic password; nothing where it gives none."""
    kind, _, told = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return told.strip().encode()
    return _basic(headers)[1].encode() if kind.lower() == "basic" else b""


def user(headers: Mapping[str, str]) -> str:
    """The user name that a client gives; empty where it gives none."""
    return _basic(headers)[0]


def _basic(headers: Mapping[str, str]) -> tuple[str, str]:
    kind, _, told = headers.get("authorization", "").partition(" ")
    try:
        plain = base64.b64decode(told, validate=True).decode() if kind.lower() == "basic" else ""
    except (binascii.Error, ValueError):
        plain = ""
    name, _, password = plain.partition(":")
    return name, password


class Body:
    """What comes, until it is too much, whatever was announced."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._left = receive, most
        self.denied = Denied(413, f"more than {most:,} bytes")

    @property
    def over(self) -> bool:
        return self._left < 0

    async def receive(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self.over:
            raise self.denied
        return message


async def _deny(denied: Denied, send: Send) -> None:
    body = json.dumps({"error": "Denied", "detail": denied.why, "body": "", "errors": denied.why}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *denied.headers]
    await send({"type": "http.response.start", "status": denied.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
