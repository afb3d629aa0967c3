"""The ControlNets that `tenshot generate` is told: read, checked against the model, and their control pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tenshot.core import hub_names
from tenshot.core.errors import Fault, all_or_refuse, refuse_if
from tenshot.core.events import Events
from tenshot.core.size import Size
from tenshot.diffusion import sampling
from tenshot.families import validate
from tenshot.families.components import Net
from tenshot.generate import controlnet_faults
from tenshot.generate.canvas import Canvas
from tenshot.generate.controlnet_options import Asked, Preprocessor, Resize
from tenshot.generate.options import GenerateOptions
from tenshot.io import hashes
from tenshot.io.images import fit_picture, open_picture
from tenshot.model import model
from tenshot.model.control import Mode, Unit
from tenshot.pipeline import SamplingSettings
from tenshot.runtime.compiled_model import CompiledModel
from tenshot.runtime.flat_modules import CONTROLLED

TITLES: dict[Mode, str] = {
    "balanced": "Balanced",
    "prompt": "My prompt is more important",
    "control": "ControlNet is more important",
}
RESIZE_TITLES: dict[Resize, str] = {
    "crop": "Crop and Resize",
    "stretch": "Just Resize",
    "fill": "Resize and Fill",
}


@dataclass(frozen=True)
class ControlNet:
    """asked: which, and how much it counts. picture: as it was given. thresholds: of canny."""

    asked: Asked
    picture: Image.Image
    preprocessor: Preprocessor
    mode: Mode
    thresholds: tuple[int, int]
    resize: Resize = "crop"

    def map(self, size: Size, canvas: Canvas | None) -> Image.Image:
        """What the ControlNet sees of its picture where one of `size` is drawn, all or the part of it on `canvas`."""
        shown = canvas.beside(size, self._fitted) if canvas else self._fitted(size)
        return shown if self.resize == "fill" else self._seen(shown)

    def _fitted(self, size: Size) -> Image.Image:
        if self.resize == "crop":
            return fit_picture(self.picture, size)
        if self.resize == "stretch":
            return self.picture.resize(size.pillow, Image.Resampling.LANCZOS)
        # Edges are those of the picture alone, not of the frame around it.
        return framed(self._seen(contained(self.picture, size)), size)

    def _seen(self, shown: Image.Image) -> Image.Image:
        return canny(shown, *self.thresholds) if self.preprocessor == "canny" else shown

    @property
    def told(self) -> str:
        """As sd-webui-controlnet says it in infotext."""
        place = Path(self.asked.place)
        name = hub_names.called(place) if place.is_dir() else Path(hub_names.called(place)).stem
        facts: dict[str, object] = {
            "Module": self.preprocessor,
            "Model": f"{name} [{hashes.auto_v1(_weights(place))}]",
            "Weight": f"{self.asked.weight:g}",
            "Resize Mode": RESIZE_TITLES[self.resize],
        }
        if self.preprocessor == "canny":
            facts |= dict(zip(("Threshold A", "Threshold B"), self.thresholds, strict=True))
        facts |= {
            "Guidance Start": f"{self.asked.start:g}",
            "Guidance End": f"{self.asked.end:g}",
            "Pixel Perfect": True,
            "Control Mode": TITLES[self.mode],
        }
        return ", ".join(f"{name}: {value}" for name, value in facts.items())


def read(options: GenerateOptions) -> list[ControlNet]:
    """The ControlNets that `options` name. Raises Refusal with the faults of all, before a net is loaded."""
    if not options.controlnet:
        return []
    images = dict.fromkeys(options.control_image)
    _, *pictures = all_or_refuse(
        lambda: refuse_if(_faults(options)), *(partial(open_picture, image) for image in images)
    )
    if [*options.control_faults()]:  # told elsewhere
        return []
    opened = dict(zip(images, pictures, strict=True))
    thresholds = (options.canny_low, options.canny_high)
    count = len(options.controlnet)
    rows = zip(
        options.controlnet,
        _spread(options.control_image, count),
        _spread(options.control_preprocessor, count),
        _spread(options.control_mode, count),
        _spread(options.control_resize, count),
        strict=True,
    )
    return [
        ControlNet(Asked.parsed(given), opened[image], preprocessor, mode, thresholds, resize)
        for given, image, preprocessor, mode, resize in rows
    ]


def _faults(options: GenerateOptions) -> Iterator[Fault]:
    return controlnet_faults.faults(options.model, options.vae, options.controlnet, options.control_preprocessor)


def _spread(given: Sequence[Any], count: int) -> Sequence[Any]:
    """One stands for all."""
    return [*given] * count if len(given) == 1 else given


def units(
    chosen: Sequence[ControlNet], opened: CompiledModel, nets: dict[str, Net], events: Events
) -> tuple[Unit, ...]:
    """Loaded, and at work beside `opened`. A net that the model is compiled with is run as its program.

    nets: those that are in memory beside it, by their place; what is loaded stays there.
    """
    for each in chosen:
        if each.asked.place not in nets:
            nets[each.asked.place] = _net(Path(each.asked.place), opened, events)
    if chosen and opened.programs.keys() & {*CONTROLLED.values()} and not opened.programs.keys() & {*CONTROLLED}:
        events.say("the model is compiled without a ControlNet: torch runs its UNet (tenshot compile --controlnet)")
    return tuple(
        Unit(nets[each.asked.place], each.asked.weight, each.asked.start, each.asked.end, each.mode) for each in chosen
    )


def idle(chosen: Sequence[ControlNet], settings: SamplingSettings) -> Iterator[str]:
    """Which of them have no effect, and why."""
    steps, second = settings.steps - sampling.skipped(settings.steps, settings.strength), settings.second
    later = (second.steps or settings.steps) if second else steps
    for each, unit in zip(chosen, settings.control, strict=True):
        if unit.idle(steps) and unit.idle(later):
            part = f"none of {steps} steps lies within {unit.start:g} to {unit.end:g} of them"
            yield f"{each.asked.place} has no effect: {part if unit.weight else 'its weight is 0'}"


def _net(place: Path, opened: CompiledModel, events: Events) -> Net:
    net: Any = model.load_controlnet(place, opened.device, opened.dtype)
    own: Any = opened.parts.get("controlnet")
    if own is not None and _same(net, own):
        return own
    if own is not None:
        events.say(f"{place} is not the ControlNet that the model is compiled with: torch runs it")
    return net


def _same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Are all weights equal?"""
    mine, theirs = dict(one.named_parameters()), dict(other.named_parameters())
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def contained(image: Image.Image, size: Size) -> Image.Image:
    """As large as it goes within `size`, of its own shape."""
    scale = min(size.width / image.width, size.height / image.height)
    width, height = (max(1, round(each * scale)) for each in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def framed(image: Image.Image, size: Size) -> Image.Image:
    """In the middle of `size`, around it the middle colour of its own edge (WebUI: Resize and Fill)."""
    pixels = np.array(image.convert("RGB"))
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    whole = Image.new("RGB", size.pillow, tuple(int(each) for each in np.median(edge, axis=0)))
    whole.paste(image, ((size.width - image.width) // 2, (size.height - image.height) // 2))
    return whole


def canny(image: Image.Image, low: int, high: int) -> Image.Image:
    """Its edges, white on black, RGB."""
    import cv2

    find: Callable[..., np.ndarray] = cv2.Canny
    return Image.fromarray(find(np.array(image.convert("RGB")), low, high)).convert("RGB")


def _weights(place: Path) -> Path:
    if place.is_file():
        return place
    _, files = validate.weights(place)
    return files[0] if files else place / "diffusion_pytorch_model.bin"
