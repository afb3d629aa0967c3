"""What a picture was drawn with, by name and hash, where user interfaces and Tenshot keep such files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from tenshot.adapters import adapter_files, lora_names
from tenshot.core.errors import Refusal
from tenshot.core.hub_names import WEIGHTS, HubName
from tenshot.core.results import Resource
from tenshot.core.shipped import CANNY
from tenshot.export.ui_folders import FOLDERS
from tenshot.io import hashes, hub
from tenshot.model import resolve

LONGEST = 255  # characters of a file's name
_HASH = re.compile("[0-9a-f]{8,64}")
KINDS = {"model": "checkpoint"}  #: what the folders of user interfaces are called otherwise
SHIPPED = {("model", "pocket"), ("controlnet", CANNY.name)}
Digest: TypeAlias = Callable[[Path], str]
DIGESTS: dict[str, tuple[Digest, ...]] = {
    "model": (hashes.auto_v1, hashes.of_file),
    "vae": (hashes.of_file,),
    "lora": (hashes.of_lora, hashes.of_file),
    "embedding": (hashes.of_file,),
    "controlnet": (hashes.auto_v1,),
}  #: as user interfaces have them, or the beginning of one


def found(kind: str, name: str, digest: str = "") -> Resource:
    """What is there of that name. digest: as the picture tells it; empty: it does not.

    Of several files of the name it is the one of that hash; where there is none, one of another hash is not at hand.
    """
    told: Resource = {"what": kind, "name": name, "at_hand": False}
    if digest:
        told["hash"] = digest
    if (kind, name) in SHIPPED:
        return {**told, "at_hand": True}
    if len(name) > LONGEST:
        return told
    others, wanted = [], digest.lower()
    for place in _places(kind, name, wanted if _HASH.fullmatch(wanted) else ""):
        if not digest or any(wanted and each(_file(kind, place)).startswith(wanted) for each in DIGESTS.get(kind, ())):
            return {**told, "at_hand": True, "file": str(place)}
        others.append(place)
    return {**told, "file": str(others[0]), "another_hash": True} if others else told


def on_hub(kind: str, name: HubName) -> Resource:
    """What of the hub's is in its cache."""
    known = None if name.odd else hub.kept(name)
    inner = f"{name.inner}/" if name.inner else ""
    there = known is not None and any(f"{file}/".startswith(inner) for file in known[1])
    return {"what": kind, "name": str(name), "at_hand": there}


def lora(name: str, digest: str) -> Resource:
    """By the name that a prompt has for it."""
    try:
        place = lora_names.find(name) if len(name) <= LONGEST else None
    except Refusal:
        place = None  # none, or several
    return on_hub("lora", place) if isinstance(place, HubName) else found("lora", name, digest)


def _file(kind: str, place: Path) -> Path:
    return adapter_files.files(place)[0] if kind == "lora" else place


def _places(kind: str, name: str, digest: str) -> Iterator[Path]:
    """Files, and folders of models, that are called so; a model's file that was used before may be called otherwise."""
    if kind == "model" and digest and (used := resolve.file_of(digest)):
        yield used
    if kind == "lora":
        yield from (each for each in lora_names.places() if lora_names.name_of(each) == name)
        return
    usual = [Path(folders[KINDS.get(kind, kind)]) for folders in FOLDERS.values()]
    near = (each for folder in (Path(), Path("out")) if folder.is_dir() for each in sorted(folder.iterdir()))
    below = (each for folder in usual for each in sorted(folder.rglob("*")))
    for each in (*near, *below):
        file = each.suffix in WEIGHTS and each.is_file() and name in (each.name, each.stem)
        folder = kind == "model" and not digest and each.name == name and (each / "model_index.json").is_file()
        if file or folder:
            yield each
