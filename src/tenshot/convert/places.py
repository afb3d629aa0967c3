"""Where user interfaces look for files, and what they read beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from tenshot.convert.options import ConvertOptions
from tenshot.errors import Fault
from tenshot.files import tensors

FOLDERS = {
    "webui": {
        "checkpoint": "models/Stable-diffusion",
        "lora": "models/Lora",
        "embedding": "embeddings",
        "vae": "models/VAE",
        "controlnet": "models/ControlNet",
    },
    "comfyui": {
        "checkpoint": "models/checkpoints",
        "lora": "models/loras",
        "embedding": "models/embeddings",
        "vae": "models/vae",
        "controlnet": "models/controlnet",
    },
}
VERSIONS = {"Stable Diffusion 1.x": "SD1", "Stable Diffusion 2.x": "SD2", "Stable Diffusion XL": "SDXL"}
PREVIEW = 512  # pixels along the longer side, at most


def faults(options: ConvertOptions) -> Iterator[Fault]:
    """What is wrong with --to and what belongs to it."""
    if not options.to:
        for name in ("name", "trigger", "preview"):
            if getattr(options, name):
                yield Fault(f"--{name}", "is given without --to", "--to webui or --to comfyui", "leave it out")
        return
    if options.dst is None or not (options.dst / "models").is_dir():
        fits = "the folder in which it is installed: it has a folder models/"
        yield Fault("dst", f"{options.dst} is no folder of {options.to}", fits)
    if options.name and Path(options.name).name != options.name:
        yield Fault("--name", f"{options.name!r} is a path", "a name without folders")
    if options.preview and not options.preview.is_file():
        yield Fault("--preview", f"{options.preview}: no such file", "a picture")


def target(options: ConvertOptions, kind: str) -> Path | None:
    """The file to write with --to; None without."""
    if not options.to or options.dst is None:
        return None
    name = options.name or options.src.resolve().name.removesuffix(options.src.suffix)
    return options.dst / FOLDERS[options.to][kind] / f"{name}.safetensors"


def accompany(options: ConvertOptions, target: Path, family: str) -> dict[str, Any]:
    """The picture and the facts that the user interface shows with a file."""
    beside = {
        "activation text": options.trigger,
        "preferred weight": 1.0,
        "sd version": VERSIONS.get(family, "Unknown"),
    }
    tensors.write_json(target.with_suffix(".json"), beside)
    if options.preview:
        with Image.open(options.preview) as picture, tensors.replacing(target.with_suffix(".png")) as temporary:
            small = picture.convert("RGB")
            small.thumbnail((PREVIEW, PREVIEW))
            small.save(temporary, "PNG")
    use = {"embedding": target.stem, "lora": f"<lora:{target.stem}:1> {options.trigger}".strip()}
    kind = next((kind for kind, folder in FOLDERS[options.to or "webui"].items() if target.parent.match(folder)), "")
    return {"in the prompt": use[kind]} if kind in use and options.to == "webui" else {}
