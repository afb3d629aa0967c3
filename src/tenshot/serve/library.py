"""What may be asked for by name. A name is looked up here, and never becomes a path."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tenshot.adapters import lora_names
from tenshot.core import hub_names
from tenshot.core.errors import Fault, Refusal, all_or_refuse, refuse_if
from tenshot.core.events import Events
from tenshot.core.shipped import CANNY
from tenshot.diffusion import samplers
from tenshot.families import validate
from tenshot.families.base import Family
from tenshot.generate import controlnet_faults
from tenshot.io import hashes
from tenshot.model import resolve
from tenshot.prompt.syntax import LoraTag
from tenshot.runtime import compiled_model

SAFE = ".safetensors"  # of LoRAs and ControlNets: other containers can hold programs
PART = "diffusion_pytorch_model"  # what files with weights are called in diffusers' folders


@dataclass(frozen=True)
class Served:
    """A model. given: as the command line has it. file: its name alone. sha256: of a checkpoint file.

    side: of the pictures that it draws where nothing is said, in pixels.
    """

    name: str
    given: str
    file: str
    family: Family
    sha256: str | None
    side: int

    @property
    def title(self) -> str:
        return f"{self.file} [{self.sha256[:10]}]" if self.sha256 else self.file

    @property
    def samplers(self) -> list[str]:
        return samplers.names(self.family.process.name)

    @property
    def names(self) -> set[str]:
        """What clients call it."""
        digests = {self.sha256, self.sha256[:10]} if self.sha256 else set()
        return {name.lower() for name in (self.name, self.title, self.file, *digests) if name}


@dataclass(frozen=True)
class Library:
    """lora_dirs, controlnet_dirs: where LoRAs and ControlNets lie, looked through anew each time."""

    models: Sequence[Served]
    lora_dirs: Sequence[Path]
    controlnet_dirs: Sequence[Path] = ()

    @classmethod
    def read(
        cls, given: Sequence[str], lora_dirs: Sequence[Path], controlnet_dirs: Sequence[Path], events: Events
    ) -> Library:
        """Raises Refusal where one is no model, or two have one name."""
        models = all_or_refuse(*(lambda each=each: _served(each, events) for each in dict.fromkeys(given)))
        refuse_if(_namesakes(models))
        own = [CANNY] if any(_takes(each, CANNY) for each in models) else []
        return cls(models, lora_dirs, (*controlnet_dirs, *own))

    def model(self, asked: str | None) -> Served:
        """By its name, title, file name or hash; None or nothing: the first. Raises Refusal."""
        if not asked:
            return self.models[0]
        wanted = asked.lower()
        bare = wanted.rpartition(" [")[0]
        found = [each for each in self.models if {wanted, bare} & each.names]
        if not found:
            fits = ", ".join(each.name for each in self.models)
            raise Refusal(Fault("model", f"{asked[:200]!r} is not served here", fits, "name one of these"))
        return found[0]

    def loras(self) -> dict[str, Path]:
        """Name -> file."""
        return {lora_names.name_of(file): file for file in _files(self.lora_dirs)}

    def controlnets(self) -> dict[str, Path]:
        """Name, with a hash behind it as sd-webui-controlnet has it -> file, or diffusers' folder."""
        found: dict[str, Path] = {}
        for file in _files(self.controlnet_dirs):
            place = file.parent if file.name.startswith(PART) and (file.parent / "config.json").is_file() else file
            found.setdefault(f"{_name(place)} [{hashes.auto_v1(file)}]", place)
        return found

    def controlnet(self, asked: str) -> Path:
        """By its name, with the hash or without. Raises Refusal."""
        known = self.controlnets()
        named = {name.lower(): place for name, place in known.items()}
        named |= {_name(place).lower(): place for place in known.values()}
        if asked.lower() not in named:
            near = difflib.get_close_matches(asked.lower(), named, 1, 0.5)
            fits = ", ".join(sorted(known)[:9]) or "there is none at all (tenshot serve --controlnet_dir)"
            do = f"name one of these, {_name(named[near[0]])} perhaps" if near else "name one of these"
            raise Refusal(Fault("model", f"{asked[:200]!r}: no ControlNet of that name is served here", fits, do))
        return named[asked.lower()]

    def check(self, tags: Sequence[LoraTag]) -> None:
        """Raises Refusal where a prompt names a LoRA that is not here."""
        refuse_if(_unknown(tags, self.loras()) if tags else ())


def _takes(model: Served, controlnet: Path) -> bool:
    return not any(controlnet_faults.faults(model.given, None, [str(controlnet)], []))


def _served(given: str, events: Events) -> Served:
    place = compiled_model.find(given, events)
    path = Path(given)
    file = path.name if path.is_file() else hub_names.called(place)
    name = Path(file).stem if path.is_file() else file
    config = validate.denoiser_config(compiled_model.folder(place))
    side = int(config.get("sample_size") or 64) * 8
    return Served(name, given, file, compiled_model.examine(place), resolve.model_hash(place), side)


def _files(folders: Sequence[Path]) -> Iterator[Path]:
    return (file for folder in folders for file in sorted(folder.rglob(f"*{SAFE}")) if file.is_file())


def _name(place: Path) -> str:
    """Of a ControlNet, as infotext has it."""
    called = hub_names.called(place)
    return called if place.is_dir() else Path(called).stem


def _namesakes(models: Sequence[Served]) -> Iterator[Fault]:
    names = [each.name.lower() for each in models]
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        where = ", ".join(each.given for each in models if each.name.lower() == name)
        yield Fault("model", f"{where}: all are called {name}", "each with a name of its own", "rename one of them")


def _unknown(tags: Sequence[LoraTag], known: Mapping[str, Path]) -> Iterator[Fault]:
    names = {name.lower(): name for name in known}
    for tag in tags:
        if tag.name.lower() not in names:
            near = difflib.get_close_matches(tag.name.lower(), names, 3, 0.5) or sorted(names)[:5]
            fits = ", ".join(names[each] for each in near) or "there is none at all"
            yield Fault(
                "prompt", f"<lora:{tag.name[:200]}>: no LoRA of that name is served here", fits, "correct the name"
            )
