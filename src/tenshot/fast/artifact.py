"""A compiled model on disk: a folder with manifest.json, model/ (an ordinary model folder), controlnet/ and parts/.

Programs in parts/ hold no weights: those are read from model/, or from any model of the same architecture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import file_digest
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tenshot.errors import Fault, Refusal, refuse_if
from tenshot.fast.backend import Candidate
from tenshot.files import tensors

MANIFEST, MODEL, CONTROLNET, PARTS = "manifest.json", "model", "controlnet", "parts"
FORMAT = 3


@dataclass(frozen=True)
class Program:
    """choice: how it runs. shapes: of the inputs, the batch first. folder: its own, within the artifact."""

    choice: Candidate
    shapes: tuple[tuple[int, ...], ...]
    folder: str


@dataclass(frozen=True)
class Section:
    """error: relative to torch in float32. seconds: of a call; faster: times torch in float32. Of the first program."""

    programs: tuple[Program, ...]
    error: float
    seconds: float
    faster: float


@dataclass(frozen=True)
class Manifest:
    """again: the command that compiles it. files: path -> [bytes, digest] of all that the programs consist of."""

    family: str
    again: str
    fingerprint: dict[str, str]
    sections: dict[str, Section]
    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    format: int = FORMAT
    version: str = ""

    @property
    def backends(self) -> set[str]:
        return backends(self.sections)


def backends(sections: Mapping[str, Section]) -> set[str]:
    return {program.choice.backend for section in sections.values() for program in section.programs}


def is_one(place: Path) -> bool:
    """A training run leaves a file of the same name in its folder."""
    return (place / MANIFEST).is_file() and any((place / each).is_dir() for each in (MODEL, PARTS))


def write(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a folder in which everything else is complete."""
    listed = {
        str(path.relative_to(folder)): (path.stat().st_size, _digest(path))
        for path in sorted((folder / PARTS).rglob("*"))
        if path.is_file()
    }
    tensors.write_json(folder / MANIFEST, asdict(manifest) | {"files": listed})


def read(folder: Path) -> Manifest:
    """Raises Refusal where the manifest, or what it lists, is missing, truncated or altered."""
    told = tensors.read_json(folder / MANIFEST)
    if isinstance(told, Mapping) and told.get("format") != FORMAT:
        found = f"format {told.get('format')} of the artifact"
        raise Refusal(
            Fault(str(folder / MANIFEST), found, f"format {FORMAT}", str(told.get("again", "compile it again")))
        )
    try:
        manifest = TypeAdapter(Manifest).validate_python(told)
    except ValidationError as error:
        places = ", ".join(".".join(map(str, each["loc"])) for each in error.errors()[:3])
        do = "tenshot compile MODEL --out FOLDER --overwrite compiles it again"
        found = f"cannot be understood: {places}"
        raise Refusal(Fault(str(folder / MANIFEST), found, "as it was written", do)) from None
    refuse_if(_damages(folder, manifest))
    return manifest


def _damages(folder: Path, manifest: Manifest) -> Iterator[Fault]:
    for name, (size, digest) in manifest.files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            yield Fault(str(folder / MANIFEST), f"{name} lies outside", "files of the artifact", manifest.again)
        elif not path.is_file():
            yield Fault(str(path), "is missing", f"a file of {size:,} bytes", manifest.again)
        elif path.stat().st_size != size:
            yield Fault(str(path), f"has {path.stat().st_size:,} bytes", f"{size:,} bytes", manifest.again)
        elif _digest(path) != digest:
            yield Fault(str(path), "is not the file that was compiled", "the same bytes", manifest.again)
    named = {program.folder for section in manifest.sections.values() for program in section.programs}
    for name in named:
        if not (folder / name).resolve().is_relative_to((folder / PARTS).resolve()):
            yield Fault(str(folder / MANIFEST), f"{name} lies outside", "folders of the artifact", manifest.again)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "blake2b").hexdigest()[:32]
