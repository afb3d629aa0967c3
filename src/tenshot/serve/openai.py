"""OpenAI's images API: generations and edits, with or without a stream; seeds and steps come in extra_body."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile

from tenshot.core.errors import Fault, Refusal, refuse_if
from tenshot.io.images import load
from tenshot.serve.drawing import Server, encoded, now
from tenshot.serve.engine import Picture
from tenshot.serve.requests import Desk, Draft, seeds

ALIASES = re.compile(r"dall-e-\d|gpt-image-.*|chatgpt-image-.*")  #: of the first model: what clients name by default
NO_TOKENS = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}
FIELDS = 100  # of a form
HELD = 256_000_000  # bytes of pictures with an address
EXPIRY = 3600.0  # seconds that an address holds


class Generation(BaseModel):
    """A prompt in, pictures out."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, protected_namespaces=())

    prompt: str
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=10)] | None = 1
    size: Annotated[str, Field(pattern=r"^(auto|\d{1,5}x\d{1,5})$")] | None = "auto"
    response_format: Literal["b64_json", "url"] | None = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] | None = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = Field(100, description="of jpeg and webp")
    stream: bool | None = False
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = 0
    seed: int | None = Field(None, description="ours: by extra_body")
    steps: int | None = Field(None, description="ours: by extra_body; num_inference_steps is the same")
    num_inference_steps: int | None = None
    negative_prompt: str | None = None
    guidance_scale: float | None = None
    sampler: str | None = None


class Edit(Generation):
    """strength: how far from the picture; with a mask all of the way is gone."""

    strength: float | None = Field(None, description="ours: by extra_body")


_FILE = {"type": "string", "format": "binary"}
_FIELDS = {**Edit.model_json_schema()["properties"], "image": _FILE, "mask": _FILE}
#: What an edit is asked with.
FORM = {"multipart/form-data": {"schema": {"type": "object", "properties": _FIELDS, "required": ["prompt", "image"]}}}


class Shelf:
    """Pictures with an address, for a while. Who knows neither address nor key sees none."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, bytes] = OrderedDict()

    def put(self, content: bytes, kind: str) -> str:
        name = f"{secrets.token_urlsafe(24)}.{kind}"
        self._held[name] = content
        while sum(map(len, self._held.values())) > HELD and len(self._held) > 1:
            self._held.popitem(last=False)
        asyncio.get_running_loop().call_later(EXPIRY, self._held.pop, name, None)
        return name

    def get(self, name: str) -> bytes | None:
        return self._held.get(name)


def router(server: Server) -> APIRouter:
    at, shelf = APIRouter(tags=["OpenAI"], prefix="/v1"), Shelf()

    @at.get("/models")
    async def models() -> dict[str, object]:
        return {"object": "list", "data": [_model(each.name) for each in server.desk.library.models]}

    @at.get("/models/{name}")
    async def model(name: str) -> dict[str, object]:
        return _model(_served(server.desk, name).name)

    @at.post("/images/generations")
    async def generations(asked: Generation, request: Request) -> Response:
        draft = _draft(asked, server.desk)
        return await _answered(server, shelf, asked, draft, request, "image_generation")

    @at.post("/images/edits", openapi_extra={"requestBody": {"required": True, "content": FORM}})
    async def edits(request: Request) -> Response:
        folder = server.desk.folder()
        try:
            asked, options = await _edit(request, server.desk, folder)
            draft = _draft(asked, server.desk, options, folder)
        except BaseException:
            server.desk.done(folder)
            raise
        return await _answered(server, shelf, asked, draft, request, "image_edit")

    @at.get("/images/files/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        content = shelf.get(name)
        if content is None:
            raise HTTPException(404, "no such picture, or no longer")
        return Response(content, media_type=f"image/{name.rpartition('.')[2]}")

    return at


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "tenshot"}


def _served(desk: Desk, name: str | None) -> Any:
    try:
        return desk.library.model(None if name and ALIASES.fullmatch(name) else name)
    except Refusal as refusal:
        raise HTTPException(404, str(refusal), {"x-code": "model_not_found"}) from None


def _draft(
    asked: Generation, desk: Desk, more: Mapping[str, object] | None = None, folder: Path | None = None
) -> Draft:
    """more: what else is told of the pictures in `folder`."""
    width, height = None, None
    if asked.size and asked.size != "auto":
        width, height = map(int, asked.size.split("x"))
    options: dict[str, object] = {
        "prompt": [asked.prompt],
        "negative_prompt": asked.negative_prompt,
        "steps": asked.steps or asked.num_inference_steps,
        "guidance_scale": asked.guidance_scale,
        "sampler": asked.sampler,
        "width": width,
        "height": height,
        **(more or {}),
    }
    if asked.output_format not in (None, "png"):
        quality = 100 if asked.output_compression is None else max(1, asked.output_compression)
        options |= {"format": asked.output_format, "quality": quality}
    return Draft(_served(desk, asked.model), options, seeds(asked.seed, asked.n or 1), (), folder)


async def _edit(request: Request, desk: Desk, folder: Path) -> tuple[Edit, dict[str, object]]:
    """What a form says, and its pictures as files. Raises Refusal."""
    form = await request.form(max_files=3, max_fields=FIELDS, max_part_size=1 << 20)
    files = {name: value for name, value in form.multi_items() if isinstance(value, UploadFile)}
    images = [value for name, value in files.items() if name in ("image", "image[]", "image[0]")]
    refuse_if(() if len(images) == 1 else [Fault("image", f"{len(images)} pictures", "one", "send one, as image")])
    try:
        asked = Edit.model_validate({name: value for name, value in form.multi_items() if isinstance(value, str)})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "form"
        raise Refusal(Fault(where, f"{first['input']!r:.100}: {first['msg']}")) from None
    options: dict[str, object] = {"init_image": desk.saved(await images[0].read(), "image", folder)}
    if mask := files.get("mask"):
        options["mask"] = await asyncio.to_thread(_mask, desk.saved(await mask.read(), "mask", folder))
    options["strength"] = asked.strength if asked.strength is not None or not mask else 1.0
    return asked, options


def _mask(path: Path) -> Path:
    """Transparent there means: draw; white is what that is called here."""
    image = load(path)
    if not image.has_transparency_data:
        found = "nothing in it is transparent"
        raise Refusal(Fault("mask", found, "a PNG, transparent where the picture may change", "erase it there"))
    clear = image.convert("RGBA").getchannel("A").point(lambda value: 255 - value)
    clear.save(path.with_name("mask.png"), "PNG")
    return path.with_name("mask.png")


async def _answered(
    server: Server, shelf: Shelf, asked: Generation, draft: Draft, request: Request, kind: str
) -> Response:
    if asked.stream:
        stream = _stream(server, draft, request, kind, asked.partial_images or 0)
        first = await anext(stream)  # what is refused is refused before a stream begins
        return StreamingResponse(_all(first, stream), media_type="text/event-stream")
    async with server.asked(request, draft) as ticket:
        pictures = [await encoded(each) for each in await ticket.all()]
    kind = asked.output_format or "png"
    if asked.response_format == "url":
        host = f"{request.url.scheme}://{request.url.netloc}"
        data = [{"url": f"{host}/v1/images/files/{shelf.put(each, kind)}"} for each in pictures]
    else:
        data = [{"b64_json": base64.b64encode(each).decode()} for each in pictures]
    told = {"created": now(), "data": data, "output_format": kind, "usage": NO_TOKENS}
    return Response(json.dumps(told), media_type="application/json")


async def _stream(server: Server, draft: Draft, request: Request, kind: str, partials: int) -> AsyncIterator[str]:
    """First nothing, once the request is taken; then an event for each picture, and for `partials` on the way to it."""
    async with server.asked(request, draft) as ticket:
        ticket.partials = partials
        yield ""
        try:
            async for picture in ticket.drawn():
                yield await _event(picture, kind)
        except Exception as error:
            told = {"error": {"message": str(error)[:2000], "type": "server_error", "param": None, "code": None}}
            yield f"event: error\ndata: {json.dumps(told)}\n\n"


async def _all(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for each in rest:
        yield each


async def _event(picture: Picture, kind: str) -> str:
    done = picture.partial is None
    told = {
        "type": f"{kind}.{'completed' if done else 'partial_image'}",
        "b64_json": base64.b64encode(await encoded(picture)).decode(),
        "created_at": now(),
        "size": f"{picture.image.width}x{picture.image.height}",
        "quality": "auto",
        "background": "opaque",
        "output_format": picture.row.options.format or "png",
        **({"usage": NO_TOKENS} if done else {"partial_image_index": picture.partial}),
    }
    return f"event: {told['type']}\ndata: {json.dumps(told)}\n\n"
