"""The verb that draws: a prompt and a seed in, PNGs with infotext out."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import count
from os.path import exists
from pathlib import Path
from typing import TYPE_CHECKING

from tenshot import __version__, pipeline
from tenshot.core import device
from tenshot.core.errors import Fault, Refusal, all_or_refuse, refuse_if
from tenshot.core.events import Events
from tenshot.core.results import Generated, Picture
from tenshot.core.size import Size
from tenshot.diffusion import samplers
from tenshot.families import validate
from tenshot.families.base import overlong
from tenshot.generate.options import GenerateOptions
from tenshot.io.png import infotext, read_infotext, write_png
from tenshot.model import model, resolve
from tenshot.model.model import Model
from tenshot.pipeline import Request, SamplingSettings
from tenshot.runtime import compiled_model

if TYPE_CHECKING:
    from tenshot.adapters.requested import RequestedAdapters


def generate(options: GenerateOptions, events: Events) -> Generated:
    """Draw and write; for each picture its file, prompt and seed come back.

    Raises Refusal before anything is written; Cancelled, where the pictures drawn so far are kept.
    """
    where, place, given, *_ = all_or_refuse(
        lambda: device.pick(options.device),
        lambda: _found(options, events),
        lambda: _given(options),
        lambda: refuse_if(_faults(options)),
    )
    opened = compiled_model.load(
        place, device=where, precision=options.precision, fallback=options.fallback, events=events
    )
    opened = _attached(opened, given) if given else opened
    seed = options.seed if options.seed >= 0 else secrets.randbelow(2**32)
    requests = [
        Request(prompt, seed + number, options.negative_prompt)
        for prompt in options.prompt
        for number in range(options.num_images)
    ]
    _say_what_is_cut(opened, options, events)
    prompts = (*options.prompt, options.negative_prompt)
    unsaid = [each for each in given.words if not any(model.mentions(p, each.word) for p in prompts)] if given else []
    for word, file in dict.fromkeys((each.word, each.file) for each in unsaid):
        events.say(f"no prompt says {word!r}: {file} has no effect")
    height, width = options.height or opened.resolution, options.width or opened.resolution
    sampler, schedule = options.sampling
    size = Size(height, width)
    settings = SamplingSettings(sampler, options.steps, options.guidance_scale, size, options.batch_size, schedule)
    written: list[Picture] = []
    for request, image in zip(requests, pipeline.stream(opened, requests, settings, events), strict=True):
        path = options.out if options.names_a_png else _free(options.out, request)
        write_png(path, image, _text(opened, request, settings, given))
        written.append({"file": str(path), "prompt": request.prompt, "seed": request.seed})
    return {"pictures": written}


def _found(options: GenerateOptions, events: Events) -> Path:
    place = compiled_model.find(options.model, events, options.vae)
    family = compiled_model.examine(place)
    samplers.check(*options.sampling, family.process, family.aligned)
    return place


def _given(options: GenerateOptions) -> RequestedAdapters | None:
    """The LoRAs and learned words that `options` name; None without, as peft is slow to import."""
    if not options.lora and not options.embedding:
        return None
    from tenshot.adapters import requested

    config: Mapping[str, object] | None = None
    with suppress(Refusal):  # told elsewhere
        config = validate.denoiser_config(compiled_model.folder(compiled_model.find(options.model, vae=options.vae)))
    return requested.read(options.lora, options.embedding, config)


def _attached(opened: compiled_model.CompiledModel, given: RequestedAdapters) -> compiled_model.CompiledModel:
    for word in given.words:
        opened = opened.with_word(word.word, word.rows)
    strengths: dict[str | Path, float] = {}
    for each in given.loras:
        strengths[each.place] = strengths.get(each.place, 0.0) + each.strength
    opened.set_loras(strengths)
    return opened


def _text(opened: Model, request: Request, settings: SamplingSettings, given: RequestedAdapters | None) -> str:
    """The picture's infotext."""
    told = facts(opened, request, settings)
    if not given:
        return infotext(request.prompt, request.negative, told)
    version = {"Version": told.pop("Version")}
    more = given.facts([request.prompt, request.negative])
    return infotext(given.prompt(request.prompt), request.negative, {**told, **more, **version})


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
        "Model": opened.place.resolve().name,
        "RNG": "CPU",
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


def _say_what_is_cut(opened: Model, options: GenerateOptions, events: Events) -> None:
    for prompt in dict.fromkeys([*options.prompt, options.negative_prompt]):
        if lost := overlong(opened.tokenizer(), prompt):
            most = opened.tokenizer().model_max_length
            events.say(f"the text encoder takes {most} tokens; it does not see the end of the prompt: {lost!r}")


def _free(folder: Path, request: Request) -> Path:
    """A file name in `folder` that is not taken, from the seed and the prompt."""
    words = re.sub(r"\W+", "-", request.prompt).strip("-")[:40]
    names = ("-".join(filter(None, (f"{number:04d}", str(request.seed), words))) for number in count())
    return next(path for name in names if not (path := folder / f"{name}.png").exists())
