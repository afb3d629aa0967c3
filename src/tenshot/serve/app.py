"""All routes as one application, and how it says that something cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable

from fastapi import Request, Response
from fastapi.exceptions import HTTPException, RequestValidationError
from fastapi_offline import FastAPIOffline
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


def application(server: Server, key: str | None) -> ASGIApp:
    about = "AUTOMATIC1111's API and OpenAI's images API."
    app = FastAPIOffline(title="Tenshot", version=tenshot.__version__, description=about)
    app.include_router(routes.router(server))
    app.include_router(controlnet_routes.router(server))
    app.include_router(openai.router(server))
    options = server.desk.options
    kept = jobs.Jobs(server, options.max_jobs, options.keep_jobs)
    app.include_router(jobs.router(kept))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The server answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> Response:
        """Its models are in memory: it draws at once."""
        return Response("ready" if server.engine.ready else "not yet", 200 if server.engine.ready else 503)

    @app.get("/metrics")
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
