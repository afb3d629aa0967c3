"""A picture drawn again: its infotext as options, whichever program wrote it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tenshot.core.errors import Fault, Refusal
from tenshot.diffusion.samplers import TITLES
from tenshot.diffusion.upscalers import LANCZOS, LATENT, UPSCALERS
from tenshot.io import infotext
from tenshot.io.png import read_infotext

FITS = "a PNG, JPEG or WebP that Tenshot or WebUI drew"
SCHEDULES = {title: name for name, title in TITLES.items()} | {"Automatic": "automatic"}
ELSEWHERE = ("Hires sampler", "Hires schedule type", "Hires CFG Scale", "Hires prompt", "Hires negative prompt")
HIRES = ("Hires upscale", "Hires resize")  # a second pass has the denoising strength then
EMPHASES = {"Original": "original", "No norm": "no_norm", "None": "none"}
SIZE = re.compile(r"(\d{1,6})x(\d{1,6})", re.ASCII)
PLAIN = {
    "Steps": "steps",
    "CFG scale": "guidance_scale",
    "Guidance start": "guidance_start",
    "Guidance end": "guidance_end",
    "Seed": "seed",
    "Clip skip": "clip_skip",
    "Variation seed": "variation_seed",
    "Variation seed strength": "variation_strength",
    "Model source": "model",
}


def options_of(picture: Path, say: Callable[[str], None]) -> dict[str, object]:
    """What `picture` was drawn with, as options of generate. say: hears what of it cannot be had.

    Raises Refusal where it tells of nothing, or of what is not known here.
    """
    text = read_infotext(picture)
    found = infotext.parsed(text) if text else None
    if found is None or not found.facts:
        raise Refusal(
            Fault(f"--from {picture}", "it does not say what it was drawn with", FITS, "give --prompt instead")
        )
    for note in _lost(found.facts):
        say(f"{picture.name} {note}")
    options: dict[str, object] = {"prompt": [found.prompt]}
    if found.negative_prompt:
        options["negative_prompt"] = found.negative_prompt
    options |= {option: _number(found.facts[name]) for name, option in PLAIN.items() if name in found.facts}
    if "Sampler" in found.facts:
        options["sampler"] = found.facts["Sampler"]
    options |= _named(picture, found.facts, "Schedule type", "schedule", SCHEDULES)
    options |= _named(picture, found.facts, "Emphasis", "emphasis", EMPHASES)
    if size := SIZE.fullmatch(found.facts.get("Size", "")):
        options |= {"width": int(size[1]), "height": int(size[2])}
    hires = _second_pass(found.facts, lambda note: say(f"{picture.name} {note}"))
    options |= {name: _number(told) if isinstance(told, str) else told for name, told in hires.items()}
    if found.facts.get("Model") == "pocket":
        options["model"] = "pocket"
    return options


def _second_pass(told: Mapping[str, str], say: Callable[[str], None]) -> dict[str, object]:
    """Its options. say: hears what of it cannot be had."""
    if (scale := _scale(told)) in (None, "1", "1.0", 1.0):
        if pixels := told.get("Hires resize", told.get("Hires upscale") and told.get("Size")):
            say(f"had a second pass of {pixels}, which is of the first one's size or of another shape: it is left out")
        return {}
    found: dict[str, object] = {"hires_scale": scale, "hires_upscaler": told.get("Hires upscaler", LATENT)}
    if found["hires_upscaler"] not in UPSCALERS:
        if found["hires_upscaler"] != "None":  # which is Lanczos there
            say(f"was enlarged by {told['Hires upscaler']}, which is not known here: {LANCZOS} does it")
        found["hires_upscaler"] = LANCZOS
    names = {"Denoising strength": "hires_strength", "Hires steps": "hires_steps"}
    found |= {option: told[name] for name, option in names.items() if name in told}
    for name in ELSEWHERE:
        if name in told:
            say(f"says {name}: {told[name]}, which is left out")
    return found


def _scale(told: Mapping[str, str]) -> str | float | None:
    """How much larger the second pass is, where the shape stays."""
    if "Hires upscale" in told:
        return told["Hires upscale"]
    size, resize = (re.fullmatch(r"(\d{1,6})x(\d{1,6})", told.get(name, "")) for name in ("Size", "Hires resize"))
    if not size or not resize:
        return None
    pairs = [(int(to), int(of)) for to, of in zip(resize.groups(), size.groups(), strict=True) if int(to) and int(of)]
    found = {to / of for to, of in pairs}
    if len(found) != 1:
        return None
    scale = found.pop()
    return scale if all(int(of * scale) == to for to, of in pairs) else math.nextafter(scale, math.inf)


def _named(
    picture: Path, facts: Mapping[str, str], name: str, option: str, known: Mapping[str, str]
) -> dict[str, object]:
    if name not in facts:
        return {}
    if (told := facts[name]) not in known:
        do = f"--{option} with another, and the rest by hand"
        raise Refusal(Fault(f"--from {picture}", f"{name}: {told} is not known here", ", ".join(known), do))
    return {option: known[told]}


def _number(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _lost(facts: Mapping[str, str]) -> Iterator[str]:
    """What it was drawn with that does not follow from its options."""
    if "Size" in facts and not SIZE.fullmatch(facts["Size"]):
        yield f"says Size: {facts['Size']}, which is none: --width and --height say it"
    ours = facts.get("Version", "").startswith("tenshot")
    if "Model source" not in facts and (model := facts.get("Model")) not in (None, "pocket"):
        yield f"was drawn with {model}, hash {facts.get('Model hash', 'unknown')}: --model says where that is"
    if not ours and facts.get("RNG") != "CPU":
        yield f"had its noise from {facts.get('RNG', 'GPU')}, here it comes from the CPU: another picture comes out"
    if early := facts.get("Skip Early CFG"):
        yield f"had no guidance in its first steps: --guidance_start {early} comes near"
    if not any(name in facts for name in HIRES) and (strength := facts.get("Denoising strength")):
        painted = f", and --mask with --mask_blur {facts['Mask blur']}" if "Mask blur" in facts else ""
        around = (
            f" --only_masked --only_masked_padding {facts.get('Masked area padding')}"
            if "Inpaint area" in facts
            else ""
        )
        yield f"was drawn from another picture: --init_image says which, --strength {strength}{painted}{around}"
    if facts.get("Script") == "X/Y/Z plot":
        yield "is a sheet of several pictures: the first of them is drawn"
    for name in facts:
        if name in ("VAE", "Refiner", "Hypernet", "Eta", "ENSD") or name.startswith("ControlNet "):
            yield f"says {name}: {facts[name]}, which is left out"
