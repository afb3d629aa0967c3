"""What `tenshot generate` is told of a second pass, as the pipeline takes it, and as infotext tells of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tenshot.core import hub_names
from tenshot.core.errors import Fault
from tenshot.core.events import Events
from tenshot.core.size import Size
from tenshot.diffusion.sampling import stretched
from tenshot.diffusion.upscalers import UPSCALERS
from tenshot.generate.canvas import MOST_SIDE
from tenshot.generate.controlnets import ControlNet
from tenshot.generate.options import GenerateOptions
from tenshot.model import upscaler
from tenshot.model.control import Unit
from tenshot.model.model import Model
from tenshot.model.sides import Sides
from tenshot.model.upscaler import Upscaler
from tenshot.pipeline import SecondPass

MOST_STEPS = 1000  # of a whole way: the times that models are trained at


def planned(
    options: GenerateOptions,
    first: Size,
    opened: Model,
    controls: Sequence[ControlNet],
    units: Sequence[Unit],
    larger: Upscaler | None,
    events: Events,
) -> SecondPass | None:
    """first: what the first pass draws. units: the ControlNets `controls`, loaded. larger: the net that enlarges."""
    if not options.hires_scale:
        return None
    size = _size(options.hires_scale, first, opened.sides)
    if any(abs(drawn - side * options.hires_scale) >= 1 for drawn, side in zip(size, first, strict=True)):
        multiple = opened.sides.multiple
        events.say(f"the second pass draws {size.width}x{size.height}: sides are multiples of {multiple}")
    if larger:
        larger.net.to(opened.device)
    again = [_softened(unit, each) for unit, each in zip(units, controls, strict=True)]
    return SecondPass(
        size, larger or options.hires_upscaler, options.hires_steps or None, options.hires_strength, again
    )


def faults(options: GenerateOptions, first: Size, sides: Sides) -> Iterator[Fault]:
    """What is more than can be drawn. first: what the first pass draws. sides: that the model's pictures can have."""
    if not options.hires_scale:
        return
    size, count = _size(options.hires_scale, first, sides), options.hires_steps or options.steps
    if max(size) > (most := min(MOST_SIDE, sides.most or MOST_SIDE)):
        found = f"{options.hires_scale:g} times {first.width}x{first.height} is {size.width}x{size.height}"
        yield Fault("--hires_scale", found, f"sides up to {most} pixels", "ask for less")
    if (whole := stretched(count, options.hires_strength)) > MOST_STEPS:
        found = f"{options.hires_strength:g}, and {count} steps: they would be the last of {whole}"
        do = "give a larger --hires_strength, or fewer --hires_steps"
        yield Fault("--hires_strength", found, f"the last of {MOST_STEPS} at most", do)


def _size(scale: float, first: Size, sides: Sides) -> Size:
    height, width = (int(side * scale) // sides.multiple * sides.multiple for side in first)
    return Size(height, width)


def read_upscaler(options: GenerateOptions) -> Upscaler | None:
    """The net that is to enlarge, where one is. Raises Refusal."""
    named = options.hires_scale and options.hires_upscaler not in UPSCALERS
    return upscaler.read(Path(options.hires_upscaler)) if named else None


def _softened(unit: Unit, control: ControlNet) -> Unit:
    """As sd-webui-controlnet has it: edges that were found count less in the first layers of a second pass."""
    soft = control.preprocessor == "canny" and unit.mode == "balanced"
    return replace(unit, mode="prompt") if soft else unit


def facts(options: GenerateOptions) -> dict[str, object]:
    """What infotext says of it, under WebUI's names."""
    if not options.hires_scale:
        return {}
    return {
        "Denoising strength": options.hires_strength,
        "Hires upscale": str(options.hires_scale).removesuffix(".0"),
        "Hires steps": options.hires_steps or None,
        "Hires upscaler": _called(options.hires_upscaler),
    }


def _called(upscaler: str) -> str:
    return upscaler if upscaler in UPSCALERS else Path(hub_names.called(Path(upscaler))).stem
