"""The verb that serves: models in memory, processes that draw, and the APIs that other programs speak."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tenshot.core.errors import Fault, Refusal, all_or_refuse
from tenshot.core.events import Events
from tenshot.core.results import Served
from tenshot.model import hub
from tenshot.serve import safety
from tenshot.serve.options import ServeOptions

if TYPE_CHECKING:
    from tenshot.serve.drawing import Server

NEEDED = ("fastapi", "fastapi_offline", "uvicorn", "multipart", "prometheus_client")
PACE = 0.2  # seconds between looks whether it is to stop


def serve(options: ServeOptions, events: Events) -> Served:
    """Until Ctrl-C. Raises Refusal where it cannot begin."""
    _, found, key = all_or_refuse(_installed, lambda: hub.fetched(options, events), lambda: safety.key(options))
    from tenshot.serve.library import Library

    library = Library.read(found.model, found.lora_dir, found.controlnet_dir, events)
    with _listening(options) as listener, tempfile.TemporaryDirectory(prefix="tenshot-serve-") as spool:
        from tenshot.serve.app import application
        from tenshot.serve.drawing import Server
        from tenshot.serve.engine import Engine
        from tenshot.serve.messages import Setup
        from tenshot.serve.metrics import Metrics
        from tenshot.serve.queue import Queue
        from tenshot.serve.requests import Desk

        desk = Desk(found, library, Path(spool))
        warm = [desk.warm(each) for each in library.models[: found.keep_models]]
        most = found.max_memory and int(found.max_memory * 1e9)
        setups = [Setup(device, warm[::-1], found.keep_models, most) for device in found.device]
        metrics = Metrics()
        engine = Engine(setups, Queue(found.max_queue, found.batch_size), found.max_wait, events.say, metrics)
        server = Server(desk, engine, metrics)
        app = application(server, key)
        asyncio.run(_run(server, app, listener, events))
    return {"answered": metrics.total}


def _installed() -> None:
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        do = 'pip install "tenshot[serve]"'
        raise Refusal(Fault("tenshot serve", f"{', '.join(missing)}: not installed", "the extra `serve`", do))


@contextlib.contextmanager
def _listening(options: ServeOptions) -> Iterator[socket.socket]:
    """Raises Refusal where the address cannot be had."""
    try:
        (family, *_, address), *_ = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)
        listener = socket.create_server(address[:2], family=family)
    except OSError as error:
        found = f"{options.host}:{options.port} cannot be listened at: {error.strerror or error}"
        raise Refusal(
            Fault("--port", found, "a free port", "choose another; --port 0 takes any that is free")
        ) from None
    with listener:
        yield listener


async def _run(server: Server, app: object, listener: socket.socket, events: Events) -> None:
    import uvicorn

    options, engine = server.desk.options, server.engine
    quiet = {"log_level": "warning", "access_log": False, "lifespan": "off", "ws": "none", "server_header": False}
    config = uvicorn.Config(app, timeout_keep_alive=30, timeout_graceful_shutdown=5, **quiet)  # type: ignore[arg-type]
    front = uvicorn.Server(config)
    front.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]  # they are heard above
    host, port = listener.getsockname()[:2]
    place = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    engine.start()
    serving = asyncio.create_task(front.serve([listener]))
    ready: asyncio.Task[None] | None = asyncio.create_task(engine.is_ready())
    events.say(f"{place}: loading {', '.join(each.name for each in server.desk.library.models)}")
    try:
        while not events.cancelled() and not serving.done():
            if ready and ready.done():
                ready.result()
                events.say(f"{place}: ready (AUTOMATIC1111's API; OpenAI's at {place}/v1; {place}/docs)")
                ready = None
            await asyncio.sleep(PACE)
    finally:
        if ready:
            ready.cancel()
        await engine.stop(options.grace)
        front.should_exit = True
        await serving
