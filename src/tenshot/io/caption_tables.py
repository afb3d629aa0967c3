"""Tables that say what of which picture: the imagefolder of Hugging Face `datasets`, and kohya's JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from tenshot.core.errors import Fault, Refusal
from tenshot.core.json_types import Config
from tenshot.io import captions, text_files
from tenshot.io.image_folder import is_picture, listed

NAMES = ("metadata.jsonl", "metadata.csv")
COLUMN = "text"  # where captions stand unless another column is named
MOST_FAULTS = 50  # told of one table: nobody reads more

Row = tuple[Path, str | None]  #: a picture, and what is said of it


def found(files: Sequence[Path]) -> list[Path]:
    """Those of a folder's files that are tables of captions. Raises Refusal where one is unreadable."""
    return [file for file in files if has_columns(file) or (file.suffix.lower() == ".json" and _of_kohya(file))]


def has_columns(file: Path) -> bool:
    return file.name.lower() in NAMES


def rows(table: Path, column: str, faults: list[Fault]) -> Iterator[Row]:
    """What stands in a table; what is wrong in it goes to `faults`. Raises Refusal where nothing can be read."""
    if not has_columns(table):
        yield from _kohya_rows(table, faults)
        return
    empty = True
    for where, row in _csv_rows(table) if table.suffix.lower() == ".csv" else _json_rows(table):
        empty = False
        wrong = list(_row_faults(row, column, where, table.parent))
        faults += wrong
        if not wrong:
            yield table.parent / row["file_name"], row[column].strip() or None
        if len(faults) >= MOST_FAULTS:
            return
    if empty:
        fits, do = f"lines with file_name and {column}", "add a line for every picture, or remove the file"
        faults.append(Fault(str(table), "no line", fits, do))


def _csv_rows(table: Path) -> Iterator[tuple[str, Config]]:
    text = text_files.text(table, "a table in UTF-8", text_files.TABLE)
    reader = csv.DictReader(io.StringIO(text, newline=""))
    number = 1
    try:
        for row in reader:
            number = reader.line_num
            yield f"{table}, line {number}", row
    except csv.Error as error:
        fits = f"fields of {csv.field_size_limit():,} characters at most, between quotes that end"
        where = f"{table}, line {max(number + 1, reader.line_num)}"
        raise Refusal(Fault(where, f"cannot be read: {error}", fits, "look for a quote too many")) from None


def _json_rows(table: Path) -> Iterator[tuple[str, Config]]:
    for number, line in enumerate(text_files.text(table, "a table in UTF-8", text_files.TABLE).split("\n"), 1):
        if line.strip():
            row = text_files.json_value(
                line, f"{table}, line {number}", '{"file_name": ..., ...}, with no comma after it'
            )
            yield f"{table}, line {number}", row if isinstance(row, dict) else {}


def _row_faults(row: Config, column: str, where: str, folder: Path) -> Iterator[Fault]:
    name = row.get("file_name")
    if not isinstance(name, str) or not name:
        fits, do = "the picture's path, from the folder of this file", "add file_name (in a CSV file it is a column)"
        yield Fault(where, "no file_name", fits, do)
        return
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        do = "put the picture into the folder, and write its path from there"
        yield Fault(where, f"file_name {name[:200]!r} leads out of {folder}", "a path inside the folder", do)
    if not isinstance(row.get(column), str):
        others = ", ".join(key for key in row if key and key != "file_name")[:200] or "none"
        do = "name the column with --caption_column"
        yield Fault(where, f"no caption in column {column!r} (other columns: {others})", "a text", do)
    elif len(row[column]) > text_files.CAPTION:
        yield _long(where, row[column])
    if None in row:  # csv's name for what no column is there for
        found, do = "more fields than the first line has names", "put the caption between quotes"
        yield Fault(where, found, "as many", do)


def _long(where: str, caption: str) -> Fault:
    fits = f"{text_files.CAPTION:,} characters at most; a text encoder reads some hundred"
    return Fault(where, f"a caption of {len(caption):,} characters", fits, "shorten it")


def _of_kohya(file: Path) -> bool:
    """Is it {picture: {"caption": ..., "tags": ...}, ...}?"""
    try:
        value = _kohya(file)
    except Refusal:
        return False  # whatever it is, it is told as a file that is not used
    return bool(value) and all(isinstance(each, dict) and {"caption", "tags"} & each.keys() for each in value.values())


def _kohya(file: Path) -> Config:
    fits = '{"NAME": {"caption": ...}, ...}'
    value = text_files.read_json(file, fits, text_files.TABLE)
    return value if isinstance(value, dict) else {}


def _kohya_rows(table: Path, faults: list[Fault]) -> Iterator[Row]:
    """A key is the path of a picture, on the machine that wrote the table, or its name without the suffix."""
    files, _ = listed(table.parent, str(table.parent))
    exact, alike = captions.by_name({file: file for file in files if is_picture(file)})
    for key, said in _kohya(table).items():
        name = PureWindowsPath(key).name if "\\" in key else PurePosixPath(key).name
        pictures = exact.get(name) or alike.get(captions.folded(name), [])
        texts = [said[part] for part in ("caption", "tags") if said.get(part)]
        where = f"{table}: {key[:200]}"
        if not pictures:
            faults.append(
                Fault(where, "no such picture beside the table", "pictures that are there", "remove the entry")
            )
        elif not all(isinstance(each, str) for each in texts):
            faults.append(Fault(where, "a caption that is no text", "a text", "correct it"))
        elif sum(map(len, texts)) > text_files.CAPTION:
            faults.append(_long(where, ", ".join(texts)))
        else:
            for picture in pictures:
                yield picture, ", ".join(map(str.strip, texts)) or None
        if len(faults) >= MOST_FAULTS:
            return
