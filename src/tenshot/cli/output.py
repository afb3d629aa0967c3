"""How a command answers: as one JSON object on stdout, or in words (the result on stdout, the rest on stderr)."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TypeGuard

from tenshot.core.durations import span
from tenshot.core.errors import Refusal

WIDEST = 110  # signs in a line of a table


class Unheard(Exception):
    """stdout takes nothing more. nobody_reads: its reader went away, as head does; else there is no room."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.nobody_reads = error.errno in (errno.EPIPE, errno.EINVAL)  # the latter on Windows


class Outlet:
    """talks: False in all processes but the first, which then say nothing but what nobody foresaw.

    Whatever the terminal's encoding, and whatever is in a file's name, everything can be said: what has no sign there
    is escaped.
    """

    def __init__(self, as_json: bool, talks: bool = True) -> None:
        self.as_json, self.talks, self.closed = as_json, talks, sys.stdout is None
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:  # closed, as `>&-` leaves it
                setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
            with suppress(AttributeError, OSError):
                getattr(sys, name).reconfigure(errors="backslashreplace")

    def result(self, result: Mapping[str, object]) -> None:
        if not self.talks:
            return
        if self.as_json:
            self._tell(to_json(result))
            return
        tables = {name: value for name, value in result.items() if _is_table(value)}
        rows = [(in_words(name), value) for name, value in _flat({n: v for n, v in result.items() if n not in tables})]
        width = max((len(name) for name, _ in rows), default=0)
        bold = ("\x1b[1m", "\x1b[0m") if sys.stdout.isatty() else ("", "")
        told = [line for name, value in tables.items() for line in (*_table(in_words(name), value, bold), "")]
        self._tell("\n".join([*told, *(f"{name.ljust(width).join(bold)}  {value}" for name, value in rows)]))

    def refusal(self, refusal: Refusal) -> None:
        count = len(refusal.faults)
        lines = [_coloured(f"refused: {'1 fault' if count == 1 else f'{count} faults'}", "1;31")]
        for fault in refusal.faults:
            first, *rest = str(fault).splitlines()
            head = _coloured(fault.where, "1") + _coloured(first.removeprefix(fault.where), "31")
            lines += [f"  {head}", *(f"  {line}" for line in rest)]
        self._answer(refusal.as_json(), "\n".join(lines))

    def stopped(self, why: str) -> None:
        text = why if why.startswith("stopped") else f"stopped: {why}"
        self._answer({"error": "cancelled", "message": why}, _coloured(text, "33"))

    def failed(self, error: Exception) -> None:
        """An error nobody foresaw: its traceback on stderr."""
        self.talks = True
        told = "".join(traceback.format_exception(error)).rstrip()
        self._answer({"error": "failed", "message": f"{type(error).__name__}: {error}"}, told)

    def text(self, text: str) -> None:
        """Raises Unheard where it cannot be told."""
        self._tell(text)

    def _answer(self, answer: Mapping[str, object], text: str) -> None:
        if not self.talks:
            return
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)
        if self.as_json:
            self._tell(to_json(answer))

    def _tell(self, text: str) -> None:
        with _listened_to():
            if self.closed:
                raise OSError(errno.EBADF, "it is closed")
            print(text, flush=True)


@contextmanager
def _listened_to() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        with suppress(OSError, ValueError):  # what is still in the buffer must not fail again at the exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        unheard = Unheard(error)
        if not unheard.nobody_reads:
            with suppress(OSError):
                print(f"the result could not be written to stdout: {error.strerror}", file=sys.stderr, flush=True)
        raise unheard from None


def _coloured(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if sys.stderr.isatty() and "NO_COLOR" not in os.environ else text


def to_json(value: Mapping[str, object]) -> str:
    """One line of ASCII; paths as text, numbers that JSON cannot hold as "NaN" and "Infinity"."""
    return json.dumps(_plain(value), allow_nan=False)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def _is_table(value: object) -> TypeGuard[Mapping[str, Mapping[str, object]]]:
    """Is it a map of several rows with the same columns?"""
    rows = [*value.values()] if isinstance(value, Mapping) else []
    maps = [row for row in rows if isinstance(row, Mapping) and row]
    return len(rows) > 1 and len(maps) == len(rows) and all(row.keys() == maps[0].keys() for row in maps)


def _table(title: str, rows: Mapping[str, Mapping[str, object]], bold: tuple[str, str]) -> Iterator[str]:
    """A line for each row; where that is too wide, a line for each column."""
    columns = list(next(iter(rows.values())))
    lines = [[title, *map(in_words, columns)]]
    lines += [[str(name), *(_cell(key, row[key]) for key in columns)] for name, row in rows.items()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if sum(widths) + 2 * len(widths) > WIDEST and len(lines) < len(columns):
        lines = [[*line] for line in zip(*lines, strict=True)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        told = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        yield told if number else told.join(bold)


def _cell(key: str, value: object) -> str:
    if isinstance(value, list | tuple) and not _is_span(key, value):
        return ", ".join(map(str, value))
    return shown(key, value)


def _is_span(key: str, value: object) -> bool:
    """Seconds, at least and at most?"""
    return isinstance(value, list | tuple) and len(value) == 2 and bool(_SECONDS.search(key))


def _flat(value: Mapping[str, object], above: str = "") -> Iterator[tuple[str, str]]:
    for key, each in value.items():
        key = str(key)  # a map's may be numbers
        name = f"{above}{key}"
        if isinstance(each, Mapping):
            yield from _flat(each, f"{name}.")
        elif isinstance(each, list | tuple) and any(isinstance(item, Mapping) for item in each):
            yield from _flat({str(number): item for number, item in enumerate(each, 1)}, f"{name}.")
        elif key == "next" and isinstance(each, list | tuple):  # commands, to be copied one by one
            yield from ((name, str(item)) for item in each)
        elif isinstance(each, list | tuple) and not _is_span(key, each):
            yield name, ", ".join(shown(name, item) for item in each)
        else:
            yield name, shown(name, each)


def in_one_line(figures: Mapping[str, object]) -> str:
    return "  ".join(f"{in_words(name)} {shown(name, value)}" for name, value in figures.items())


def in_words(name: str) -> str:
    """A key as a person reads it; its unit stands with the number."""
    return re.sub("_(bytes|seconds)$", "", name.replace("_bytes_", "_")).replace("_", " ") or name


_SECONDS = re.compile(r"(^|[._])(?<!speedup_by_cpu_)seconds([._]|$)")  # a ratio of seconds has no unit


def shown(key: str, value: object) -> str:
    """A figure with the unit that its key names, or that of the map which it stands in."""
    if isinstance(value, list | tuple) and _is_span(key, value):
        return span(*value)
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    if "bytes" in key and isinstance(value, int | float):
        if 0 < value < 1e5:
            return f"{value / 1e3:.1f} kB"
        return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"
    if _SECONDS.search(key) and isinstance(value, int | float):
        return f"{value:.4g} s"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
