"""Where clients of sd-webui-controlnet call."""

from __future__ import annotations

import asyncio
import base64

from fastapi import APIRouter
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from tenshot.core.errors import Fault, Refusal
from tenshot.io.png import png_bytes
from tenshot.serve.a1111 import control
from tenshot.serve.drawing import Server

LEAST, MOST = 64, 2048  # pixels of the shorter side that is looked at


class Detection(BaseModel):
    """Pictures in, what a ControlNet would see of them out."""

    model_config = ConfigDict(populate_by_name=True, allow_inf_nan=False)

    controlnet_module: str | None = "none"
    images: list[str] = Field(validation_alias=AliasChoices("controlnet_input_images", "controlnet_images"))
    controlnet_masks: list[str] | None = Field(None, max_length=0)
    controlnet_processor_res: int | None = 512
    controlnet_threshold_a: float | None = None
    controlnet_threshold_b: float | None = None


def router(server: Server) -> APIRouter:
    at = APIRouter(tags=["ControlNet"], prefix="/controlnet")

    @at.get("/version")
    async def version() -> dict[str, int]:
        return {"version": 3}

    @at.get("/settings")
    async def settings() -> dict[str, int]:
        return {"control_net_unit_count": control.UNITS}

    @at.get("/model_list")
    async def models() -> dict[str, object]:
        return {"model_list": await _names(server)}

    @at.get("/module_list")
    async def modules() -> dict[str, object]:
        return {"module_list": control.modules(), "module_detail": control.details()}

    @at.get("/control_types")
    async def types() -> dict[str, object]:
        return {"control_types": control.types(await _names(server))}

    @at.post("/detect")
    async def detect(asked: Detection) -> dict[str, object]:
        return {"images": await asyncio.to_thread(_detected, server, asked), "info": "Success"}

    return at


async def _names(server: Server) -> list[str]:
    return [*await asyncio.to_thread(server.desk.library.controlnets)]


def _detected(server: Server, asked: Detection) -> list[str]:
    unit = control.Unit(
        module=asked.controlnet_module,
        threshold_a=asked.controlnet_threshold_a,
        threshold_b=asked.controlnet_threshold_b,
    )
    if unit.preprocessor not in control.modules():
        found = f"{unit.module!r:.100}: this server has no such preprocessor"
        raise Refusal(Fault("controlnet_module", found, ", ".join(control.modules()), "name one of these"))
    limit = server.desk.options.max_images
    if not 1 <= len(asked.images) <= limit:
        raise Refusal(Fault("controlnet_input_images", f"{len(asked.images)} pictures", f"1 to {limit}", "ask again"))
    given = asked.controlnet_processor_res or 0
    side = given if LEAST <= given <= MOST else 512
    folder = server.desk.folder()
    try:
        maps = []
        for image in asked.images:
            path = server.desk.decoded(image, "controlnet_input_images", folder)
            shown = control.detected(path, unit.preprocessor, side, unit.thresholds)
            maps.append(base64.b64encode(png_bytes(shown, "")).decode())
        return maps
    finally:
        server.desk.done(folder)
