"""The verb that draws: a prompt and a seed in, PNGs with infotext out."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tenshot import __version__, device, model, sampling
from tenshot.checkpoints import opening
from tenshot.diffusion.samplers import SAMPLERS
from tenshot.errors import Fault, Refusal, all_or_refuse, refuse_if
from tenshot.events import Events
from tenshot.families.family import overlong
from tenshot.fast import model as fast
from tenshot.files import targets, tensors
from tenshot.files.images import infotext, read_infotext, write_png
from tenshot.model import Model
from tenshot.options import Options
from tenshot.sampling import Request, Settings

if TYPE_CHECKING:
    from tenshot.adapters.given import Given


class GenerateOptions(Options):
    """Make pictures from a prompt. The same seed gives the same picture, alone or in a batch."""

    model: str = Field("pocket", description="pocket, a model folder, a checkpoint file, or what compile made")
    prompt: list[str] = Field(min_length=1, description="what to draw; give it again for more prompts")
    lora: list[str] = Field([], description="a LoRA (LoHa, LoKr) file or its folder; FILE=0.8: at that strength")
    embedding: list[Path] = Field([], description="a file with a learned word; the prompt says the word")
    negative_prompt: str = Field("", description="what to keep away from")
    seed: int = Field(-1, ge=-1, lt=2**63, description="of the first picture, the next ones count on; -1: any")
    num_images: int = Field(1, ge=1, description="pictures for each prompt")
    steps: int = Field(20, ge=1, le=1000, description="denoising steps")
    sampler: str = Field("Euler a", description="one of: " + ", ".join(SAMPLERS))
    guidance_scale: float = Field(7.5, ge=1, description="how closely the prompt is followed; 1: no guidance")
    width: int | None = Field(None, ge=8, multiple_of=8, description="pixels; default: the model's own")
    height: int | None = Field(None, ge=8, multiple_of=8, description="pixels; default: the model's own")
    batch_size: int = Field(4, ge=1, description="pictures drawn at once")
    precision: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="number format of the nets")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    fallback: bool = Field(False, description="a model compiled for another machine: let torch run it")
    out: Path = Field(Path("out/pictures"), description="a folder, or a .png file for a single picture")


def generate(options: GenerateOptions, events: Events) -> dict[str, Any]:
    """Draw and write; for each picture its file, prompt and seed come back.

    Raises Refusal before anything is written; Cancelled, where the pictures drawn so far are kept.
    """
    where, place, given, *_ = all_or_refuse(
        lambda: device.pick(options.device),
        lambda: _found(options.model, events),
        lambda: _given(options),
        lambda: refuse_if(_faults(options)),
    )
    opened = fast.load(place, device=where, precision=options.precision, fallback=options.fallback)
    opened = _attached(opened, given) if given else opened
    seed = options.seed if options.seed >= 0 else secrets.randbelow(2**32)
    requests = [
        Request(prompt, seed + number, options.negative_prompt)
        for prompt in options.prompt
        for number in range(options.num_images)
    ]
    _say_what_is_cut(opened, options, events)
    for each in given.words if given else ():
        if not any(model.says(prompt, each.word) for prompt in (*options.prompt, options.negative_prompt)):
            events.say(f"no prompt says {each.word!r}: {each.file} has no effect")
    height, width = options.height or opened.resolution, options.width or opened.resolution
    settings = Settings(options.sampler, options.steps, options.guidance_scale, (height, width), options.batch_size)
    written = []
    for request, image in zip(requests, sampling.stream(opened, requests, settings, events), strict=True):
        path = options.out if _names_a_png(options.out) else _free(options.out, request)
        write_png(path, image, _text(opened, request, settings, given))
        written.append({"file": str(path), "prompt": request.prompt, "seed": request.seed})
    return {"pictures": written}


def _found(name: str, events: Events) -> Path:
    place = fast.find(name, events)
    fast.examine(place)
    return place


def _given(options: GenerateOptions) -> Given | None:
    """The LoRAs and learned words that `options` name; None without, as peft is slow to import."""
    if not options.lora and not options.embedding:
        return None
    from tenshot.adapters import given

    unet: dict[str, Any] | None = None
    with suppress(Refusal):  # told elsewhere
        unet = tensors.read_json(fast.folder(fast.find(options.model)) / "unet" / "config.json")
    return given.read(options.lora, options.embedding, unet)


def _attached(opened: Model, given: Given) -> Model:
    if not isinstance(opened, fast.FastModel):
        return given.attach(opened)
    for each in given.words:
        opened = opened.with_word(each.word, each.rows)
    opened.set_loras({each.file: each.strength for each in given.loras})
    return opened


def _text(opened: Model, request: Request, settings: Settings, given: Given | None) -> str:
    """The picture's infotext."""
    told = facts(opened, request, settings)
    if not given:
        return infotext(request.prompt, request.negative, told)
    version = {"Version": told.pop("Version")}
    more = given.facts([request.prompt, request.negative])
    return infotext(given.prompt(request.prompt), request.negative, {**told, **more, **version})


def facts(opened: Model, request: Request, settings: Settings) -> dict[str, object]:
    """What infotext says beside the prompt, as user interfaces name it."""
    height, width = settings.size_for(opened)
    digest = opening.model_hash(opened.place)
    return {
        "Steps": settings.steps,
        "Sampler": settings.sampler,
        "CFG scale": settings.guidance,
        "Seed": request.seed,
        "Size": f"{width}x{height}",
        "Model hash": digest and digest[:10],
        "Model": opened.place.resolve().name,
        "Version": f"tenshot {__version__}",
    }


def _faults(options: GenerateOptions) -> Iterator[Fault]:
    if options.sampler not in SAMPLERS:
        do = f"correct it, or leave it out for {GenerateOptions.model_fields['sampler'].default}"
        yield Fault("--sampler", f"{options.sampler!r} is not known", ", ".join(SAMPLERS), do)
    pictures = len(options.prompt) * options.num_images
    if _names_a_png(options.out) and pictures > 1:
        yield Fault("--out", f"one file for {pictures} pictures", "a folder", "leave .png out")
    elif hurdle := targets.misnamed(options.out) or targets.obstacle(_folder(options.out)):
        yield Fault("--out", hurdle, "a folder, or a .png file", "choose another name")
    elif _names_a_png(options.out) and options.out.exists() and not _drawn_here(options.out):
        fits = "a new name, or a picture that Tenshot drew, which is drawn anew"
        yield Fault("--out", f"{options.out} is not one of Tenshot's pictures", fits, "choose another name")


def _names_a_png(out: Path) -> bool:
    return out.suffix.lower() == ".png" and not os.path.isdir(out)


def _folder(out: Path) -> Path:
    return out.parent if _names_a_png(out) else out


def _drawn_here(file: Path) -> bool:
    with suppress(Refusal):
        return "Version: tenshot" in (read_infotext(file) or "")
    return False


def _say_what_is_cut(opened: Model, options: GenerateOptions, events: Events) -> None:
    for prompt in dict.fromkeys([*options.prompt, options.negative_prompt]):
        if lost := overlong(opened["tokenizer"], prompt):
            most = opened["tokenizer"].model_max_length
            events.say(f"the text encoder takes {most} tokens; it does not see the end of the prompt: {lost!r}")


def _free(folder: Path, request: Request) -> Path:
    """A file name in `folder` that is not taken, from the seed and the prompt."""
    words = re.sub(r"\W+", "-", request.prompt).strip("-")[:40]
    names = ("-".join(filter(None, (f"{number:04d}", str(request.seed), words))) for number in count())
    return next(path for name in names if not (path := folder / f"{name}.png").exists())
