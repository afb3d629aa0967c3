"""What clients of AUTOMATIC1111's API send, as a draft of what is drawn. What cannot be honoured is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image, ImageOps

from tenshot.core.errors import Fault, refuse_if
from tenshot.core.size import Size
from tenshot.diffusion import samplers
from tenshot.generation_parameters import CONTENTS, EMPHASES
from tenshot.io.images import open_mask, open_picture
from tenshot.serve.a1111 import control, hires, settings
from tenshot.serve.a1111.bodies import Image2Image, Text2Image
from tenshot.serve.library import Served
from tenshot.serve.requests import Desk, Draft, seeds

NOT_HERE = "leave it out"
#: Fields that mean something in WebUI, and their values that ask for nothing which is not done here.
IDLE: dict[str, tuple[object, ...]] = {
    "styles": ([], None),
    "restore_faces": (False, None),
    "tiling": (False, None),
    "refiner_checkpoint": ("", None, "None"),
    "script_name": ("", None, "None"),
    "eta": (None, 0, 1),
    "s_churn": (None, 0),
    "s_noise": (None, 1),
    "s_min_uncond": (None, 0),
    "seed_resize_from_h": (None, 0, -1),
    "seed_resize_from_w": (None, 0, -1),
    "firstpass_image": (None, ""),
    "initial_noise_multiplier": (None, 1),
    "save_images": (None, False),
    "infotext": (None, ""),
    "disable_extra_networks": (None, False),
    "mask_round": (None, True),
    "controlnet_units": ([], None),
}


def known_sampler(asked: Text2Image, served: Served) -> str | None:
    """As it is called here, whatever the case. Raises KeyError where there is none."""
    if asked.sampler is None:
        return None
    named = {name.lower(): name for name in served.samplers}
    named |= {
        f"{name.lower()} {ending}": f"{name} {ending}"
        for name in served.samplers
        for ending in ("karras", "exponential")
    }
    named |= {alias: name for name in served.samplers for alias in settings.aliases(name)}
    return named[asked.sampler.lower()]


def draft(asked: Text2Image, chosen: Mapping[str, object], desk: Desk) -> Draft:
    """chosen: the caller's settings. Raises Refusal; KeyError where the sampler is none of the model's."""
    over = {**chosen, **settings.checked(asked.override_settings or {}, desk.library)}
    served = desk.library.model(str(over.get(settings.MODEL) or ""))
    sampler = known_sampler(asked, served)
    schedule = _schedule(asked, sampler)
    refuse_if([*_undone(asked), *_without(schedule, asked)])
    options: dict[str, object] = {
        "prompt": [asked.prompt],
        "negative_prompt": asked.negative_prompt or None,
        "sampler": sampler,
        "schedule": schedule,
        "steps": asked.steps,
        "guidance_scale": asked.cfg_scale,
        "width": asked.width,
        "height": asked.height,
        "clip_skip": over.get(settings.CLIP_SKIP),
        "emphasis": EMPHASES[str(over.get(settings.EMPHASIS, "Original"))],
        **hires.options(asked, served),
        **settings.encoding(over),
    }
    numbers, more = seeds(asked.seed, asked.count), []
    if asked.subseed_strength:
        numbers, more = numbers[:1] * asked.count, seeds(asked.subseed, asked.count)
        options["variation_strength"] = asked.subseed_strength
    units = control.parsed(_script(asked, control.SCRIPT) or [])
    if not units and not isinstance(asked, Image2Image):
        return Draft(served, options, numbers, more)
    folder, maps = desk.folder(), list[int]()
    try:
        if isinstance(asked, Image2Image):
            options |= _begun(asked, desk, folder)
        if units:
            begun = options.get("init_image")
            told, maps = control.controlled(units, desk, folder, begun if isinstance(begun, Path) else None)
            options |= told
    except BaseException:
        desk.done(folder)
        raise
    return Draft(served, options, numbers, more, folder, maps)


def _script(asked: Text2Image, name: str) -> object:
    """What is asked of an always-on script, whatever the case of its name."""
    found = [each for key, each in (asked.alwayson_scripts or {}).items() if key.lower() == name]
    return (found[0].get("args") if isinstance(found[0], Mapping) else found[0]) if found else None


def _begun(asked: Image2Image, desk: Desk, folder: Path) -> dict[str, object]:
    """The picture to begin with, and its mask, as WebUI would fit them."""
    if not asked.init_images:
        raise Missing
    refuse_if(_pictures_faults(asked))
    image = open_picture(desk.decoded(asked.init_images[0], "init_images", folder))
    own = Size.from_pillow(image.size)
    size = Size(asked.height or own.height, asked.width or own.width)
    stretched = asked.resize_mode == 0 and own.width * size.height != own.height * size.width
    options: dict[str, object] = {"strength": asked.denoising_strength}
    only_masked = bool(asked.inpaint_full_res) and asked.mask is not None
    if asked.mask is not None:
        mask = open_mask(desk.decoded(asked.mask, "mask", folder))
        mask = ImageOps.invert(mask) if asked.inpainting_mask_invert else mask
        mask = mask if mask.size == image.size else mask.resize(image.size, Image.Resampling.LANCZOS)
        if stretched and not only_masked:
            mask = mask.resize(size.pillow, Image.Resampling.LANCZOS)
        mask.save(folder / "mask", "PNG")
        blur = [each for each in (asked.mask_blur, asked.mask_blur_x, asked.mask_blur_y) if each is not None]
        options |= {"mask": folder / "mask", "mask_blur": blur[0] if blur else None, "only_masked": only_masked}
        fill = 1 if asked.inpainting_fill is None else asked.inpainting_fill
        options["mask_content"] = [*CONTENTS.values()][fill]
        if only_masked:
            options["only_masked_padding"] = asked.inpaint_full_res_padding
    if stretched and not only_masked:
        image = image.resize(size.pillow, Image.Resampling.LANCZOS)
    image.save(folder / "init_images", "PNG")
    return {**options, "init_image": folder / "init_images"}


class Missing(Exception):
    """There is no picture to begin with."""


def _pictures_faults(asked: Image2Image) -> Iterator[Fault]:
    if len(asked.init_images) > 1:
        yield Fault("init_images", f"{len(asked.init_images)} pictures", "one", "ask once for each")
    if asked.resize_mode in (2, 3):
        yield Fault("resize_mode", str(asked.resize_mode), "0 (stretched) or 1 (cropped)", "choose one of them")


def _schedule(asked: Text2Image, sampler: str | None) -> str | None:
    """None: the sampler's own; what is not known comes back as it was written."""
    named = (asked.scheduler or "").lower()
    if named in ("", "automatic", "none", "normal"):  # the last is ComfyUI's name of the usual one
        return None
    titles = {title.lower(): name for name, title in samplers.TITLES.items()}
    found = titles.get(named, named.replace(" ", "_"))
    own = sampler and samplers.parted(sampler)[1] != samplers.AUTOMATIC
    return None if own and found not in samplers.TITLES else found


def _without(schedule: str | None, asked: Text2Image) -> Iterator[Fault]:
    if schedule is not None and schedule not in samplers.TITLES:
        fits = ", ".join(["automatic", *samplers.TITLES])
        yield Fault("scheduler", f"{asked.scheduler!r} is not known here", fits, "name one of these")


def _undone(asked: Text2Image) -> Iterator[Fault]:
    """What is asked for, and not done here."""
    told = asked.model_extra or {}
    if asked.begun and asked.enable_hr:
        yield Fault("enable_hr", "a second pass of a picture to begin with", "txt2img", "ask with width and height")
    for name, nothing in IDLE.items():
        if told.get(name) not in nothing:
            found = f"{str(told[name])[:100]}: this server does not do that"
            yield Fault(name, found, " or ".join(_spelled(each) for each in nothing), NOT_HERE)
    for name, script in (asked.alwayson_scripts or {}).items():
        if name.lower() == control.SCRIPT:
            continue
        args = script.get("args") if isinstance(script, Mapping) else script
        if args and args != [False]:  # what clients send for a script that is not asked for
            yield Fault("alwayson_scripts", f"{name[:100]}: no such script here", control.SCRIPT, NOT_HERE)


def _spelled(value: object) -> str:
    return json.dumps(value)
