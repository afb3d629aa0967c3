"""Who takes part in `tenshot bench inference`: usual ways to run a model, and ours."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

import torch
from PIL import Image

from tenshot import pipeline
from tenshot.autotune.calibration import edges
from tenshot.core import device
from tenshot.core.size import Size
from tenshot.model import model
from tenshot.model.control import Unit
from tenshot.model.model import Model
from tenshot.pipeline import Request, SamplingSettings
from tenshot.runtime import compiled_model

MODEL, CONTROLNET, LORA, TUNED = "model", "controlnet", "lora.safetensors", "tuned"
PROMPT = "a 3d emoji of a cat on a blue background"


@dataclass(frozen=True)
class Contender:
    """way: "torch", "torch.compile", or "compiled". precision: of the first two. backend: of the last; "": all.

    lossless: nothing quantised. The rest are artifacts' and models' folders within the bench's own.
    """

    name: str
    way: str
    precision: str = "fp32"
    backend: str = ""
    lossless: bool = True

    @property
    def folder(self) -> str:
        return self.name.replace(" ", "-").replace("(", "").replace(")", "").replace(".", "-").replace(",", "")


def contenders(half: str) -> list[Contender]:
    """half: "bf16" or "fp16", whichever is native; "" where neither is."""
    halves = [half] if half else []
    return [
        Contender("torch fp32", "torch"),
        *(Contender(f"torch {each}, channels last", "torch", each) for each in halves),
        *(Contender(f"torch.compile {each}", "torch.compile", each) for each in halves or ["fp32"]),
        *(Contender(name, "compiled", backend=name) for name in ("torchscript", "openvino", "onnxruntime", "tensorrt")),
        Contender("tenshot lossless", "compiled"),
        Contender("tenshot quantised", "compiled", lossless=False),
    ]


@dataclass(frozen=True)
class Turn:
    """One contender's turn. task: "picture", "control" (with a ControlNet), "lora" or "tuned" (after a swap)."""

    contender: Contender
    task: str
    place: Path
    settings: SamplingSettings
    where: str


class Round(TypedDict):
    """Seconds to load, to swap, of the first picture beyond the others, for the picture; peak memory in bytes.

    pixels: the picture [h, w, 3] of `size`.
    """

    load: float
    swap: float
    first: float
    seconds: float
    peak: int
    size: Size
    pixels: bytes


def run(turn: Turn) -> Round:
    where = device.pick(turn.where)
    start = time.perf_counter()
    opened = _opened(turn, where)
    load = time.perf_counter() - start
    swap = _swapped(opened, turn)
    asked, settings = Request(PROMPT, 1), turn.settings
    if turn.task == "control":
        shown = Image.radial_gradient("L").resize(settings.size_for(opened).pillow)
        asked = replace(asked, control=(edges(shown),))
        settings = replace(settings, control=(_control(opened, turn),))
    request = [asked]
    few = SamplingSettings(steps=1, size=settings.size, batch=settings.batch, control=settings.control)
    pipeline.images(opened, request, few)  # to warm up, and what compiles at its first call
    begun = time.perf_counter()
    (image,) = pipeline.images(opened, request, settings)
    seconds = time.perf_counter() - begun
    return {
        "load": load,
        "swap": swap,
        "first": begun - start - load - swap,
        "seconds": seconds,
        "peak": device.max_memory_allocated(),
        "size": Size.from_pillow(image.size),
        "pixels": image.tobytes(),
    }


def _opened(turn: Turn, where: torch.device) -> Model:
    who = turn.contender
    if who.way == "compiled":
        return compiled_model.load(turn.place / who.folder, device=where)
    place = turn.place / (TUNED if turn.task == "tuned" else MODEL)
    opened = model.load(str(place), device=where, precision=who.precision)
    if turn.task == "lora":
        from tenshot.adapters import lora

        lora.attach(opened, lora.to_train(lora.read(turn.place / LORA), turn.place / LORA))  # beside, as in diffusers
    if who.precision != "fp32" or who.way == "torch.compile":
        for part in (opened.family.denoiser, "vae"):
            opened[part].to(memory_format=torch.channels_last)
    if who.way == "torch.compile":  # as diffusers' documentation advises
        opened.denoiser.compile(mode="max-autotune" if where.type == "cuda" else None, fullgraph=True)
        opened.vae.decoder.compile(fullgraph=True)
    return opened


def _swapped(opened: Model, turn: Turn) -> float:
    """Seconds to exchange the weights of a compiled model; others were opened with them."""
    start = time.perf_counter()
    if not isinstance(opened, compiled_model.CompiledModel) or turn.task not in ("lora", "tuned"):
        return 0.0
    if turn.task == "lora":
        opened.set_loras({turn.place / LORA: 1.0})
    else:
        opened.load_weights(turn.place / TUNED)
    return time.perf_counter() - start


def _control(opened: Model, turn: Turn) -> Unit:
    net = opened.parts.get("controlnet")
    if net is None:
        net = model.load_controlnet(turn.place / CONTROLNET, opened.device, opened.dtype)
        if turn.contender.way == "torch.compile":
            net.compile(fullgraph=True)
    return Unit(net)
