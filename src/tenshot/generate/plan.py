"""What `tenshot generate` is asked, as requests of the pipeline: read and checked whole, before anything is drawn."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image

from tenshot import __version__
from tenshot.core import device, hub_names
from tenshot.core.errors import Refusal, all_or_refuse, refuse_if
from tenshot.core.events import Events
from tenshot.core.size import Size
from tenshot.diffusion import samplers
from tenshot.families import validate
from tenshot.families.components import Net
from tenshot.generate import canvas, controlnets, model_faults, presets, second_pass
from tenshot.generate.canvas import Canvas, Pictures
from tenshot.generate.controlnets import ControlNet
from tenshot.generate.options import GenerateOptions
from tenshot.generation_parameters import CONTENTS
from tenshot.io import infotext
from tenshot.model import hub, model, resolve
from tenshot.model.control import Unit
from tenshot.model.model import Model
from tenshot.model.prompts import Reading
from tenshot.model.upscaler import Upscaler
from tenshot.pipeline import Request, SamplingSettings, SecondPass
from tenshot.prompt.syntax import LoraTag, without_loras
from tenshot.runtime import compiled_model
from tenshot.runtime.compiled_model import CompiledModel

EMPHASES = {"no_norm": "No norm", "none": "None"}  #: as infotext names those that are not the usual one

if TYPE_CHECKING:
    from tenshot.adapters.requested import RequestedAdapters


@dataclass(frozen=True)
class Planned:
    """One picture of a plan. prompt: as it was given. tags: the LoRAs that it names."""

    prompt: str
    tags: Sequence[LoraTag]
    request: Request


@dataclass(frozen=True)
class Plan:
    """The pictures that options ask of a model that is open. start: what they are drawn on."""

    found: Read
    opened: CompiledModel
    settings: SamplingSettings
    start: Canvas | None
    pictures: Sequence[Planned]

    def set_loras(self, tags: Sequence[LoraTag]) -> None:
        """Those for all prompts and these. Raises Refusal where that gives numbers that are not finite."""
        self.opened.set_loras(self.found.given.strengths(tags) if self.found.given else {})

    def check_strengths(self, beside: bool = False) -> None:
        """Raises Refusal with the faults of all LoRAs that pictures ask for, before one is drawn.

        beside: are there other plans, of which pictures may be drawn first?
        """
        sets = dict.fromkeys(tuple(each.tags) for each in self.pictures)
        if beside or len(sets) > 1:
            all_or_refuse(*(partial(self.set_loras, tags) for tags in sets))

    def finished(self, planned: Planned, drawn: Image.Image) -> tuple[Image.Image, str]:
        """The picture with what must not change as it was, and its infotext."""
        control = {f"ControlNet {number}": each.told for number, each in enumerate(self.found.controls)}
        options, given = self.found.options, self.found.given
        text = _text(self.opened, planned.request, self.settings, planned.prompt, options, given, planned.tags, control)
        return self.start.finished(drawn) if self.start else drawn, text


@dataclass(frozen=True)
class Read:
    """What options name, read and checked; no net is loaded. place: the model's."""

    options: GenerateOptions
    where: torch.device
    place: Path
    given: RequestedAdapters | None
    pictures: Pictures | None
    controls: Sequence[ControlNet]
    upscaler: Upscaler | None

    def load(self, events: Events) -> CompiledModel:
        """The model, with the learned words that it is to know."""
        opened = compiled_model.load(
            self.place,
            device=self.where,
            precision=self.options.precision,
            fallback=self.options.fallback,
            events=events,
        )
        for word in self.given.words if self.given else ():
            opened = opened.with_word(word.word, word.rows)
        return opened

    def planned(self, opened: CompiledModel, events: Events, nets: dict[str, Net] | None = None) -> Plan:
        """opened: what `load` gave. nets: ControlNets that are in memory beside it, and stay there."""
        options = self.options
        _say_what_has_no_effect(options, self.given, opened, events)
        size = model_faults.size(options, opened.sides, self.pictures)
        start = model_faults.start(options, size, self.pictures)
        units = controlnets.units(self.controls, opened, {} if nets is None else nets, events)
        second = second_pass.planned(options, size, opened, self.controls, units, self.upscaler, events)
        settings = _settings(options, size, start is not None, units, second)
        for idle in controlnets.idle(self.controls, settings):
            events.say(idle)
        maps = tuple(each.map(size, start) for each in self.controls)
        larger = tuple(each.map(second.size, None) for each in self.controls) if second else ()
        image, mask = (start.image, start.mask) if start else (None, None)
        under = options.mask_content if options.mask_content in ("noise", "nothing") else "picture"
        variation = (options.variation_seed, options.variation_strength) if options.variation_strength else None
        negative, _ = without_loras(options.negative_prompt)
        first = options.seed if options.seed >= 0 else secrets.randbelow(2**32)
        pictures = []
        for prompt in options.prompt:
            bare, tags = without_loras(prompt)
            for seed in range(first, first + options.num_images):
                request = Request(bare, seed, negative, image, mask, under, variation, maps, larger)
                pictures.append(Planned(prompt, tags, request))
        return Plan(self, opened, settings, start, pictures)


def read(asked: GenerateOptions, events: Events) -> Read:
    """Raises Refusal with the faults of the options, and of all that they name; what is of the hub is fetched."""
    options = hub.fetched(asked, events)  # which has checked them where it fetched something
    checks = () if options is not asked else (options.faults, options.obstacles)
    where, place, given, pictures, controls, _, upscaler, *_ = all_or_refuse(
        lambda: device.pick(options.device),
        lambda: compiled_model.find(options.model, events, options.vae),
        lambda: _given(options, events),
        lambda: canvas.read(options.init_image, options.mask) if options.init_image else None,
        lambda: controlnets.read(options),
        lambda: refuse_if(model_faults.faults(options)),
        lambda: second_pass.read_upscaler(options),
        *(lambda check=check: refuse_if(check()) for check in checks),
    )
    options = presets.applied(options, place, events)
    return Read(options, where, place, given, pictures, controls, upscaler)


def _settings(
    options: GenerateOptions, size: Size, begun: bool, units: Sequence[Unit], second: SecondPass | None
) -> SamplingSettings:
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
        second,
        interval=(options.guidance_start, options.guidance_end),
    )


def _given(options: GenerateOptions, events: Events) -> RequestedAdapters | None:
    """The LoRAs and learned words that `options` name; None without, as peft is slow to import."""
    if not (options.lora or options.embedding or options.tags):
        return None
    from tenshot.adapters import requested

    config: Mapping[str, object] | None = None
    with suppress(Refusal):  # told elsewhere
        config = validate.denoiser_config(compiled_model.folder(compiled_model.find(options.model, vae=options.vae)))
    return requested.read(options.lora, options.embedding, config, options.tags, options.lora_dir, events)


def _say_what_has_no_effect(
    options: GenerateOptions, given: RequestedAdapters | None, opened: Model, events: Events
) -> None:
    if not all(each.strip() for each in options.prompt):
        events.say("a prompt is empty: the model draws what it likes")
    prompts = (*options.prompt, options.negative_prompt)
    unsaid = [each for each in given.words if not any(model.mentions(p, each.word) for p in prompts)] if given else []
    for word, file in dict.fromkeys((each.word, each.file) for each in unsaid):
        events.say(f"no prompt says {word!r}: {file} has no effect")
    for tag in without_loras(options.negative_prompt)[1]:
        events.say(f"<lora:{tag.name}> in the negative prompt has no effect, as in WebUI")
    if options.negative_prompt and options.guidance_scale == 1 and not any("AND" in each for each in options.prompt):
        events.say("the negative prompt has no effect: --guidance_scale is 1")
    if options.guidance_scale == 1 and (options.guidance_start, options.guidance_end) != (0, 1):
        events.say("--guidance_start and --guidance_end have no effect: --guidance_scale is 1")
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
    told |= _vae(options, opened) | (_painted(options) if request.mask else {}) | second_pass.facts(options)
    told |= control
    if not given:
        return infotext.written(prompt, request.negative, {**told, **version})
    more = given.facts([request.prompt, request.negative], tags)
    return infotext.written(given.prompt(prompt), request.negative, {**told, **more, **version})


def _vae(options: GenerateOptions, opened: Model) -> dict[str, object]:
    """What infotext says of a VAE in place of the model's own."""
    if not options.vae:
        return {}
    digest = resolve.vae_hash(opened.place)
    return {"VAE hash": digest and digest[:10], "VAE": hub_names.called(options.vae)}


def _painted(options: GenerateOptions) -> dict[str, object]:
    """What infotext says of a mask."""
    around = {"Inpaint area": "Only masked", "Masked area padding": options.only_masked_padding}
    contents = {name: title for title, name in CONTENTS.items() if name != "original"}
    told = {"Mask blur": f"{options.mask_blur:g}", "Masked content": contents.get(options.mask_content)}
    return {**told, **(around if options.only_masked else {})}


def facts(opened: Model, request: Request, settings: SamplingSettings) -> dict[str, object]:
    """What infotext says beside the prompt, as user interfaces name it."""
    height, width = settings.size_for(opened)
    digest, schedule = resolve.model_hash(opened.place), settings.schedule_for(opened)
    return {
        "Steps": settings.steps,
        "Sampler": settings.sampler_for(opened),
        "Schedule type": schedule and samplers.TITLES[schedule],
        "CFG scale": settings.guidance,
        "Guidance start": settings.interval[0] or None,
        "Guidance end": settings.interval[1] if settings.interval[1] < 1 else None,
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
