"""The door for files from outside: nothing that comes through it hangs, grows without end, or is no text."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tenshot.core.errors import Refusal
from tenshot.io import dataset, text_files
from tenshot.io.images import open_picture
from tests import tiny


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        os.chdir(path.parent)  # its name may not be long
        made.bind(path.name)


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _long(path: Path) -> None:
    path.write_bytes(b"x" * 5_000_000)


THINGS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a device without end": lambda path: path.symlink_to("/dev/zero"),
    "a device without content": lambda path: path.symlink_to("/dev/null"),
    "a socket": _socket,
    "a loop": _loop,
    "a folder": Path.mkdir,
    "a long file": _long,
    "a long file that does not know its length": lambda path: path.symlink_to("/proc/self/smaps"),
}


@pytest.mark.parametrize("suffix", ["txt", "png", "caption"])
@pytest.mark.parametrize("thing", THINGS)
def test_what_is_no_file_is_refused_by_name(thing: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    folder = tiny.pictures(tmp_path / "own", 1)
    path = folder / (f"picture-0.{suffix}" if suffix != "png" else "another.png")
    THINGS[thing](path)
    if thing == "a folder" and suffix != "png":
        assert len(dataset.read(folder, option="")) == 1  # an empty folder, whatever its name, loses nothing
        return
    if thing == "a folder":
        path = path / "another.png"
        path.write_bytes(b"")
    with pytest.raises(Refusal) as caught:
        dataset.read(folder, option="")
    assert {Path(fault.where) for fault in caught.value.faults} <= {path, path.parent}


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
@pytest.mark.parametrize("thing", [each for each in THINGS if each != "a folder"])
def test_tables_too(thing: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(text_files, "TABLE", 4_000_000)
    THINGS[thing](tiny.pictures(tmp_path / "own", 1) / name)
    with pytest.raises(Refusal, match=name):
        dataset.read(tmp_path / "own", option="")


@pytest.mark.parametrize("content", [
    "Größe".encode("utf-16"),
    "Größe".encode("latin-1"),
    "\ud800".encode("utf-8", "surrogatepass"),
    b"a\0b",
    b"x" * 70_000,
], ids=["utf-16", "latin-1", "surrogate", "nul", "long"])  # fmt: skip
def test_captions_that_are_no_text(content: bytes, tmp_path: Path):
    (tiny.pictures(tmp_path, 1) / "picture-0.txt").write_bytes(content)
    with pytest.raises(Refusal, match=r"picture-0\.txt"):
        dataset.read(tmp_path, option="")


def line(**fields: object) -> str:
    return json.dumps({"file_name": "picture-0.png", "text": "a cat"} | fields)


JSONL = {
    "a huge number": line().replace('"a cat"', "9" * 6000),
    "an infinite number": line().replace('"a cat"', "1e999"),
    "a lone surrogate": line(text="\ud800"),
    "a lone surrogate in a name": line(file_name="\udfff.png"),
    "a lone surrogate elsewhere": line(other="\ud800"),
    "nul in a name": line(file_name="picture-0.png\0"),
    "nul in a caption": line(text="\0"),
    "a long caption": line(text="x" * 200_000),
    "a long name": line(file_name="x" * 5000),
    "a name over 255 bytes": line(file_name="x" * 256 + ".png"),
    "deep": "[" * 20_000,
    "another kind": "[1, 2]",
    "a name of another kind": line(file_name=5),
    "a caption of another kind": line(text=["a cat"]),
    "outside": line(file_name="../picture-0.png"),
    "a folder": line(file_name="."),
    "cut": line()[:-5],
}


@pytest.mark.parametrize("case", JSONL)
def test_lines_of_json_that_are_none(case: str, tmp_path: Path):
    tiny.pictures(tmp_path, 1)
    (tmp_path / "metadata.jsonl").write_text(line() + "\n" + JSONL[case] + "\n")
    with pytest.raises(Refusal) as caught:
        dataset.read(tmp_path, option="")
    (str(caught.value) + "".join(fault.where for fault in caught.value.faults)).encode()  # it can be printed


CSV = {
    "a long caption": b"picture-0.png," + b"x" * 200_000,
    "a long field elsewhere": b'picture-0.png,a cat,"' + b"x" * 200_000 + b'"',
    "an open quote": b'picture-0.png,"' + b"a cat\n" * 50_000,
    "nul": b"picture-0.png,a\0cat",
    "utf-16": "picture-0.png,a cat".encode("utf-16"),
    "too many fields": b"picture-0.png,a cat, red",
    "too few fields": b"picture-0.png",
    "a long name": b"x" * 300 + b".png,a cat",
}


@pytest.mark.parametrize("case", CSV)
def test_lines_of_csv_that_are_none(case: str, tmp_path: Path):
    tiny.pictures(tmp_path, 1)
    head = b"file_name,text,more\n" if "elsewhere" in case else b"file_name,text\n"
    (tmp_path / "metadata.csv").write_bytes(head + CSV[case] + b"\n")
    with pytest.raises(Refusal):
        dataset.read(tmp_path, option="")


def test_a_table_with_a_million_faults_tells_some(tmp_path: Path):
    (tmp_path / "metadata.jsonl").write_text("{}\n" * 1_000)
    with pytest.raises(Refusal) as caught:
        dataset.read(tmp_path, option="")
    assert len(caught.value.faults) == 50


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_byte_order_mark_is_no_part_of_a_table(mark: str, tmp_path: Path):
    tiny.pictures(tmp_path, 1)
    for name, text in (("metadata.csv", "file_name,text\npicture-0.png,a cat\n"), ("metadata.jsonl", line())):
        (tmp_path / name).write_text(mark + text, encoding="utf-8")
        assert [each.caption for each in dataset.read(tmp_path, option="")] == ["a cat"]
        (tmp_path / name).unlink()


def test_names_that_are_no_text_are_refused(tmp_path: Path):
    (tiny.pictures(tmp_path, 1) / "picture-0.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    with pytest.raises(Refusal, match=r"\\xff\.png"):
        dataset.read(tmp_path, option="")


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "/".join("x" * 5000)])
def test_names_that_no_file_can_have(path: str):
    for read in (open_picture, lambda place: dataset.read(place, option="--train_data_dir")):
        with pytest.raises(Refusal):
            read(Path(path))
