"""A folder of pictures: read whole or refused whole."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tenshot.core.errors import Fault, Refusal, all_or_refuse, refuse_if
from tenshot.core.size import Size
from tenshot.io import captions, hashes, text_files
from tenshot.io.images import FITS, MOST_BYTES, SUFFIXES, is_animated, open_picture

#: What may lie beside pictures: metadata, other trainers' latents.
COMPANIONS = frozenset((".json", ".npz"))

#: What systems leave in every folder (hidden files are passed over anyway).
LITTER = frozenset(("thumbs.db", "desktop.ini"))

REPEATED = re.compile(r"(\d+)_(.+)")  # folders' names that say how often an epoch shows their pictures, and what

DEEPEST, MOST_FOLDERS = 3, 2000  # where pictures are looked for that would not be used

RUN = "run.json"  # the mark of a training's output, whose pictures were drawn

#: Masks' names, by their pictures': OneTrainer's, and those that people give them.
MASK = re.compile(r"(.+?)(?:-masklabel|[-_.]mask)", re.IGNORECASE)
_BESIDE = re.compile(rf"{MASK.pattern}|(.+)-condlabel", re.IGNORECASE)  # what is not to be learned as a picture

Say = Callable[[str], None]  #: takes a sentence for the person in front of the screen


@dataclass(frozen=True)
class Example:
    """A picture to learn from.

    caption: what is said of it, None where nothing is. digest: its SHA-256, hex. size: in pixels as
    people see it. animated: it is the first of several. repeats: how often an epoch shows it. mask: a picture of the
    same proportions, white where it counts.
    """

    path: Path
    caption: str | None
    digest: str
    size: Size
    animated: bool = False
    repeats: int = 1
    mask: Path | None = None


def read_folder(
    folder: Path,
    *,
    option: str = "--instance_data_dir",
    distinct: bool = False,
    without: Container[str] = (),
    say: Say = lambda text: None,
) -> list[Example]:
    """The pictures lying in `folder`, sorted by name, each decoded once to know that it is whole.

    Raises Refusal with every fault: whatever would be skipped in silence elsewhere is named here, or told to `say`.
    With `distinct` a folder that holds one picture many times over is a fault too. `option`: what the person typed to
    name the folder. `without`: names that are passed over.
    """
    files, folders = listed(folder, option)
    files = [file for file in files if file.name not in without]
    pictures = [file for file in files if is_picture(file)]
    if not pictures:
        raise Refusal(_no_pictures(folder, files, folders, option))
    said: dict[Path, Path] = {}
    faults = [
        Fault(str(file), "not a picture", FITS, "move it out of the folder")
        for file in files
        if file.suffix.lower() not in SUFFIXES | captions.SUFFIXES | COMPANIONS
    ]
    faults += [_passed_over(inner, count) for inner, count in _deeper(folders)]
    faults += _masks(pictures)
    try:
        said, idle = captions.beside(pictures, [file for file in files if file.suffix.lower() in captions.SUFFIXES])
        tell(say, "captions that fit no picture by name, not used", idle)
    except Refusal as refusal:
        faults += refusal.faults
    examples = []
    for picture in pictures:
        try:
            examples.append(_example(picture, said.get(picture)))
        except Refusal as refusal:
            faults += refusal.faults
    refuse_if(faults)
    if distinct:
        refuse_if(_all_alike(examples, option))
    empty = [said[each.path] for each in examples if each.path in said and each.caption is None]
    tell(say, "empty, as if there were no caption", empty)
    tell(say, "not read for captions", [file for file in files if file.suffix.lower() == ".json"])
    tell(say, "folders of captions, not read: they belong beside the pictures", list(_texts(folders)))
    return examples


def read_picture(path: Path, caption: str | None) -> Example:
    """The picture at `path`, decoded once to know that it is whole. Raises Refusal as `open_picture`."""
    size = Size.from_pillow(open_picture(path).size)
    return Example(path, caption or None, digest(path), size, is_animated(path))


def digest(path: Path) -> str:
    """The SHA-256 of a picture's bytes, in hex. Raises Refusal where it cannot be read."""
    with text_files.opened(path, FITS, MOST_BYTES) as file:
        return hashes.of_stream(file)


def unchanged(example: Example) -> Image.Image:
    """The picture of an example. Raises Refusal where it is another by now: kept, it would pass for the first."""
    image = open_picture(example.path)
    if digest(example.path) != example.digest:
        found, do = "it changed while the training began", "run the same command again"
        raise Refusal(Fault(str(example.path), found, "pictures that stay as they are", do))
    return image


def is_picture(file: Path) -> bool:
    """Does its suffix say that it is a picture?"""
    return file.suffix.lower() in SUFFIXES


def tell(say: Say, what: str, files: Sequence[Path]) -> None:
    """Say something of `files`, where there are any."""
    if files:
        few = ", ".join(file.name for file in files[:4]) + (f" and {len(files) - 4} more" if len(files) > 4 else "")
        say(f"{what}: {few}")


def listed(folder: Path, option: str) -> tuple[list[Path], list[Path]]:
    """Files and folders in `folder` that are not hidden, sorted by name."""
    fits = "a folder of pictures"
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
        seen = [each for each in entries if not each.name.startswith(".") and each.name.lower() not in LITTER]
        files, folders = [each for each in seen if not each.is_dir()], [each for each in seen if each.is_dir()]
    except FileNotFoundError:
        do = "name the folder that the pictures lie in"
        raise Refusal(Fault(option, f"{folder}: no such folder", fits, do)) from None
    except NotADirectoryError:
        do = "name the folder that the pictures lie in"
        raise Refusal(Fault(option, f"{folder} is a file", fits, do)) from None
    except (OSError, ValueError) as error:
        found = f"{str(folder)!r} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise Refusal(Fault(option, found, fits, "change its permissions, or choose another")) from None
    refuse_if(_nameless(folder, seen))
    return files, folders


def _nameless(folder: Path, entries: Sequence[Path]) -> Iterator[Fault]:
    """Names that are no text cannot be written down anywhere."""
    for entry in entries:
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            yield Fault(
                str(folder), f"the name {os.fsencode(entry.name)!r} is not UTF-8", "names in UTF-8", "rename it"
            )


def _deeper(folders: Sequence[Path]) -> list[tuple[Path, int]]:
    """Which of `folders` hold pictures, and how many."""
    counted, level = [], list(folders)
    visited = {folder.parent.resolve() for folder in folders}
    for _ in range(DEEPEST):
        below: list[Path] = []
        for folder in level:
            if len(visited) > MOST_FOLDERS or folder.resolve() in visited:  # a link may lead back
                continue
            visited.add(folder.resolve())
            try:
                files, inner = listed(folder, "")
            except Refusal:  # nobody asked for this one
                continue
            if any(file.name == RUN for file in files):
                continue
            counted.append((folder, sum(map(is_picture, files))))
            below += inner
        level = below
    return [(folder, count) for folder, count in counted if count]


def _texts(folders: Sequence[Path]) -> Iterator[Path]:
    """Which of `folders` hold captions."""
    for folder in folders:
        with suppress(Refusal):
            if any(file.suffix.lower() in captions.SUFFIXES for file in listed(folder, "")[0]):
                yield folder


def _example(picture: Path, caption: Path | None) -> Example:
    """Raises Refusal with the faults of both files together."""
    text, found = all_or_refuse(
        lambda: captions.read(caption) if caption else None, lambda: read_picture(picture, None)
    )
    return Example(found.path, text or None, found.digest, found.size, found.animated)


def _no_pictures(folder: Path, files: Sequence[Path], folders: Sequence[Path], option: str) -> Fault:
    deeper = _deeper(folders)
    if deeper:
        found = ", ".join(f"{count} in {inner.relative_to(folder)}/" for inner, count in deeper[:5])
        found += ", ..." if len(deeper) > 5 else ""
        repeated = {inner.parent if REPEATED.fullmatch(inner.name) else inner for inner, _ in deeper}
        places = [inner for inner, _ in deeper] if folder in repeated else sorted(repeated)
        do = f"give {option} {places[0]}" if len(places) == 1 else f"give one of them as {option}"
        return Fault(option, f"no pictures in {folder}, but deeper: {found}", "the folder itself", do)
    kinds = Counter(file.suffix.lower() or "without suffix" for file in files)
    found = "only " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) if files else "it is empty"
    named = f" ({', '.join(file.name for file in files[:5])}{', ...' if len(files) > 5 else ''})" if files else ""
    do = "put the pictures there, or name their folder"
    return Fault(option, f"no pictures in {folder}: {found}{named}", f"files with {' '.join(sorted(SUFFIXES))}", do)


def _masks(pictures: Sequence[Path]) -> Iterator[Fault]:
    known = {captions.folded(picture.stem) for picture in pictures}
    for picture in pictures:
        match = _BESIDE.fullmatch(picture.stem)
        if match and captions.folded(name := match[1] or match[2]) in known:
            found = f"by its name a mask of {name}, but it would be learned as a picture"
            do = "move it into a folder of masks, and add --mask_dir" if match[1] else "move it elsewhere"
            yield Fault(str(picture), found, "a folder without masks", do)


def _passed_over(folder: Path, count: int) -> Fault:
    found = f"a folder of {count} pictures beside pictures: they would not be used"
    return Fault(str(folder), found, "all pictures in one folder", "move them up to use them, or elsewhere")


def _all_alike(examples: Sequence[Example], option: str) -> Iterator[Fault]:
    """Equal pixels are the same picture, whatever the files' bytes."""
    first, *others = examples
    if others and all(_same_pixels(first, other) for other in others):
        found = f"{len(examples)} files, but all are the same picture as {first.path.name}"
        yield Fault(option, found, "different pictures", "remove the copies and add others")


def _same_pixels(one: Example, other: Example) -> bool:
    if one.digest == other.digest:
        return True
    return one.size == other.size and open_picture(one.path).tobytes() == open_picture(other.path).tobytes()
