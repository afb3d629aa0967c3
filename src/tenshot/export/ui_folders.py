"""Where user interfaces look for files, and what they read beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tenshot.core.errors import Fault
from tenshot.core.results import Written
from tenshot.io import destinations

FOLDERS = {
    "webui": {
        "checkpoint": "models/Stable-diffusion",
        "lora": "models/Lora",
        "embedding": "embeddings",
        "vae": "models/VAE",
        "controlnet": "models/ControlNet",
        "upscaler": "models/ESRGAN",
    },
    "comfyui": {
        "checkpoint": "models/checkpoints",
        "lora": "models/loras",
        "embedding": "models/embeddings",
        "vae": "models/vae",
        "controlnet": "models/controlnet",
        "upscaler": "models/upscale_models",
        **dict.fromkeys(("unet", "transformer"), "models/diffusion_models"),
    },
}
PREVIEW = 512  # pixels along the longer side, at most


@dataclass(frozen=True)
class UIFolder:
    """The folder in which a user interface is installed. program: a key of FOLDERS."""

    program: str
    folder: Path

    def file(self, kind: str, name: str) -> Path:
        """Where a file of this kind goes. kind: checkpoint, lora, embedding, vae or controlnet."""
        return self.folder / FOLDERS[self.program][kind] / f"{name}.safetensors"

    def faults(self, option: str) -> Iterator[Fault]:
        if not (self.folder / "models").is_dir():
            fits = "the folder in which it is installed: it has a folder models/"
            yield Fault(
                option,
                f"{self.folder} is no folder of {self.program}",
                fits,
                f"or, to collect files: mkdir -p {self.folder}/models",
            )


@dataclass(frozen=True)
class Shown:
    """What a user interface shows with a file. trigger: the words that call it up. preview: a picture."""

    trigger: str = ""
    preview: Path | None = None


def places(export: Sequence[str]) -> list[UIFolder]:
    """`webui:DIR` and `comfyui:DIR`, as far as they are that."""
    pairs = (each.partition(":") for each in export)
    return [
        UIFolder(program, Path(folder).expanduser()) for program, _, folder in pairs if program in FOLDERS and folder
    ]


def faults(export: Sequence[str], results: Sequence[tuple[str, str]]) -> Iterator[Fault]:
    """What is wrong with --export. results: kind and name of all that will be put there."""
    for each in export:
        found = places([each])
        if not found:
            do = ", or ".join(f"--export {program}:DIR" for program in FOLDERS)
            yield Fault("--export", each, "a user interface and its folder", do)
            continue
        yield from found[0].faults("--export")
        for target in (found[0].file(kind, name) for kind, name in results):
            if hurdle := destinations.misnamed(target):
                yield Fault("--export", f"{target}: {hurdle}", "a shorter name", "shorten that of the result")
            elif there := next((each for each in (target, *companions(target)) if each.exists()), None):
                yield Fault("--export", f"{there} exists", "a new name: that of the result", "move it, or rename that")


def companions(target: Path) -> list[Path]:
    """What may be written beside a file for user interfaces: facts, a picture, a configuration."""
    return [target.with_suffix(suffix) for suffix in (".json", ".png", ".yaml")]


def phrase(trigger: str) -> dict[str, str]:
    """The words that call something up, as its metadata say them."""
    return {"modelspec.trigger_phrase": trigger} if trigger else {}


def accompany(place: UIFolder, target: Path, shown: Shown, family: str) -> Written:
    """Write the picture and the facts that the user interface shows with a file. How it is used comes back."""
    from tenshot.io import tensors
    from tenshot.io.images import open_picture

    beside = {
        "activation text": shown.trigger,
        "preferred weight": 1.0,
        "sd version": _version(family),
    }
    small = open_picture(shown.preview) if shown.preview else None
    tensors.write_json(target.with_suffix(".json"), beside)
    if small:
        with tensors.replacing(target.with_suffix(".png")) as temporary:
            small.thumbnail((PREVIEW, PREVIEW))
            small.save(temporary, "PNG")
    kind = next((kind for kind, folder in FOLDERS[place.program].items() if target.parent.match(folder)), "")
    use = {
        ("webui", "lora"): f"<lora:{target.stem}:1> {shown.trigger}".strip(),
        ("webui", "embedding"): target.stem,
        ("comfyui", "embedding"): f"embedding:{target.stem}",
    }.get((place.program, kind))
    return {"in_the_prompt": use} if use else {}


def _version(title: str) -> str:
    """What AUTOMATIC1111 calls a family."""
    from tenshot.families import registry  # torch and diffusers, which no option needs

    return next((family.webui.version for family in registry.FAMILIES if family.title == title), "Unknown")
