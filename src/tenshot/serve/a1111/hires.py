"""A request's second pass, WebUI's Hires. fix, as options of what is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tenshot.core.errors import Fault, refuse_if
from tenshot.core.size import Size
from tenshot.diffusion.upscalers import LANCZOS, LATENT, UPSCALERS
from tenshot.serve.a1111.bodies import Text2Image
from tenshot.serve.library import Served

SAME = "Use same"  # checkpoint, sampler, scheduler: how user interfaces name what need not be named
USUAL_STRENGTH = 0.75  #: WebUI's
#: Fields of a second pass that has something of its own, and the field of the first one that they may repeat.
OWN = {
    "hr_checkpoint_name": "",
    "hr_sampler_name": "sampler_name",
    "hr_scheduler": "scheduler",
    "hr_prompt": "prompt",
    "hr_negative_prompt": "negative_prompt",
    "hr_cfg": "cfg_scale",
    "firstphase_width": "",
    "firstphase_height": "",
}


def options(asked: Text2Image, served: Served) -> dict[str, object]:
    """Nothing where none is asked for. Raises Refusal."""
    if not asked.enable_hr:
        return {}
    first = Size(asked.height or served.side, asked.width or served.side)
    scale = _scale(asked, first)
    refuse_if([*_own(asked), *_misfits(asked, first, scale), *_unknown(asked)])
    upscaler = LATENT if asked.hr_upscaler is None else asked.hr_upscaler
    strength = asked.denoising_strength
    return {
        "hires_scale": scale,
        "hires_upscaler": LANCZOS if upscaler == "None" else upscaler,  # which is what it means there
        "hires_strength": USUAL_STRENGTH if strength is None else strength,
        "hires_steps": asked.hr_second_pass_steps or 0,
    }


def _scale(asked: Text2Image, first: Size) -> float | None:
    """How much larger, by the factor or by the sides that are named; None: these are of another shape."""
    sides = ((asked.hr_resize_y, first.height), (asked.hr_resize_x, first.width))
    pairs = [(to, of) for to, of in sides if to and of > 0]
    if not pairs:
        return 2.0 if asked.hr_scale is None else asked.hr_scale
    scales = {to / of for to, of in pairs}
    if len(scales) > 1:
        return None
    scale = scales.pop()
    return scale if all(int(of * scale) == to for to, of in pairs) else math.nextafter(scale, math.inf)


def _misfits(asked: Text2Image, first: Size, scale: float | None) -> Iterator[Fault]:
    if scale is None:
        found = f"{asked.hr_resize_x}x{asked.hr_resize_y}, and {first.width}x{first.height} is of another shape"
        fits = "one of the sides, or both in the first pass's shape"
        yield Fault("hr_resize_x", found, fits, "leave hr_resize_y out")
    elif scale <= 1:
        yield Fault("hr_scale", f"{scale:g}: nothing becomes larger", "more than 1, up to 8", "leave enable_hr out")


def _unknown(asked: Text2Image) -> Iterator[Fault]:
    """A name that is none of ours would be that of a file."""
    if asked.hr_upscaler not in (None, "None", *UPSCALERS):
        found = f"{str(asked.hr_upscaler)[:100]!r}: no upscaler of that name is served here"
        yield Fault("hr_upscaler", found, ", ".join(UPSCALERS), "name one of them")


def _own(asked: Text2Image) -> Iterator[Fault]:
    told = asked.model_extra or {}
    for name, first in OWN.items():
        value = told.get(name)
        same = first and value == getattr(asked, first)
        if value and not same and not str(value).startswith(SAME):
            found = f"{str(value)[:100]!r}: the second pass has nothing of its own here"
            yield Fault(name, found, f"what {first or 'the first pass'} says", "leave it out")
