"""A picture drawn again: its infotext as options, whichever program wrote it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tenshot.core.errors import Fault, Refusal
from tenshot.diffusion.samplers import TITLES
from tenshot.io import infotext
from tenshot.io.png import read_infotext

FITS = "a PNG, JPEG or WebP that Tenshot or WebUI drew"
SCHEDULES = {title: name for name, title in TITLES.items()} | {"Automatic": "automatic"}
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
    if found.facts.get("Model") == "pocket":
        options["model"] = "pocket"
    return options


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
    if "Hires upscale" in facts:
        yield "had a second pass at a higher resolution, which is left out"
    elif strength := facts.get("Denoising strength"):
        painted = f", and --mask with --mask_blur {facts['Mask blur']}" if "Mask blur" in facts else ""
        around = (
            f" --only_masked --only_masked_padding {facts.get('Masked area padding')}"
            if "Inpaint area" in facts
            else ""
        )
        yield f"was drawn from another picture: --init_image says which, --strength {strength}{painted}{around}"
    for name in facts:
        if name in ("VAE", "Refiner", "Hypernet", "Eta", "ENSD") or name.startswith("ControlNet "):
            yield f"says {name}: {facts[name]}, which is left out"
