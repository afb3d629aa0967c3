"""A compiled model on disk: a folder with manifest.json, model/ (an ordinary model folder), controlnet/ and parts/.

Programs in parts/ hold no weights: those are read from model/, or from any model of the same architecture. The manifest
lists every file with its digest, and has a seal over what it says itself of family and programs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from tenshot.core.errors import Fault, Refusal, refuse_if
from tenshot.io import hashes, tensors, text_files
from tenshot.runtime.backend import Candidate
from tenshot.runtime.flat_modules import SECTIONS

MANIFEST, MODEL, CONTROLNET, PARTS = "manifest.json", "model", "controlnet", "parts"
FORMAT = 5
AGAIN = "tenshot compile MODEL --out FOLDER --overwrite compiles it again"
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Program:
    """choice: how it runs. shapes: of the inputs, the batch first. folder: its own, within the artifact."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    choice: Candidate
    shapes: tuple[tuple[int, ...], ...]
    folder: str


@dataclass(frozen=True)
class Section:
    """error: relative to torch in float32. seconds: of a call. speedup: over torch in float32. Of the first program."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    programs: tuple[Program, ...]
    error: float
    seconds: float
    speedup: float


@dataclass(frozen=True)
class Manifest:
    """again: the command that compiles it. files: path -> [bytes, SHA-256] of everything beside the reports.

    seal: of the family and the sections.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    family: str
    again: str
    fingerprint: dict[str, str]
    sections: dict[str, Section]
    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    format: int = FORMAT
    version: str = ""
    seal: str = ""

    @property
    def backends(self) -> set[str]:
        return backends(self.sections)


def backends(sections: Mapping[str, Section]) -> set[str]:
    return {program.choice.backend for section in sections.values() for program in section.programs}


def is_one(place: Path) -> bool:
    """A training run leaves a file of the same name in its folder; without one, both folders say so."""
    inside = [(place / each).is_dir() for each in (MODEL, PARTS)]
    return any(inside) if (place / MANIFEST).is_file() else all(inside)


def write(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a folder in which everything else is complete."""
    listed = {name: (path.stat().st_size, hashes.of_file(path)) for name, path in _files(folder).items()}
    known = _understood(json.dumps(asdict(replace(manifest, files=listed))))
    tensors.write_json(folder / MANIFEST, asdict(replace(known, seal=_seal(known))))


def read(folder: Path) -> Manifest:
    """Raises Refusal where the manifest, or what it lists, is missing, truncated, altered, or more than was written."""
    file = folder / MANIFEST
    try:
        told = text_files.read_json(file)
    except Refusal as refusal:
        raise Refusal(*(replace(fault, do=AGAIN) for fault in refusal.faults)) from None
    if isinstance(told, Mapping) and told.get("format") != FORMAT:
        found = f"format {told.get('format')!r} of the artifact"
        again = told.get("again")
        raise Refusal(Fault(str(file), found, f"format {FORMAT}", again if isinstance(again, str) else AGAIN))
    try:
        manifest = _understood(json.dumps(told))
    except ValidationError as error:
        places = ", ".join(f"{'.'.join(map(str, each['loc']))} ({each['msg']})" for each in error.errors()[:3])
        raise Refusal(Fault(str(file), f"cannot be understood: {places}", "as it was written", AGAIN)) from None
    refuse_if((*_contradictions(folder, manifest), *_damages(folder, manifest)))
    return manifest


def _understood(text: str) -> Manifest:
    """Strictly: nothing is taken for what it is not."""
    return TypeAdapter(Manifest).validate_json(text, strict=True)


def _seal(manifest: Manifest) -> str:
    sections = {name: asdict(section) for name, section in manifest.sections.items()}
    return hashes.of_json([manifest.family, sections])


def _contradictions(folder: Path, manifest: Manifest) -> Iterator[Fault]:
    """What is wrong with what the manifest says of itself."""
    file, do = str(folder / MANIFEST), manifest.again
    for name in manifest.sections.keys() - SECTIONS.keys():
        yield Fault(file, f"the section {name!r} is not known", ", ".join(SECTIONS), do)
    for name in {program.folder for section in manifest.sections.values() for program in section.programs}:
        if not (folder / name).resolve().is_relative_to((folder / PARTS).resolve()):
            yield Fault(file, f"{name} lies outside", "folders of the artifact", do)
    if _seal(manifest) != manifest.seal:
        yield Fault(file, "family and sections are not as they were written", "the same shapes, folders, figures", do)


def _damages(folder: Path, manifest: Manifest) -> Iterator[Fault]:
    """What is wrong with the files: every one counts, and no other may lie beside them."""
    do, there = manifest.again, _files(folder)
    sound = []
    for name, (size, _) in manifest.files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            yield Fault(str(folder / MANIFEST), f"{name} lies outside", "files of the artifact", do)
        elif not path.is_file():
            yield Fault(str(path), "is missing", f"a file of {size:,} bytes", do)
        elif path.stat().st_size != size:
            yield Fault(str(path), f"has {path.stat().st_size:,} bytes", f"{size:,} bytes", do)
        else:
            sound.append(name)
    with ThreadPoolExecutor(4) as workers:
        digests = workers.map(lambda name: hashes.of_file(folder / name), sound)
    for name, digest in zip(sound, digests, strict=True):
        if digest != manifest.files[name][1]:
            yield Fault(str(folder / name), "is not the file that was compiled", "the same bytes", do)
    for name in there.keys() - manifest.files.keys():
        yield Fault(str(there[name]), "is not in the manifest's list", "the files that were compiled, no others", do)


def _files(folder: Path) -> dict[str, Path]:
    """Everything that the model is read from, by its path within; what systems hide beside files does not count."""
    found = (path for part in (MODEL, CONTROLNET, PARTS) for path in sorted((folder / part).rglob("*")))
    return {path.relative_to(folder).as_posix(): path for path in found if path.is_file() and path.name[0] != "."}
