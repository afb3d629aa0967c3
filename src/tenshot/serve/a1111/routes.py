"""Where clients of AUTOMATIC1111's API call."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import Any

import psutil
from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, Field

from tenshot.io import infotext
from tenshot.io.png import png_bytes, read_infotext
from tenshot.serve.a1111 import answers, control, settings
from tenshot.serve.a1111.asked import Missing, draft
from tenshot.serve.a1111.bodies import Image2Image, Text2Image
from tenshot.serve.drawing import Server, encoded, preview
from tenshot.serve.messages import Load, Unload
from tenshot.serve.requests import Draft


class Shown(BaseModel):
    image: str = Field(description="base64, or a data: URI")


class Task(BaseModel):
    id_task: str | None = Field(None, max_length=200)
    id_live_preview: int | None = -1
    live_preview: bool | None = True


def router(server: Server) -> APIRouter:
    found = APIRouter(tags=["AUTOMATIC1111"])
    _drawing(found, server)
    _watching(found, server)
    _choosing(found, server)
    _listing(found, server)
    return found


def _drawing(at: APIRouter, server: Server) -> None:
    async def answer(asked: Text2Image, request: Request) -> dict[str, object]:
        chosen = await _draft(server, asked, request)
        async with server.asked(request, chosen, asked.force_task_id) as ticket:
            pictures = await ticket.all()
            shown = [base64.b64encode(await encoded(each)).decode() for each in pictures] if asked.send_images else []
            if shown:  # as sd-webui-controlnet, behind the pictures
                maps = [png_bytes(pictures[0].maps[number], "") for number in chosen.maps]
                shown += [base64.b64encode(each).decode() for each in maps]
            keep = isinstance(asked, Image2Image) and asked.include_init_images
            left = set() if keep else {"init_images", "mask"}
            parameters = asked.model_dump(mode="json", exclude=left)
            return {"images": shown, "parameters": parameters, "info": answers.info(asked, chosen, pictures)}

    @at.post("/sdapi/v1/txt2img")
    async def txt2img(asked: Text2Image, request: Request) -> dict[str, object]:
        return await answer(asked, request)

    @at.post("/sdapi/v1/img2img")
    async def img2img(asked: Image2Image, request: Request) -> dict[str, object]:
        return await answer(asked, request)

    @at.post("/sdapi/v1/png-info")
    async def png_info(shown: Shown) -> dict[str, object]:
        text = await asyncio.to_thread(_infotext, server, shown.image)
        parsed = infotext.parsed(text)
        known = {"Prompt": parsed.prompt, "Negative prompt": parsed.negative_prompt, **parsed.facts}
        return {"info": text, "items": {"parameters": text} if text else {}, "parameters": known if text else {}}


async def _draft(server: Server, asked: Text2Image, request: Request) -> Draft:
    try:
        return await asyncio.to_thread(draft, asked, server.callers.of(request).settings, server.desk)
    except KeyError:
        raise HTTPException(400, f"Sampler not found: {asked.sampler!r:.200}") from None
    except Missing:
        raise HTTPException(404, "Init image not found") from None


def _infotext(server: Server, image: str) -> str:
    folder = server.desk.folder()
    try:
        return read_infotext(server.desk.decoded(image, "image", folder)) or ""
    finally:
        server.desk.done(folder)


def _watching(at: APIRouter, server: Server) -> None:
    @at.get("/sdapi/v1/progress")
    async def progress(request: Request, skip_current_image: bool = False) -> dict[str, object]:
        caller = server.callers.of(request)
        working = caller.at_work()
        shown = await preview(server, working[0]) if working and not skip_current_image else None
        return answers.progress(caller, server.engine, shown)

    @at.post("/internal/progress")
    async def of_task(task: Task, request: Request) -> dict[str, object]:
        ticket = server.callers.of(request).tickets.get(task.id_task or "")
        shown = await preview(server, ticket) if ticket and task.live_preview else None
        return answers.of_task(ticket, server.engine, shown)

    @at.get("/internal/pending-tasks")
    async def pending(request: Request) -> dict[str, object]:
        caller = server.callers.of(request)
        names = [name for name, each in caller.tickets.items() if not each.over and not server.engine.at_work(each)]
        return {"size": len(names), "tasks": names}

    @at.get("/internal/ping")
    async def ping() -> dict[str, object]:
        return {}

    @at.post("/sdapi/v1/interrupt")
    async def interrupt(request: Request) -> dict[str, object]:
        server.interrupt(server.callers.of(request))
        return {}

    @at.post("/sdapi/v1/skip")
    async def skip(request: Request) -> None:
        server.skip(server.callers.of(request))


def _choosing(at: APIRouter, server: Server) -> None:
    @at.get("/sdapi/v1/options")
    async def options(request: Request) -> dict[str, object]:
        return settings.told(server.callers.of(request).settings, server.desk.library)

    @at.post("/sdapi/v1/options")
    async def choose(given: dict[str, Any], request: Request) -> None:
        server.callers.of(request).settings.update(settings.checked(given, server.desk.library))

    async def of_model(request: Request, kind: type[Load] | type[Unload]) -> dict[str, object]:
        chosen = server.callers.of(request).settings
        served = server.desk.library.model(str(chosen.get(settings.MODEL) or ""))
        server.engine.keep(kind(await asyncio.to_thread(server.desk.warm, served)))
        return {}

    @at.post("/sdapi/v1/unload-checkpoint")
    async def unload(request: Request) -> dict[str, object]:
        """The caller's model leaves memory; the next picture of it has it loaded again."""
        return await of_model(request, Unload)

    @at.post("/sdapi/v1/reload-checkpoint")
    async def reload(request: Request) -> dict[str, object]:
        return await of_model(request, Load)

    for name in ("refresh-checkpoints", "refresh-vae", "refresh-loras", "refresh-embeddings"):
        at.add_api_route(f"/sdapi/v1/{name}", _nothing, methods=["POST"], name=name)


async def _nothing() -> None:
    """What is served is looked up anew each time."""


def _listing(at: APIRouter, server: Server) -> None:
    library = server.desk.library
    first = library.models[0]
    scripts = [control.SCRIPT] if library.controlnet_dirs else []

    async def embeddings() -> dict[str, object]:
        words = {each.stem if each.is_file() else each.name: {"step": None} for each in server.desk.options.embedding}
        return {"loaded": words, "skipped": {}}

    lists: Mapping[str, Any] = {
        "samplers": lambda: answers.known_samplers(first),
        "schedulers": answers.schedulers,
        "upscalers": answers.upscalers,
        "latent-upscale-modes": answers.latent_upscalers,
        "sd-models": lambda: answers.models(library),
        "sd-vae": lambda: [],
        "loras": lambda: answers.loras(library),
        "scripts": lambda: {"txt2img": scripts, "img2img": scripts},
        "script-info": lambda: answers.scripts(scripts),
        "hypernetworks": lambda: [],
        "face-restorers": lambda: [],
        "realesrgan-models": lambda: [],
        "prompt-styles": lambda: [],
        "extensions": lambda: [],
        "cmd-flags": lambda: {
            "api": True,
            "port": server.desk.options.port,
            "listen": not server.desk.options.loopback,
        },
        "memory": lambda: _memory(server),
    }
    at.add_api_route("/sdapi/v1/embeddings", embeddings, methods=["GET"])
    for name, told in lists.items():
        at.add_api_route(f"/sdapi/v1/{name}", _told(told), methods=["GET"], name=name)


def _told(told: Any) -> Any:
    async def listed() -> Any:
        return await asyncio.to_thread(told)

    return listed


def _memory(server: Server) -> dict[str, object]:
    ram = psutil.virtual_memory()
    used = {each.setup.device: each.memory for each in server.engine.devices}
    return {"ram": {"free": ram.available, "used": ram.used, "total": ram.total}, "cuda": {"peak_bytes": used}}
