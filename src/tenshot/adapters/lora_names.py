"""LoRAs by the names that prompts have for them: `<lora:az:0.8>` means az.safetensors in one of some folders.

As in AUTOMATIC1111 the name is the file's, or what its header calls it (ss_output_name); here a folder's, too, where
the file in it has diffusers' or peft's own name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from tenshot.adapters import adapter_files
from tenshot.core import hub_names
from tenshot.core.errors import Fault, Refusal
from tenshot.core.hub_names import HubName

USUAL = ("loras", "out", "models/Lora", "models/loras")  #: in the folder where the command is given, which counts, too
ENDINGS = (".safetensors", ".pt", ".ckpt", ".bin")


def name_of(place: Path) -> str:
    """What a prompt calls the LoRA at `place`, a file or a folder."""
    if place.is_dir() or place.name in adapter_files.FILES:
        return hub_names.called(place if place.is_dir() else place.parent)
    return place.stem


def find(name: str, folders: Sequence[Path] = ()) -> Path | HubName:
    """The LoRA called `name` in `folders`, the usual ones where none is given; else what it names of the hub.

    Raises Refusal where it is neither, or several are called so.
    """
    known = list(places(folders))
    found = [each for each in known if name_of(each) == name] or [
        each for each in known if name_of(each).lower() == name.lower()
    ]
    found = found or [each for each in known if name in _told_names(each)]
    if len(found) == 1:
        return found[0]
    if not found and (meant := hub_names.parse(name)):
        return meant
    if found:
        told = f"<lora:{name}> is the name of {len(found)} files: {', '.join(map(str, found[:4]))}"
        raise Refusal(Fault("--prompt", told, "one", f"--lora {found[0]} names a file, --lora_dir a folder"))
    where = ", ".join(str(each) for each in folders) or f"this folder, {', '.join(USUAL)}"
    names = {name_of(each).lower(): name_of(each) for each in known}
    near = get_close_matches(name.lower(), names, 3, 0.5) or sorted(names)[:5]
    fits = ", ".join(names[each] for each in near) or "there is none at all"
    do = "write its name as the file has it, or --lora_dir FOLDER: where it lies"
    raise Refusal(Fault("--prompt", f"<lora:{name}>: no LoRA of that name in {where}", fits, do))


def places(folders: Sequence[Path] = ()) -> Iterator[Path]:
    """The files and folders that may be LoRAs, each once."""
    usual = [Path(each) for each in USUAL]
    files: Iterable[Path] = [file for folder in folders or usual for file in _files(folder)]
    here = [] if folders else [file for file in Path().iterdir() if file.suffix in ENDINGS and file.is_file()]
    seen = set()
    for file in (*here, *files):
        place = file.parent if file.name in adapter_files.FILES else file
        if (real := place.resolve()) not in seen:
            seen.add(real)
            yield place


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix in ENDINGS and file.is_file())


def _told_names(place: Path) -> list[str]:
    try:
        return [adapter_files.opened(place).metadata.get("ss_output_name", "")]
    except Refusal:
        return []  # it is no LoRA
