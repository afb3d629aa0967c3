"""The settings that a client reads, and may write back as a whole: WebUI's `options`. They are each caller's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tenshot.core.errors import Fault, Refusal, refuse_if
from tenshot.generation_parameters import EMPHASES
from tenshot.serve.library import Library

MODEL, CLIP_SKIP, EMPHASIS, VAE = "sd_model_checkpoint", "CLIP_stop_at_last_layers", "emphasis", "sd_vae"
FORMAT, QUALITY = "samples_format", "jpeg_quality"
USUAL: dict[str, object] = {CLIP_SKIP: 1, EMPHASIS: "Original", FORMAT: "png", QUALITY: 80}
KINDS = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}
MOST_CLIP_SKIP = 12
#: What others than these cannot be had here; clients write back what they read.
FIXED: dict[str, object] = {
    VAE: "Automatic",
    "grid_save": False,
    "return_grid": False,
    "samples_save": False,
    "enable_pnginfo": True,
    "randn_source": "CPU",
    "img2img_fix_steps": False,
    "show_progress_every_n_steps": 0,
    "live_previews_enable": False,
    "sd_hypernetwork": "None",
    "eta_noise_seed_delta": 0,
    "upscaler_for_img2img": "None",
}


def told(chosen: Mapping[str, object], library: Library) -> dict[str, object]:
    """All of them."""
    served = library.model(str(chosen.get(MODEL) or ""))
    return {
        MODEL: served.title,
        "sd_checkpoint_hash": served.sha256 or "",
        **USUAL,
        **FIXED,
        **{name: value for name, value in chosen.items() if name != MODEL},
    }


def checked(given: Mapping[str, object], library: Library) -> dict[str, object]:
    """What of `given` changes anything. Raises Refusal where something cannot be had."""
    refuse_if(_faults(given, library))
    names = (MODEL, *USUAL)
    return {name: given[name] for name in names if given.get(name) is not None}


def _faults(given: Mapping[str, object], library: Library) -> Iterator[Fault]:
    known = (MODEL, *USUAL, "sd_checkpoint_hash", *FIXED)
    for name, value in given.items():
        if name == MODEL:
            try:
                library.model(str(value or ""))
            except Refusal as refusal:
                yield from (Fault(MODEL, each.found, each.fits, each.do) for each in refusal.faults)
        elif name == CLIP_SKIP:
            if type(value) is not int or not 1 <= value <= MOST_CLIP_SKIP:
                yield Fault(name, repr(value)[:100], f"1 to {MOST_CLIP_SKIP}", "1 is the usual")
        elif name == EMPHASIS:
            if value not in EMPHASES:
                yield Fault(name, repr(value)[:100], ", ".join(EMPHASES), "Original is the usual")
        elif name == FORMAT:
            if value not in KINDS:
                yield Fault(name, f"{value!r:.100}", ", ".join(KINDS), "png loses nothing")
        elif name == QUALITY:
            if type(value) is not int or not 1 <= value <= 100:
                yield Fault(name, f"{value!r:.100}", "1 to 100", f"{USUAL[QUALITY]} is the usual")
        elif name not in known:
            yield Fault(name[:100], "no setting of this server", ", ".join(known), "leave it out")
        elif name in FIXED and value not in (FIXED[name], None) and not (name == VAE and value in ("None", "")):
            yield Fault(name, f"{value!r:.100}, which cannot be had here", repr(FIXED[name]), "leave it out")


def encoding(chosen: Mapping[str, object]) -> dict[str, object]:
    """Of the pictures that are answered, as options of what is drawn."""
    given = {**USUAL, **chosen}
    kind = KINDS[str(given[FORMAT])]
    return {} if kind == "png" else {"format": kind, "quality": given[QUALITY]}


def aliases(sampler: str) -> list[str]:
    """What else clients call a sampler: k_euler_a, euler_ancestral."""
    plain = sampler.lower().replace("++", "pp").replace(" a", "_a").replace(" ", "_")
    return [f"k_{plain}", plain.removesuffix("_a") + "_ancestral" if plain.endswith("_a") else plain]
