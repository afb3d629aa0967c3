"""The commands that one types next with a file or a folder, whichever verb named it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tenshot.core.errors import Refusal
from tenshot.core.option_text import command
from tenshot.io import text_files

SHARED = ("checkpoint", "lora", "embedding")  #: what user interfaces have a folder for, and a prompt can use
TEXT = "TEXT"


def draw(kind: str, path: Path | str, prompt: str = TEXT, model: Path | str = "MODEL", how: Sequence[str] = ()) -> str:
    """The command that draws with it. model: which LoRAs and learned words go beside. how: options that it wants."""
    beside = {"lora": ["--model", model, "--lora", path], "embedding": ["--model", model, "--embedding", path]}
    return command("generate", *beside.get(kind, ["--model", path]), "--prompt", prompt, *how)


def hand_over(path: Path | str, trigger: str = "") -> str:
    """The command that puts it where a user interface looks for it."""
    return command("convert", path, "--to", "webui", "DIR", *(["--trigger", trigger] if trigger else []))


def taught(folder: Path) -> str:
    """A prompt for what a training taught the model in `folder`; TEXT where its manifest says none."""
    return next(_said(_manifest(folder), ("validation_prompt", "instance_prompt")), TEXT)


def recorded(folder: Path) -> list[str]:
    """The prompts of the training whose result is in `folder`, and the captions that it learned from."""
    told = _manifest(folder)
    inputs = told.get("inputs")
    captions = inputs.get("captions") if isinstance(inputs, dict) else None
    said = captions.values() if isinstance(captions, dict) else ()
    own = [text for each in said for text in (each if isinstance(each, list) else [each])]
    known = [*_said(told, ("instance_prompt", "class_prompt", "validation_prompt")), *own]
    return list(dict.fromkeys(each for each in known if isinstance(each, str) and each))


def learned_from(folder: Path) -> Path | None:
    """The folder of the pictures of which one subject was taught to the model in `folder`, where it is still there."""
    found = next(_said(_manifest(folder), ("instance_data_dir",)), "")
    return Path(found) if found and Path(found).is_dir() else None


def _manifest(folder: Path) -> Mapping[str, object]:
    with suppress(Refusal):
        return text_files.read_object(folder / "manifest.json", "a manifest")
    return {}


def _said(told: Mapping[str, object], names: Iterable[str]) -> Iterator[str]:
    given = told.get("arguments")
    said = [given.get(name) for name in names] if isinstance(given, dict) else []
    yield from (each for each in said if each and isinstance(each, str))


def compiled(path: Path | str) -> str:
    return command("compile", path, "--out", "FOLDER")


def after_looking(kind: str, path: Path, prompt: str, loads_in: Iterable[str], how: Sequence[str] = ()) -> list[str]:
    """What to do with a file that was looked at. loads_in: who takes it as it is. how: as of `draw`."""
    if kind == "model folder":
        return [draw(kind, path, prompt), hand_over(path), compiled(path)]
    if kind not in SHARED:
        return [command("convert", path, "RESULT")]
    return [draw(kind, path, prompt, how=how), *([hand_over(path)] if "tenshot" in loads_in else [])]
