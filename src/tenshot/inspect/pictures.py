"""What a picture says of how it was drawn, what of that is at hand, and the command that draws it again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from tenshot import generation_parameters
from tenshot.core import hub_names
from tenshot.core.option_text import command
from tenshot.core.results import Inspected, Resource
from tenshot.diffusion.samplers import SAMPLERS, parted
from tenshot.inspect import at_hand
from tenshot.io import images, infotext, text_files
from tenshot.io.infotext import Infotext
from tenshot.io.png import infotext_of
from tenshot.next_commands import TEXT
from tenshot.prompt.syntax import without_loras

ORDER = ("model", "vae", "lora", "embedding", "controlnet", "upscaler")
MODES = {"My prompt is more important": "prompt", "ControlNet is more important": "control"}
MOST = 100  #: LoRAs and other files of a kind that are looked for
_HASHED = re.compile(r"(.*) \[([0-9a-f]{8,64})\]")


def is_one(file: Path) -> bool:
    """Does its name claim a picture?"""
    return file.suffix.lower() in images.SUFFIXES and file.is_file()


def look(place: Path, given: Path) -> Inspected:
    """given: as the person named it. Raises Refusal where the file is no whole picture."""
    image = images.load(place)
    found = infotext.parsed(infotext_of(image) or "")
    told: Inspected = {"file": str(place), "what": "picture", "size": f"{image.width}x{image.height}"}
    if not found.facts:
        note = "it does not say what it was drawn with"
        return {**told, "notes": [note], "next": [command("generate", "--init_image", given, "--prompt", TEXT)]}
    resources = sorted(_resources(found), key=lambda each: ORDER.index(each["what"]))
    return {
        **told,
        "prompt": found.prompt,
        "negative_prompt": found.negative_prompt,
        "settings": found.facts,
        "resources": resources,
        "notes": [*generation_parameters.lost(found.facts)],
        "next": [command("generate", "--from", given, *_beside(found, resources))],
    }


def _resources(found: Infotext) -> Iterator[Resource]:
    facts = found.facts
    if source := hub_names.parse(facts.get("Model source", "")):
        yield at_hand.on_hub("model", source)
    elif "Model" in facts or "Model hash" in facts:
        yield at_hand.found("model", facts.get("Model", "unknown"), facts.get("Model hash", ""))
    if vae := facts.get("VAE"):
        yield at_hand.found("vae", vae, facts.get("VAE hash", ""))
    digests = dict(_pairs(facts.get("Lora hashes", "")))
    tags = []
    with suppress(ValueError):
        tags = [each.name for each in without_loras(found.prompt)[1]]
    for each in [*dict.fromkeys((*tags, *digests))][:MOST]:
        yield at_hand.lora(each, digests.get(each, ""))
    for word, digest in _pairs(facts.get("TI hashes", ""))[:MOST]:
        yield at_hand.found("embedding", word, digest)
    for unit in _units(facts):
        model = _HASHED.fullmatch(unit.get("model", ""))
        name, digest = model.groups() if model else (unit.get("model", ""), "")
        yield at_hand.found("controlnet", name, digest)
    if net := generation_parameters.net_that_enlarges(facts):
        yield at_hand.found("upscaler", net)
    yield from _of_civitai(facts)


def _pairs(text: str) -> list[tuple[str, str]]:
    """`az: 0123, org/b: 4567`"""
    pairs = (each.rpartition(":") for each in text.split(","))
    return [(name.strip(), value.strip()) for name, sign, value in pairs if sign]


def _units(facts: Mapping[str, str]) -> list[dict[str, str]]:
    """ControlNets, by what sd-webui-controlnet calls their settings, in small letters."""
    told = [facts[name] for name in facts if re.fullmatch(r"ControlNet \d+", name)]
    pairs = ([part.partition(":") for part in each.split(",")] for each in told[:MOST])
    return [{name.strip().lower(): value.strip() for name, sign, value in each if sign} for each in pairs]


def _of_civitai(facts: Mapping[str, str]) -> Iterator[Resource]:
    """What its own generator lists, by names alone."""
    try:
        listed = text_files.parsed(facts.get("Civitai resources", "[]"))
    except ValueError:
        return
    kinds = {"checkpoint": "model", "lora": "lora", "embed": "embedding", "vae": "vae"}
    for each in listed[:MOST] if isinstance(listed, list) else ():
        if isinstance(each, dict) and (kind := kinds.get(str(each.get("type")))) and each.get("modelName"):
            yield at_hand.found(kind, str(each["modelName"]))


def _beside(found: Infotext, resources: list[Resource]) -> Iterator[object]:
    """What --from does not know; words in capitals are for the reader to fill in."""
    facts = found.facts
    if "Sampler" in facts and parted(facts["Sampler"])[0] not in SAMPLERS:
        yield from ("--sampler", "SAMPLER")
    if facts.get("Schedule type", "Automatic") not in generation_parameters.SCHEDULES:
        yield from ("--schedule", "SCHEDULE")
    if facts.get("Emphasis", "None") not in generation_parameters.EMPHASES:
        yield from ("--emphasis", "EMPHASIS")
    of = {kind: [each for each in resources if each["what"] == kind] for kind in ORDER}
    for each in of["model"][:1]:
        if each["name"] != "pocket" and "Model source" not in facts:
            yield from ("--model", _place(each, "MODEL"))
    for each in of["vae"][:1]:
        yield from ("--vae", _place(each, "VAE"))
    if any(not each["at_hand"] and not hub_names.parse(each["name"]) for each in of["lora"]):
        yield from ("--lora_dir", "FOLDER")
    for each in of["embedding"]:
        yield from ("--embedding", _place(each, "EMBEDDING"))
    for unit, each in zip(_units(facts), of["controlnet"], strict=True):
        yield from _controlled(unit, _place(each, "CONTROLNET"))
    for each in of["upscaler"]:
        yield from ("--hires_upscaler", _place(each, "UPSCALER"))
    if strength := generation_parameters.strength_of_picture(facts):
        yield from ("--init_image", "IMAGE", "--strength", strength)
        if "Mask blur" in facts:
            yield from ("--mask", "MASK", "--mask_blur", facts["Mask blur"])
        if content := generation_parameters.CONTENTS.get(facts.get("Masked content", "")):
            yield from ("--mask_content", content)
        if "Inpaint area" in facts:
            yield from ("--only_masked", "--only_masked_padding", facts.get("Masked area padding", "32"))


def _place(resource: Resource, unknown: str) -> str:
    return resource.get("file", resource["name"]) if resource["at_hand"] else unknown


def _controlled(unit: Mapping[str, str], place: str) -> Iterator[str]:
    weight, start, end = (unit.get(name, "") for name in ("weight", "guidance start", "guidance end"))
    yield from ("--controlnet", f"{place}={weight or 1}@{start or 0}-{end or 1}", "--control_image", "IMAGE")
    module = unit.get("module", unit.get("preprocessor", "none"))
    yield from ("--control_preprocessor", module if module == "canny" else "none")
    if module == "canny":
        for name, option in (("threshold a", "--canny_low"), ("threshold b", "--canny_high")):
            yield from (option, unit[name]) if unit.get(name, "-1") != "-1" else ()
    yield from ("--control_mode", MODES.get(unit.get("control mode", ""), "balanced"))
