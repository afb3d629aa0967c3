"""The ways in which people lay out pictures with captions: all are read, and none is guessed.

- pictures, each with a text file of the same name beside it or without;
- metadata.jsonl or metadata.csv with `file_name` and a caption column (the imagefolder of Hugging Face `datasets`);
- folders named like `10_az baby`: ten repeats, and the rest of the name is the caption (kohya).
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from tenshot.errors import Fault, Refusal, refuse_if
from tenshot.files.pictures import SUFFIXES, Example, read_folder, read_picture, size_of

METADATA = ("metadata.jsonl", "metadata.csv")
REPEATED = re.compile(r"(\d+)_(.+)")
TRAIN = "train"  # the split that the imagefolder layout calls so


def read(folder: Path, *, option: str, column: str = "text", masks: Path | None = None) -> list[Example]:
    """The pictures of `folder` in whichever of the layouts it has. Raises Refusal with every fault.

    option: what the person typed to name the folder. column: the captions' column in metadata. masks: a folder with a
    mask for pictures by their names.
    """
    place = folder / TRAIN if _only_a_split(folder) else folder
    table = next((each / name for each in (folder, place) for name in METADATA if (each / name).is_file()), None)
    if table:
        examples = _from_table(table, column)
    elif repeated := _repeated(place):
        examples = _from_folders(repeated, place, option)
    else:
        examples = read_folder(place, option=option)
    return examples if masks is None else _masked(examples, masks)


def _only_a_split(folder: Path) -> bool:
    return (folder / TRAIN).is_dir() and not any(each.suffix.lower() in SUFFIXES for each in folder.iterdir())


def _repeated(folder: Path) -> list[tuple[Path, int, str]]:
    """The folders called like `10_az baby`, with the number and the words."""
    inner = sorted(each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []
    found = [(each, REPEATED.fullmatch(each.name)) for each in inner]
    return [(each, int(match[1]), match[2].strip()) for each, match in found if match]


def _from_folders(repeated: Sequence[tuple[Path, int, str]], place: Path, option: str) -> list[Example]:
    examples: list[Example] = []
    known = {each for each, _, _ in repeated}
    faults = [_beside(each) for each in sorted(place.iterdir()) if each not in known and _counts(each)]
    for inner, repeats, words in repeated:
        if not repeats:
            faults.append(Fault(str(inner), "0 repeats: its pictures would never be used", "1 or more", "rename it"))
            continue
        try:
            found = read_folder(inner, option=option)
        except Refusal as refusal:
            faults += refusal.faults
            continue
        examples += [replace(each, caption=each.caption or words, repeats=repeats) for each in found]
    refuse_if(faults)
    return examples


def _counts(entry: Path) -> bool:
    """Would someone expect this to be learned?"""
    pictures = entry.iterdir() if entry.is_dir() else [entry]
    return not entry.name.startswith(".") and any(each.suffix.lower() in SUFFIXES for each in pictures)


def _beside(entry: Path) -> Fault:
    kind = "a folder of pictures" if entry.is_dir() else "a picture"
    found = f"{kind} beside folders like 10_az baby: it would not be used"
    return Fault(str(entry), found, "all pictures in folders with repeats", "rename it, or move it elsewhere")


def _from_table(table: Path, column: str) -> list[Example]:
    faults: list[Fault] = []
    examples = []
    for number, row in _rows(table):
        where = f"{table}, line {number}"
        wrong = list(_row_faults(row, column, where, table.parent))
        faults += wrong
        if wrong:
            continue
        try:
            examples.append(read_picture(table.parent / row["file_name"], str(row[column]).strip() or None))
        except Refusal as refusal:
            faults += refusal.faults
    faults += _unlisted(table.parent, {each.path for each in examples}) if not faults else []
    if not examples and not faults:
        do = "add a line for every picture, or remove the file"
        faults.append(Fault(str(table), "no line", f"lines with file_name and {column}", do))
    refuse_if(faults)
    return examples


def _rows(table: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Line numbers and rows. Raises Refusal where a line cannot be read."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        found = f"cannot be read: {error}"
        raise Refusal(Fault(str(table), found, "UTF-8 text", "save it again with UTF-8 encoding")) from None
    if table.suffix == ".csv":
        yield from enumerate(csv.DictReader(io.StringIO(text, newline="")), 2)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            fits, do = '{"file_name": ..., ...}', "make it one object, with no comma after it"
            raise Refusal(Fault(f"{table}, line {number}", f"no JSON: {error}", fits, do)) from None
        yield number, row if isinstance(row, dict) else {}


def _row_faults(row: Mapping[str, Any], column: str, where: str, folder: Path) -> Iterator[Fault]:
    name = row.get("file_name")
    if not isinstance(name, str) or not name:
        fits, do = "the picture's path, from the folder of this file", "add file_name (in a CSV file it is a column)"
        yield Fault(where, "no file_name", fits, do)
        return
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        do = "put the picture into the folder, and write its path from there"
        yield Fault(where, f"file_name {name!r} leads out of {folder}", "a path inside the folder", do)
    if not isinstance(row.get(column), str):
        others = ", ".join(key for key in row if key and key != "file_name") or "none"
        do = "name the column with --caption_column"
        yield Fault(where, f"no caption in column {column!r} (other columns: {others})", "a text", do)


def _unlisted(folder: Path, listed: set[Path]) -> Iterator[Fault]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path not in listed:
            do = "add a line for it, or move it elsewhere"
            yield Fault(str(path), "stands in no line of the metadata: it would not be used", "every picture", do)


def _masked(examples: Sequence[Example], folder: Path) -> list[Example]:
    """The same examples with the masks in `folder` that bear their names."""
    masks = {each.path.stem: each.path for each in read_folder(folder, option="--mask_dir")}
    refuse_if(_mask_faults(examples, masks))
    return [replace(each, mask=masks.get(each.path.stem)) for each in examples]


def _mask_faults(examples: Sequence[Example], masks: Mapping[str, Path]) -> Iterator[Fault]:
    known: dict[str, Path] = {}
    for each in examples:
        if each.path.stem in masks and each.path.stem in known:
            found = f"the mask {masks[each.path.stem].name} is meant for two pictures, {known[each.path.stem]} too"
            yield Fault(str(each.path), found, "pictures with masks under names of their own", "rename one")
        known[each.path.stem] = each.path
    for name, mask in sorted(masks.items()):
        if name not in known:
            yield Fault(str(mask), "a mask for no picture", "masks by the names of their pictures", "rename it")
            continue
        (width, height), (wide, high) = size_of(known[name]), size_of(mask)
        if abs(width * high - wide * height) > 0.01 * width * high:
            found = f"{wide}x{high}, but its picture is {width}x{height}"
            yield Fault(str(mask), found, "a mask of its picture's proportions", f"make it {width}x{height}")
