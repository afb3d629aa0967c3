"""What clients of AUTOMATIC1111's API are answered: some of them check every field's type."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence

from tenshot import __version__
from tenshot.diffusion import samplers
from tenshot.diffusion.upscalers import UPSCALERS, LatentUpscaler
from tenshot.io import infotext
from tenshot.serve.a1111 import settings
from tenshot.serve.a1111.bodies import Text2Image
from tenshot.serve.a1111.control import UNITS
from tenshot.serve.callers import Caller
from tenshot.serve.engine import Engine, Picture, Ticket
from tenshot.serve.library import Library, Served
from tenshot.serve.requests import Draft

#: Of infotext, what is not in fields of its own.
EXTRA: tuple[str, ...] = (
    "Schedule type",
    "Mask blur",
    "Masked content",
    "Inpaint area",
    "Masked area padding",
    "Hires upscale",
)
EXTRA += ("Hires steps", "Hires upscaler", *(f"ControlNet {number}" for number in range(UNITS)))


def info(asked: Text2Image, draft: Draft, pictures: Sequence[Picture]) -> str:
    """The thirty fields, as JSON within JSON. Where nothing was drawn, what would have been."""
    texts = [each.infotext for each in pictures]
    facts = infotext.parsed(texts[0]).facts if texts else {}
    width, _, height = facts.get("Size", f"{asked.width or 0}x{asked.height or 0}").partition("x")
    drawn = [each.row for each in pictures]
    numbers = [row.options.seed for row in drawn] or [draft.seeds[0]]
    more = [row.options.variation_seed for row in drawn] if draft.variations else [*numbers]
    options = draft.options
    count = len(numbers)
    told = {
        "prompt": asked.prompt,
        "all_prompts": [asked.prompt] * count,
        "negative_prompt": asked.negative_prompt,
        "all_negative_prompts": [asked.negative_prompt] * count,
        "seed": numbers[0],
        "all_seeds": numbers,
        "subseed": more[0] if more else 0,
        "all_subseeds": more,
        "subseed_strength": asked.subseed_strength or 0,
        "width": int(width),
        "height": int(height),
        "sampler_name": facts.get("Sampler", asked.sampler or ""),
        "cfg_scale": asked.cfg_scale,
        "steps": asked.steps,
        "batch_size": asked.batch_size or 1,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": draft.served.name,
        "sd_model_hash": (draft.served.sha256 or "")[:10],
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": options.get("strength", options.get("hires_strength")),
        "extra_generation_params": {name: facts[name] for name in EXTRA if name in facts},
        "index_of_first_image": 0,
        "infotexts": texts,
        "styles": [],
        "job_timestamp": time.strftime("%Y%m%d%H%M%S"),
        "clip_skip": options.get("clip_skip") or 1,
        "is_using_inpainting_conditioning": False,
        "version": f"tenshot {__version__}",
    }
    return json.dumps(told)


def progress(caller: Caller, engine: Engine, shown: str | None) -> dict[str, object]:
    """Of the caller's own requests. shown: what the picture at work looks like, base64."""
    working = caller.at_work()
    first = working[0] if working else None
    done = first.progress if first else 0.0
    return {
        "progress": done,
        "eta_relative": eta(first, engine) if first else 0.0,
        "state": state(caller, working),
        "current_image": shown,
        "textinfo": waiting(first, engine) if first else None,
    }


def state(caller: Caller, working: Sequence[Ticket]) -> dict[str, object]:
    first = working[0] if working else None
    return {
        "skipped": False,
        "interrupted": bool(not first and caller.last and caller.last.interrupted),
        "stopping_generation": False,
        "job": "scripts_txt2img" if first else "",
        "job_count": sum(len(each.left) for each in working),
        "job_timestamp": time.strftime("%Y%m%d%H%M%S") if first else "0",
        "job_no": len(first.pictures) if first else 0,
        "sampling_step": first.step if first else 0,
        "sampling_steps": first.steps if first else 0,
    }


def eta(ticket: Ticket, engine: Engine) -> float:
    """Seconds, going by how fast it went until now."""
    done = ticket.progress
    return engine.since(ticket) * (1 - done) / done if done else 0.0


def waiting(ticket: Ticket, engine: Engine) -> str | None:
    if engine.at_work(ticket):
        return None
    before = engine.queue.before(ticket.left)
    return f"waiting: {before} pictures before it"


def of_task(ticket: Ticket | None, engine: Engine, shown: str | None) -> dict[str, object]:
    """/internal/progress. ticket: None where there is none of that name, or no longer."""
    active = bool(ticket and engine.at_work(ticket))
    return {
        "active": active,
        "queued": bool(ticket and not ticket.over and not active),
        "completed": ticket is None or ticket.over,
        "progress": ticket.progress if ticket else None,
        "eta": eta(ticket, engine) if ticket else None,
        "live_preview": f"data:image/png;base64,{shown}" if shown else None,
        "id_live_preview": ticket.step if ticket and shown else -1,
        "textinfo": waiting(ticket, engine) if ticket and not ticket.over else None,
    }


def models(library: Library) -> list[dict[str, object]]:
    return [
        {
            "title": each.title,
            "model_name": each.name,
            "hash": each.sha256[:10] if each.sha256 else None,
            "sha256": each.sha256,
            "filename": each.file,
            "config": None,
        }
        for each in library.models
    ]


def loras(library: Library) -> list[dict[str, object]]:
    return [{"name": name, "alias": name, "path": file.name, "metadata": {}} for name, file in library.loras().items()]


def upscalers() -> list[dict[str, object]]:
    """Of pictures; None, which clients expect first, is Lanczos."""
    known = [name for name, each in UPSCALERS.items() if not isinstance(each, LatentUpscaler)]
    nothing = {"model_name": None, "model_path": None, "model_url": None, "scale": 4.0}
    return [{"name": name, **nothing} for name in ("None", *known)]


def latent_upscalers() -> list[dict[str, object]]:
    return [{"name": name} for name, each in UPSCALERS.items() if isinstance(each, LatentUpscaler)]


def known_samplers(served: Served) -> list[dict[str, object]]:
    return [{"name": name, "aliases": settings.aliases(name), "options": {}} for name in served.samplers]


def schedulers() -> list[dict[str, object]]:
    titles: Mapping[str, str] = {"automatic": "Automatic", **samplers.TITLES}
    return [
        {"name": name, "label": title, "aliases": None, "default_rho": -1.0, "need_inner_model": False}
        for name, title in titles.items()
    ]


def scripts(names: Sequence[str]) -> list[dict[str, object]]:
    """Always on: what clients say under their names works without a script's being chosen."""
    return [
        {"name": name, "is_alwayson": True, "is_img2img": begun, "args": []}
        for name in names
        for begun in (False, True)
    ]
