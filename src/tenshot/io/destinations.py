"""Where results go. What lies there is replaced only where it is of our own kind, and never what is being read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from tenshot.core.errors import Fault, Refusal, some
from tenshot.io import text_files

_WEIGHTS = r"(diffusion_pytorch_)?model[^/]*\.safetensors(\.index\.json)?"
_NET = rf"config\.json|{_WEIGHTS}"
_WORDS = r"merges\.txt|(vocab|tokenizer|tokenizer_config|special_tokens_map|added_tokens)\.json"
_MODEL = "|".join(
    (
        r"model_index\.json",
        r"preset\.json",
        r"scheduler/scheduler_config\.json",
        rf"(unet|vae|text_encoder|text_encoder_2)/({_NET})",
        rf"tokenizer(_2)?/({_WORDS})",
    )
)
_ARTIFACT = "|".join(
    (
        r"manifest\.json|preset\.json|report\.(html|json)|pictures/\d+-(plain|fast)\.png|parts/.+",
        rf"model/({_MODEL})|controlnet/({_NET})",
    )
)
#: A result's folder: the file that tells what it is, and the names of all that such a result holds.
KINDS = {
    "model_index.json": re.compile(_MODEL),
    "config.json": re.compile(_NET),
    "manifest.json": re.compile(_ARTIFACT),
}
MODELS, ARTIFACTS = ("model_index.json", "config.json"), ("manifest.json",)
ROOM = r"\.tenshot-.*\.part"  # where tensors.replacing works
DEEP = 3  # folders that the files of a result may be below it
LONGEST = 255  # bytes of a file's name on every usual file system
FILES = (".safetensors", ".ckpt", ".pt", ".bin")  # suffixes of results that are no folders
_BEGINS = (b"PK\x03\x04", b"\x80\x02", b"\x8a\x0al\xfc")  # of torch's files, in three ages


def faults(
    option: str,
    target: Path,
    overwrite: bool,
    sources: Iterable[Path] = (),
    kinds: Sequence[str] = MODELS,
) -> Iterator[Fault]:
    """What keeps a result from being put at `target`, as `hurdles` tells it, once its folder is tidied up."""
    if not (misnamed(target) or obstacle(target.parent)):
        from tenshot.io import tensors

        tensors.sweep(target.parent)
    yield from hurdles(option, target, overwrite, sources, kinds)


def hurdles(
    option: str,
    target: Path,
    overwrite: bool,
    sources: Iterable[Path] = (),
    kinds: Sequence[str] = MODELS,
) -> Iterator[Fault]:
    """What keeps a result from being put at `target`, which `option` names. sources: all that is read for it.
    kinds: of KINDS, those that the result may be of, where it is a folder.

    The one rule for every verb that writes: what lies there is replaced where --overwrite says so and it is a result
    of the kind that Tenshot writes, with nothing else in it. What is read is not replaced, nor written into.
    """
    if hurdle := misnamed(target) or obstacle(target.parent):
        yield Fault(option, f"{target}: {hurdle}", "a path through folders", "name another folder")
        return
    if (hurt := _hurt(target, [each for each in sources if os.path.exists(each)])) is not None:
        fits, do = "a place apart from what is read", "choose another place"
        yield Fault(option, f"{target}: {hurt} is read for it", fits, do)
    elif (target.exists() or target.is_symlink()) and not overwrite:
        yield Fault(option, f"{target} exists", "a new name", "--overwrite replaces it")
    elif strange := _part_of(target) or stranger(target, kinds):
        fits = "a result of Tenshot's with nothing else in it: only that is replaced"
        yield Fault(option, f"{target}: {strange}", fits, "name another place, or remove it yourself")


def _part_of(target: Path) -> str:
    """Of which model what lies there is a part, in words: without it, or with another, that would be none."""
    place = Path(os.path.abspath(target))
    files = [path for path in place.rglob("*") if path.is_file()] if place.is_dir() else [place]
    for folder in list(place.parents)[:DEEP] if os.path.lexists(place) else []:
        known = [names for mark, names in KINDS.items() if (folder / mark).is_file()]
        if any(names.fullmatch(path.relative_to(folder).as_posix()) for names in known for path in files):
            return f"is a part of the model {folder}"
    return ""


def obstacle(folder: Path) -> str:
    """What keeps `folder` from being there or being made, in words: names that no file can have, or a file."""
    there = next(each for each in (folder, *folder.absolute().parents) if os.path.exists(each))
    return misnamed(folder) or ("" if there.is_dir() else f"{there} is a file")


def misnamed(place: Path) -> str:
    """What is wrong with the names on the way to `place`, in words."""
    for name in place.parts:
        if re.fullmatch(ROOM, name):
            return f"{name} is what unfinished work is called, which the next start clears away"
        if "\0" in name:
            return f"{name!r} holds a zero byte"
        if len(name.encode("utf-8", "surrogatepass")) > LONGEST:
            return f"the name {name[:20]}... is longer than the {LONGEST} bytes that a name can have"
    return ""


def stranger(target: Path, kinds: Sequence[str] = MODELS) -> str:
    """What makes it someone else's, in words; empty where nothing is there, or only what a result of ours holds."""
    if target.is_dir():
        return "is a folder" if target.suffix in FILES else _strange_in(target, kinds)
    if not os.path.exists(target):
        return "is a link that leads nowhere" if target.is_symlink() else ""
    if not target.is_file() or target.suffix not in FILES:
        return "is no folder" if target.is_file() else "is neither a file nor a folder"
    with target.open("rb") as file:
        start = file.read(9)
    tensors = len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < 100_000_000
    return "" if not start or tensors or start.startswith(_BEGINS) else "is no file of tensors"


def _strange_in(folder: Path, kinds: Sequence[str]) -> str:
    held = sorted(
        path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir() or not any(path.iterdir())
    )
    if not held:
        return ""
    known = next((KINDS[mark] for mark in kinds if (folder / mark).is_file()), None)
    names = (path.relative_to(folder).as_posix() for path in held)
    listed = _listed(folder) if "manifest.json" in kinds else set()
    strange = [name for name in names if known is None or not (known.fullmatch(name) or name in listed)]
    return f"holds {some(strange)}" if strange else ""


def _listed(folder: Path) -> set[str]:
    """What a compiled model's manifest names: it may hold more of a model than Tenshot itself would write."""
    with suppress(Refusal, KeyError, TypeError, AttributeError):
        told = text_files.read_json(folder / "manifest.json")["files"]
        return {name for name in told if name.startswith(("model/", "controlnet/", "parts/"))}
    return set()


def _hurt(target: Path, sources: list[Path]) -> Path | None:
    """The source that is the target, lies in it, or has it within."""
    place = Path(os.path.realpath(target))
    for source in sources:
        read = Path(os.path.realpath(source))
        if os.path.exists(target) and target.samefile(source):
            return source
        if read.is_relative_to(place) or (source.is_dir() and place.is_relative_to(read)):
            return source
    return None


def file_name(word: str) -> str:
    """Of a learned word: `<my cat>` -> my-cat.safetensors."""
    stem = re.sub(r"[^\w.-]+", "-", word).strip("-.")
    return f"{stem or 'word'}.safetensors"
