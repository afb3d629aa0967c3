"""The one door for files from outside: regular files only, of a bounded size; text is UTF-8. Nothing is waited for."""

from __future__ import annotations

import codecs
import errno
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from tenshot.core.errors import Fault, Refusal, refuse_if

CAPTION = 64 << 10  # bytes; a text encoder reads some hundred
TABLE = 256 << 20
LINES = 16 << 20
JSON = 64 << 20  # a tokenizer's vocabulary has some four million
TENSORS = 1 << 40
DEPTH = 100  # of lists and objects in JSON; a configuration has some four

_SPECIAL = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def opened(path: Path, fits: str, most: int) -> BufferedReader:
    """The regular file at `path`. Raises Refusal where it is none, cannot be read, or has more than `most` bytes.

    A pipe is not waited for, a device not touched. fits: what is wanted there, in words.
    """
    try:
        refuse_if(_unfit(path, path.stat(), fits, most))
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            refuse_if(_unfit(path, os.fstat(handle), fits, most))  # it may be another one by now
            return os.fdopen(handle, "rb")
        except Refusal:
            os.close(handle)
            raise
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise Refusal(Fault(str(path), "no such file", fits, "correct the name")) from None
        do = "change its permissions, or remove it"
        raise Refusal(Fault(str(path), f"cannot be read: {error.strerror or error}", fits, do)) from None
    except ValueError as error:  # a NUL in it, or half a surrogate pair
        raise Refusal(Fault(repr(str(path)), f"no name of a file: {error}", fits, "correct the name")) from None


def _unfit(path: Path, found: os.stat_result, fits: str, most: int) -> Iterator[Fault]:
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for asks, name in _SPECIAL if asks(found.st_mode)), "a device")
        yield Fault(str(path), f"not a file, but {kind}", fits, "move it elsewhere")
    elif found.st_size > most:
        yield Fault(str(path), f"{found.st_size:,} bytes", f"{fits}, of {most:,} bytes at most", "move it elsewhere")


def text(path: Path, fits: str, most: int, utf_16: bool = False) -> str:
    """The text at `path`. Raises Refusal as `opened`, and where it is not UTF-8.

    utf_16: is it taken, too, where a mark at the beginning says so, as Windows' Notepad can save it?
    """
    with opened(path, fits, most) as file:
        content = file.read(most + 1)  # a file may grow, or not know its size
    do = "save it again with UTF-8 encoding"
    if len(content) > most:
        told = f"more than {most:,} bytes"
        raise Refusal(Fault(str(path), told, f"{fits}, of {most:,} bytes at most", "move it elsewhere"))
    try:
        marked = utf_16 and content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        found = content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        told = f"not {'UTF-16' if marked else 'UTF-8'} text: byte {content[error.start]:#04x} at {error.start:,}"
        raise Refusal(Fault(str(path), told, fits, do)) from None
    if "\0" in found:
        raise Refusal(Fault(str(path), "not UTF-8 text: it holds NUL bytes", fits, do))
    return found


def numbered_lines(path: Path, fits: str, most: int = LINES) -> dict[int, str]:
    """The lines of a text by their numbers, from 1; empty ones, and those that begin with #, are none.

    Raises Refusal as `text`, which may be UTF-16.
    """
    lines = enumerate(re.split(r"\r\n?|\n", text(path, fits, most, utf_16=True)), 1)
    return {number: line.strip() for number, line in lines if line.strip() and not line.lstrip().startswith("#")}


def read_json(path: Path, fits: str = "a JSON file", most: int = JSON) -> Any:
    """The value in a JSON file. Raises Refusal as `text` and `json_value`."""
    return json_value(text(path, fits, most), str(path), fits)


def read_object(path: Path, fits: str = "a JSON object", most: int = JSON) -> dict[str, Any]:
    """The mapping in a JSON file. Raises Refusal as `read_json`, and where it holds another kind of value."""
    found = read_json(path, fits, most)
    if isinstance(found, dict):
        return found
    raise Refusal(Fault(str(path), f"holds a {type(found).__name__}", fits, "correct it, or write it again"))


def json_value(written: str, where: str, fits: str) -> Any:
    """What a JSON text says. Raises Refusal where it is none, or says what no text can hold."""
    do = "correct it, or write it again"
    try:
        value = parsed(written)
        if _SURROGATE.search(written) or "\\u0000" in written:
            plain = json.dumps(value, ensure_ascii=False)
            plain.encode()
            if "\\u0000" in plain:
                raise Refusal(Fault(where, "it holds the character NUL", fits, do))
    except UnicodeEncodeError:
        raise Refusal(Fault(where, "half a surrogate pair, which is no character", fits, do)) from None
    except ValueError as error:
        raise Refusal(Fault(where, str(error), fits, do)) from None
    return value


def parsed(written: str | bytes, once: bool = False) -> Any:
    """What a JSON text says. once: no name may stand in an object twice. Raises ValueError, which says why it is none.

    For what nobody has to correct; for all else there is `json_value`.
    """
    try:
        text = written.decode() if isinstance(written, bytes) else written
        value = json.loads(text, object_pairs_hook=_once if once else None)
        deep = _deeper(value, DEPTH)
    except RecursionError:
        deep = True
    except ValueError as error:  # also a number of more digits than Python reads
        raise ValueError(f"no JSON: {error}") from None
    if deep:
        raise ValueError("no JSON that can be read: nested too deeply")
    return value


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise ValueError(f"{twice!r} is in it twice")
    return found


def _deeper(value: object, depth: int) -> bool:
    """Are there lists and objects more than `depth` within each other?"""
    level = [value]
    for _ in range(depth):
        lists = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [part for each in lists for part in each]
    return any(isinstance(each, dict | list) for each in level)
