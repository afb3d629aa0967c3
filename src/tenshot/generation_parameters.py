"""How a picture was drawn, as its infotext says it, whichever program wrote it: as options of generate."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from tenshot.core.errors import Fault, Refusal
from tenshot.diffusion.samplers import TITLES
from tenshot.diffusion.upscalers import LANCZOS, LATENT, UPSCALERS
from tenshot.io import infotext
from tenshot.io.infotext import Infotext
from tenshot.io.png import read_infotext

FITS = "a PNG, JPEG or WebP that Tenshot or WebUI drew"
SCHEDULES = {title: name for name, title in TITLES.items()} | {"Automatic": "automatic"}
EMPHASES = {"Original": "original", "No norm": "no_norm", "None": "none"}
#: What is under a mask; the order is that of WebUI's inpainting_fill.
CONTENTS = {"fill": "fill", "original": "original", "latent noise": "noise", "latent nothing": "nothing"}
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
#: Option, and what its values are called there.
NAMED: dict[str, tuple[str, Mapping[str, str]]] = {
    "Sampler": ("sampler", {}),
    "Schedule type": ("schedule", SCHEDULES),
    "Emphasis": ("emphasis", EMPHASES),
}
HIRES = ("Hires upscale", "Hires resize")  # a second pass has the denoising strength then
SECOND = (*HIRES, "Hires upscaler", "Hires steps")
PAINTED = ("Denoising strength", "Mask blur", "Masked content", "Inpaint area", "Masked area padding")
#: What follows from other facts, or has no part in what is drawn.
IDLE = (
    *("Size", "Model", "Model hash", "Version", "RNG", "Skip Early CFG", "Script", "Batch size", "Batch pos"),
    *("Lora hashes", "TI hashes", "VAE", "VAE hash", "Hashes", "Created Date", "Civitai resources", "Civitai metadata"),
    *(f"{letter} {what}" for letter in "XYZ" for what in ("Type", "Values")),
)
READ = frozenset((*PLAIN, *NAMED, *SECOND, *PAINTED, *IDLE))
SAME = "Use same"  # so begin values of a second pass that change nothing


def read(picture: Path, where: str) -> Infotext:
    """What a picture says of itself. where: who named it, for a refusal.

    Raises Refusal where the file is no whole picture, or tells of nothing.
    """
    text = read_infotext(picture)
    found = infotext.parsed(text) if text else None
    if found is None or not found.facts:
        raise Refusal(Fault(where, "it does not say what it was drawn with", FITS, "give --prompt instead"))
    return found


def as_options(found: Infotext) -> dict[str, object]:
    """Options of generate. A value that is not known here stands as it is written, and is refused as an option is."""
    facts = found.facts
    options: dict[str, object] = {"prompt": [found.prompt]}
    if found.negative_prompt:
        options["negative_prompt"] = found.negative_prompt
    options |= {option: _number(facts[name]) for name, option in PLAIN.items() if name in facts}
    options |= {option: known.get(facts[name], facts[name]) for name, (option, known) in NAMED.items() if name in facts}
    if size := SIZE.fullmatch(facts.get("Size", "")):
        options |= {"width": int(size[1]), "height": int(size[2])}
    hires = _second_pass(facts)
    options |= {name: _number(told) if isinstance(told, str) else told for name, told in hires.items()}
    if facts.get("Model") == "pocket":
        options["model"] = "pocket"
    return options


def _second_pass(told: Mapping[str, str]) -> dict[str, object]:
    """Its options; none where there was none that can be had."""
    if (scale := _scale(told)) in (None, "1", "1.0", 1.0):
        return {}
    upscaler = told.get("Hires upscaler", LATENT)
    found: dict[str, object] = {"hires_scale": scale, "hires_upscaler": upscaler if upscaler in UPSCALERS else LANCZOS}
    names = {"Denoising strength": "hires_strength", "Hires steps": "hires_steps"}
    return found | {option: told[name] for name, option in names.items() if name in told}


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


def _number(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def elsewhere(facts: Mapping[str, str]) -> Iterator[str]:
    """The files that a picture was drawn with and that options have to name, in words that go on from its name."""
    if "Model source" not in facts and (model := facts.get("Model")) not in (None, "pocket"):
        yield f"was drawn with {model}, hash {facts.get('Model hash', 'unknown')}: --model says where that is"
    if vae := facts.get("VAE"):
        yield f"was drawn with the VAE {vae}, hash {facts.get('VAE hash', 'unknown')}: --vae says where that is"
    if words := facts.get("TI hashes"):
        yield f"was drawn with learned words, of hashes {words}: --embedding says where they are"


def lost(facts: Mapping[str, str]) -> Iterator[str]:
    """What else does not follow from a picture's options, likewise."""
    if "Size" in facts and not SIZE.fullmatch(facts["Size"]):
        yield f"says Size: {facts['Size']}, which is none: --width and --height say it"
    ours = facts.get("Version", "").startswith("tenshot")
    if not ours and facts.get("RNG") != "CPU":
        yield f"had its noise from {facts.get('RNG', 'GPU')}, here it comes from the CPU: another picture comes out"
    if early := facts.get("Skip Early CFG"):
        yield f"had no guidance in its first steps: --guidance_start {early} comes near"
    if any(name in facts for name in HIRES):
        yield from _lost_of_second_pass(facts)
    elif strength := strength_of_picture(facts):
        yield f"was drawn from another picture: --init_image says which, --strength {strength}{_painted(facts)}"
    if facts.get("Script") == "X/Y/Z plot":
        yield "is a sheet of several pictures: the first of them is drawn"
    left = [
        f"{name}: {value[:200]}" for name, value in facts.items() if name not in READ and _counts(name, value, facts)
    ]
    if left:
        yield f"says {', '.join(left)}, which is left out"


def strength_of_picture(facts: Mapping[str, str]) -> str | None:
    """How far it is from the picture that it was drawn from; None where there was none."""
    return None if any(name in facts for name in HIRES) else facts.get("Denoising strength")


def net_that_enlarges(facts: Mapping[str, str]) -> str | None:
    """What WebUI calls the net that enlarged for a second pass; None where it was none."""
    name = facts.get("Hires upscaler", LATENT) if _second_pass(facts) else LATENT
    return None if name in (*UPSCALERS, "None") else name  # None is Lanczos there


def _lost_of_second_pass(facts: Mapping[str, str]) -> Iterator[str]:
    if not _second_pass(facts):
        pixels = facts.get("Hires resize", facts.get("Size"))
        yield f"had a second pass of {pixels}, which is of the first one's size or of another shape: it is left out"
    elif upscaler := net_that_enlarges(facts):
        yield f"was enlarged by {upscaler}: --hires_upscaler says where that is, else {LANCZOS} does it"


def _painted(facts: Mapping[str, str]) -> str:
    painted = f", and --mask with --mask_blur {facts['Mask blur']}" if "Mask blur" in facts else ""
    if content := CONTENTS.get(facts.get("Masked content", "")):
        painted += f" --mask_content {content}"
    if "Inpaint area" not in facts:
        return painted
    return f"{painted} --only_masked --only_masked_padding {facts.get('Masked area padding')}"


def _counts(name: str, value: str, facts: Mapping[str, str]) -> bool:
    """Is something lost without it? Of a second pass only what is otherwise than in the first."""
    first = {each.lower(): told for each, told in facts.items()}
    return not name.startswith("Hires ") or not (value.startswith(SAME) or value == first.get(name[6:].lower()))
