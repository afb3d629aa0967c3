"""The verb that draws: a prompt and a seed in, PNGs with infotext out."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count, groupby
from os.path import exists
from pathlib import Path
from typing import TYPE_CHECKING

from tenshot import __version__, pipeline
from tenshot.core import device, hub_names
from tenshot.core.errors import Fault, Refusal, all_or_refuse, refuse_if
from tenshot.core.events import Events
from tenshot.core.results import Generated, Picture
from tenshot.core.size import Size
from tenshot.diffusion import samplers
from tenshot.families import validate
from tenshot.generate import canvas, controlnets
from tenshot.generate.options import GenerateOptions
from tenshot.io import infotext, text_files
from tenshot.io.png import read_infotext, write_png
from tenshot.model import hub, model, resolve
from tenshot.model.control import Unit
from tenshot.model.model import Model
from tenshot.model.prompts import Reading
from tenshot.pipeline import Request, SamplingSettings
from tenshot.prompt.syntax import LoraTag, without_loras
from tenshot.runtime import compiled_model

CLIP_LAYERS = 12  # where a text encoder's configuration does not say
EMPHASES = {"no_norm": "No norm", "none": "None"}  #: as infotext names those that are not the usual one

if TYPE_CHECKING:
    from tenshot.adapters.requested import RequestedAdapters


def generate(options: GenerateOptions, events: Events) -> Generated:
    """Draw and write; for each picture its file, prompt and seed come back.

    Raises Refusal before anything is written; Cancelled, where the pictures drawn so far are kept.
    """
    options = hub.fetched(options, events)
    where, place, given, pictures, controls, *_ = all_or_refuse(
        lambda: device.pick(options.device),
        lambda: _found(options, events),
        lambda: _given(options),
        lambda: canvas.read(options.init_image, options.mask) if options.init_image else None,
        lambda: controlnets.read(options),
        lambda: refuse_if(_faults(options)),
    )
    opened = compiled_model.load(
        place, device=where, precision=options.precision, fallback=options.fallback, events=events
    )
    opened = _with_words(opened, given) if given else opened
    seed = options.seed if options.seed >= 0 else secrets.randbelow(2**32)
    _say_what_has_no_effect(options, given, opened, events)
    usual = pictures.size(opened.resolution, opened.vae_scale_factor) if pictures else Size.square(opened.resolution)
    size = Size(options.height or usual.height, options.width or usual.width)
    around = (options.mask_blur, options.only_masked, options.only_masked_padding)
    start = pictures.canvas(size, *around) if pictures else None
    settings = _settings(options, size, start is not None, controlnets.units(controls, opened, events))
    maps = tuple(each.map(size, start) for each in controls)
    image, mask = (start.image, start.mask) if start else (None, None)
    variation = (options.variation_seed, options.variation_strength) if options.variation_strength else None
    negative, _ = without_loras(options.negative_prompt)
    written: list[Picture] = []
    for tags, prompts in groupby(options.prompt, lambda prompt: without_loras(prompt)[1]):
        if given:
            opened.set_loras(given.strengths(tags))
        asked = [(prompt, seed + number) for prompt in prompts for number in range(options.num_images)]
        requests = [
            Request(without_loras(prompt)[0], own, negative, image, mask, variation, maps) for prompt, own in asked
        ]
        drawn = pipeline.stream(opened, requests, settings, events)
        for (prompt, own), request, picture in zip(asked, requests, drawn, strict=True):
            path = options.out if options.names_a_png else _free(options.out, request)
            finished = start.finished(picture) if start else picture
            more = {f"ControlNet {number}": each.told for number, each in enumerate(controls)}
            write_png(path, finished, _text(opened, request, settings, prompt, options, given, tags, more))
            written.append({"file": str(path), "prompt": prompt, "seed": own})
    return {"pictures": written}


def _settings(options: GenerateOptions, size: Size, begun: bool, units: Sequence[Unit]) -> SamplingSettings:
    """begun: is there a picture to begin with?"""
    sampler, schedule = options.sampling
    return SamplingSettings(
        sampler,
        options.steps,
        options.guidance_scale,
        size,
        options.batch_size,
        schedule,
        Reading(options.emphasis, options.clip_skip),
        options.strength if begun else 1.0,
        units,
    )


def _found(options: GenerateOptions, events: Events) -> Path:
    place = compiled_model.find(options.model, events, options.vae)
    family = compiled_model.examine(place)
    samplers.check(*options.sampling, family.process, family.aligned)
    if family.clip_skip and options.clip_skip > 1:
        config = text_files.read_object(compiled_model.folder(place) / "text_encoder" / "config.json")
        if options.clip_skip > (layers := int(config.get("num_hidden_layers", CLIP_LAYERS))):
            found = f"{options.clip_skip}, and the model's text encoder has {layers} layers"
            raise Refusal(Fault("--clip_skip", found, f"1 to {layers}", "2 is what people use, 1 the usual"))
    return place


def _given(options: GenerateOptions) -> RequestedAdapters | None:
    """The LoRAs and learned words that `options` name; None without, as peft is slow to import."""
    if not (options.lora or options.embedding or options.tags):
        return None
    from tenshot.adapters import requested

    config: Mapping[str, object] | None = None
    with suppress(Refusal):  # told elsewhere
        config = validate.denoiser_config(compiled_model.folder(compiled_model.find(options.model, vae=options.vae)))
    return requested.read(options.lora, options.embedding, config, options.tags, options.lora_dir)


def _with_words(opened: compiled_model.CompiledModel, given: RequestedAdapters) -> compiled_model.CompiledModel:
    for word in given.words:
        opened = opened.with_word(word.word, word.rows)
    return opened


def _say_what_has_no_effect(
    options: GenerateOptions, given: RequestedAdapters | None, opened: Model, events: Events
) -> None:
    prompts = (*options.prompt, options.negative_prompt)
    unsaid = [each for each in given.words if not any(model.mentions(p, each.word) for p in prompts)] if given else []
    for word, file in dict.fromkeys((each.word, each.file) for each in unsaid):
        events.say(f"no prompt says {word!r}: {file} has no effect")
    for tag in without_loras(options.negative_prompt)[1]:
        events.say(f"<lora:{tag.name}> in the negative prompt has no effect, as in WebUI")
    if options.negative_prompt and options.guidance_scale == 1 and not any("AND" in each for each in options.prompt):
        events.say("the negative prompt has no effect: --guidance_scale is 1")
    if options.clip_skip > 1 and not opened.family.clip_skip:
        events.say(f"--clip_skip has no effect on {opened.family.title}, as in WebUI")


def _text(
    opened: Model,
    request: Request,
    settings: SamplingSettings,
    prompt: str,
    options: GenerateOptions,
    given: RequestedAdapters | None,
    tags: Sequence[LoraTag],
    control: Mapping[str, str],
) -> str:
    """The picture's infotext. prompt: with the LoRAs that it names. control: what is said of ControlNets."""
    told = facts(opened, request, settings)
    version = {"Version": told.pop("Version")}
    told |= {**(_painted(options) if request.mask else {}), **control}
    if not given:
        return infotext.written(prompt, request.negative, {**told, **version})
    more = given.facts([request.prompt, request.negative], tags)
    return infotext.written(given.prompt(prompt), request.negative, {**told, **more, **version})


def _painted(options: GenerateOptions) -> dict[str, object]:
    """What infotext says of a mask."""
    around = {"Inpaint area": "Only masked", "Masked area padding": options.only_masked_padding}
    return {"Mask blur": f"{options.mask_blur:g}", **(around if options.only_masked else {})}


def facts(opened: Model, request: Request, settings: SamplingSettings) -> dict[str, object]:
    """What infotext says beside the prompt, as user interfaces name it."""
    height, width = settings.size_for(opened)
    digest, schedule = resolve.model_hash(opened.place), settings.schedule_for(opened)
    return {
        "Steps": settings.steps,
        "Sampler": settings.sampler_for(opened),
        "Schedule type": schedule and samplers.TITLES[schedule],
        "CFG scale": settings.guidance,
        "Seed": request.seed,
        "Size": f"{width}x{height}",
        "Model hash": digest and digest[:10],
        "Model": hub_names.called(opened.place),
        "Model source": resolve.source(opened.place),
        "RNG": "CPU",
        "Denoising strength": settings.strength if request.image else None,
        "Variation seed": request.variation and request.variation[0],
        "Variation seed strength": request.variation and request.variation[1],
        "Clip skip": settings.reading.clip_skip if settings.reading.clip_skip > 1 else None,
        "Emphasis": EMPHASES.get(settings.reading.emphasis),
        "Version": f"tenshot {__version__}",
    }


def _faults(options: GenerateOptions) -> Iterator[Fault]:
    yield from options.faults()
    yield from options.obstacles()
    if options.names_a_png and exists(options.out) and not _drawn_here(options.out):
        fits = "a new name, or a picture that Tenshot drew, which is drawn anew"
        yield Fault("--out", f"{options.out} is not one of Tenshot's pictures", fits, "choose another name")


def _drawn_here(file: Path) -> bool:
    with suppress(Refusal):
        return "Version: tenshot" in (read_infotext(file) or "")
    return False


def _free(folder: Path, request: Request) -> Path:
    """A file name in `folder` that is not taken, from the seed and the prompt."""
    words = re.sub(r"\W+", "-", request.prompt).strip("-")[:40]
    names = ("-".join(filter(None, (f"{number:04d}", str(request.seed), words))) for number in count())
    return next(path for name in names if not (path := folder / f"{name}.png").exists())
