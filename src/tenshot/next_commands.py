"""The commands that one types next with a file or a folder, whichever verb named it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tenshot.core.errors import Refusal
from tenshot.core.option_text import command
from tenshot.io import text_files

SHARED = ("checkpoint", "lora", "embedding")  #: what user interfaces have a folder for, and a prompt can use
TEXT = "TEXT"


def draw(kind: str, path: Path | str, prompt: str = TEXT, model: Path | str = "MODEL") -> str:
    """The command that draws with it. model: which LoRAs and learned words go beside."""
    beside = {"lora": ["--model", model, "--lora", path], "embedding": ["--model", model, "--embedding", path]}
    return command("generate", *beside.get(kind, ["--model", path]), "--prompt", prompt)


def hand_over(path: Path | str, trigger: str = "") -> str:
    """The command that puts it where a user interface looks for it."""
    return command("convert", path, "--to", "webui", "DIR", *(["--trigger", trigger] if trigger else []))


def taught(folder: Path) -> str:
    """A prompt for what a training taught the model in `folder`; TEXT where its manifest says none."""
    file, told = folder / "manifest.json", {}
    with suppress(Refusal):
        told = text_files.read_object(file, "a manifest")
    given = told.get("arguments")
    said = [given.get(name) for name in ("validation_prompt", "instance_prompt")] if isinstance(given, dict) else []
    return next((each for each in said if each and isinstance(each, str)), TEXT)


def compiled(path: Path | str) -> str:
    return command("compile", path, "--out", "FOLDER")


def after_looking(kind: str, path: Path, prompt: str, loads_in: Iterable[str]) -> list[str]:
    """What to do with a file that was looked at. loads_in: who takes it as it is."""
    if kind == "model folder":
        return [draw(kind, path, prompt), hand_over(path), compiled(path)]
    if kind not in SHARED:
        return [command("convert", path, "RESULT")]
    return [draw(kind, path, prompt), *([hand_over(path)] if "tenshot" in loads_in else [])]
