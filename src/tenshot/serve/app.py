"""All routes as one application, and how it says that something cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import HTTPException, RequestValidationError
from fastapi.responses import PlainTextResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp

import tenshot
from tenshot.core.errors import Refusal
from tenshot.serve import jobs, openai
from tenshot.serve.a1111 import controlnet_routes, routes
from tenshot.serve.drawing import Server
from tenshot.serve.engine import Late, Unavailable
from tenshot.serve.queue import Full
from tenshot.serve.safety import Guard

SOON = 5  # seconds until a full queue has room again, as a guess


#: What answers mean that are no pictures.
FAILURES = {
    400: "no such sampler",
    401: "a key is needed",
    403: "asked by a page of another site, or under another name",
    404: "no such thing here",
    413: "more than is taken",
    415: "neither JSON nor a form",
    422: "it cannot be had: what was found, what would fit, what to do",
    429: "too much waits; Retry-After says when to ask again",
    500: "what draws failed or ended",
    503: "the server is being stopped",
    504: "it was not done in time",
}


class Failure(BaseModel):
    """WebUI's four keys: detail says it."""

    error: str
    detail: str
    body: str
    errors: str


class Told(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIFailure(BaseModel):
    error: Told


def _failures(body: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": what, "model": body} for status, what in FAILURES.items()}


def application(server: Server, key: str | None) -> ASGIApp:
    about = "AUTOMATIC1111's API and OpenAI's images API."
    app = FastAPIOffline(title="Tenshot", version=tenshot.__version__, description=about)
    plain, of_openai = _failures(Failure), _failures(OpenAIFailure)
    app.include_router(routes.router(server), responses=plain)
    app.include_router(controlnet_routes.router(server), responses=plain)
    app.include_router(openai.router(server), responses=of_openai)
    options = server.desk.options
    kept = jobs.Jobs(server, options.max_jobs, options.keep_jobs)
    app.include_router(jobs.router(kept), responses=plain)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The server answers."""
        return {"status": "ok"}

    @app.get("/readyz", response_class=PlainTextResponse, responses={503: {"description": "not yet"}})
    async def readyz() -> Response:
        """Its models are in memory: it draws at once."""
        return Response("ready" if server.engine.ready else "not yet", 200 if server.engine.ready else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4")

    for kind in (Refusal, Unavailable, RequestValidationError, HTTPException, StarletteHTTPException, Exception):
        app.add_exception_handler(kind, _answerer(server))
    return Guard(jobs.Later(app, kept), options, key, server.metrics)


def _status(error: Exception) -> int:
    """Of HTTP."""
    if isinstance(error, Full):
        return 429
    if isinstance(error, Refusal | RequestValidationError):
        return 422
    if isinstance(error, Late):
        return 504
    if isinstance(error, Unavailable):
        return 500 if error.again is None else 503
    return error.status_code if isinstance(error, StarletteHTTPException) else 500


def _answerer(server: Server) -> Callable[[Request, Exception], Response]:
    def answer(request: Request, error: Exception) -> Response:
        status, headers = _status(error), {}
        again = SOON if isinstance(error, Full) else getattr(error, "again", None)
        if again is not None:
            headers["retry-after"] = f"{again:.0f}"
        code = (getattr(error, "headers", None) or {}).get("x-code")
        told = _told(server, error)
        if request.url.path.startswith("/v1/"):
            body: dict[str, object] = {"error": {"message": told, "type": _type(status), "param": None, "code": code}}
        else:
            body = {"error": type(error).__name__, "detail": told, "body": "", "errors": told}
        return Response(json.dumps(body), status, headers, "application/json")

    return answer


def _told(server: Server, error: Exception) -> str:
    """In words; of what nobody foresaw nothing, which is in the log."""
    if isinstance(error, Refusal):
        return "\n".join(map(str, server.desk.told(error)))
    if isinstance(error, RequestValidationError):
        each = ((".".join(map(str, one["loc"][1:])) or "body", one["msg"]) for one in error.errors())
        return "\n".join(f"{where}: {what}"[:500] for where, what in each)
    if isinstance(error, StarletteHTTPException):
        return str(error.detail)
    return str(error) if isinstance(error, Unavailable) else "it failed unexpectedly; the server's log says how"


def _type(status: int) -> str:
    return "invalid_request_error" if status < 500 else "server_error"
