"""Help as text: what must be given comes first, and no option's name is ever cut."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import tenshot
from tenshot.cli import verbs
from tenshot.cli.verbs import Name
from tenshot.core.option_text import spell

if TYPE_CHECKING:
    from tenshot.core.options import Entry, Options

JSON = "Answer with one JSON object on stdout, refusals too."
NOTE = "A flag --FLAG is turned off with --no-FLAG. Names may be written with dashes or underscores."
MODELS = ("model", "pretrained_model_name_or_path", "sd_model")  #: options that name what a verb works on
_METAVARS = {"integer": "INT", "number": "NUMBER", "string": "TEXT", "object": "NAME=VALUE..."}
_COLUMN = 32  # where descriptions begin
Row = tuple[str, str]


def of_verb(path: Name, kind: type[Options]) -> str:
    """What a verb does and takes."""
    from tenshot.core.options import entries

    known = entries(kind)
    alone = " ".join(name.upper() if known[name].needed else f"[{name.upper()}]" for name in kind.words)
    usage = " ".join(filter(None, ["Usage: tenshot", *path, alone, "[OPTIONS]"]))
    common = [
        *((f"--{name} FILE", each.help) for name, each in kind.recipes.items()),
        ("--json", JSON),
        ("--help, -h", "Show this."),
    ]
    sections = [*_sections(kind, known, _others(kind)), ("Everywhere", common)]
    notes = [NOTE]
    if kind.elsewhere:
        notes.append("Options of other programs' training commands that need nothing here are taken, with a line why.")
    return _text(usage, verbs.VERBS[path].help, sections, notes)


def of_group(path: Name) -> str:
    """What there is at a level of the table."""
    depth = len(path)
    rows: dict[str, str] = {}
    for each, verb in verbs.VERBS.items():
        if each[:depth] == path:
            name = each[: depth + 1]
            rows.setdefault(name[-1], verb.help if name == each else verbs.GROUPS.get(name, ""))
    usage = " ".join(["Usage: tenshot", *path, "VERB [OPTIONS]"])
    common = [("--help, -h", "Show this, or a verb's options.")]
    if not path:
        shells = "Print what lets the shell complete verbs and options, and where to put it."
        common += [("--version", "Show the version."), ("--json", JSON), ("--show-completion", shells)]
    return _text(
        usage, verbs.GROUPS.get(path, tenshot.__doc__ or ""), [("Verbs", list(rows.items())), ("Options", common)], []
    )


def metavar(entry: Entry) -> str:
    if entry.flag:
        return ""
    if "metavar" in entry.schema:
        return str(entry.schema["metavar"])
    if entry.many:
        items = [each.get("items", {}) for each in entry.alternatives]
        return (
            "PATH..." if "path" in items[0].get("format", "") else f"{_METAVARS.get(items[0].get('type'), 'VALUE')}..."
        )
    if entry.choices:
        return "CHOICE"
    if "path" in entry.form:
        return "PATH"
    return next((word for kind, word in _METAVARS.items() if kind in entry.kinds), "VALUE")


def _others(kind: type[Options]) -> Mapping[str, list[str]]:
    """Name here -> the names that other programs have for it."""
    found: dict[str, list[str]] = {}
    for other, name in kind.also.items():
        found.setdefault(name, []).append(f"--{other}")
    return found


def _sections(
    kind: type[Options], known: Mapping[str, Entry], others: Mapping[str, list[str]]
) -> Iterator[tuple[str, list[Row]]]:
    needed = {name for name, entry in known.items() if entry.needed}
    first = needed | ({*MODELS, *kind.words} & known.keys())
    order = [*(name for name in known if name in needed), *(name for name in known if name in first - needed)]
    yield (
        "Needed, and the model" if needed else "The model",
        [_row(known[name], others.get(name, ())) for name in order],
    )
    rest = [entry for name, entry in known.items() if name not in first]
    for section in dict.fromkeys([kind, *(entry.section for entry in rest)]):
        rows = [_row(entry, others.get(entry.name, ())) for entry in rest if entry.section is section]
        if rows:
            title = (section.__doc__ or section.__name__).strip().splitlines()[0].rstrip(".")
            yield "Options" if section is kind else title, rows


def _row(entry: Entry, others: Sequence[str]) -> Row:
    """The name; the description, what narrows the type, the default, and what else it may be called."""
    told = not entry.needed and entry.default not in (None, (), [], {}, "") and entry.default is not False
    facts = [
        "needed" if entry.needed else "",
        entry.limits,
        f"default {spell(entry.default)}" if told else "",
        f"also {', '.join(others)}" if others else "",
    ]
    text = f"{entry.description} ({'; '.join(filter(None, facts))})" if any(facts) else entry.description
    return f"--{entry.name} {metavar(entry)}".rstrip(), text


def _text(usage: str, about: str, sections: Iterable[tuple[str, list[Row]]], notes: Sequence[str]) -> str:
    width = max(40, min(shutil.get_terminal_size().columns, 120))
    bold = ("\x1b[1m", "\x1b[0m") if sys.__stdout__ is not None and sys.__stdout__.isatty() else ("", "")
    lines = [*_wrapped(usage, width, "       "), "", *_wrapped(about, width)]
    for title, rows in sections:
        lines += ["", title.join(bold)]
        for name, description in rows:
            lines += _described(name, description, width, bold)
    for note in notes:
        lines += ["", *_wrapped(note, width)]
    return "\n".join(lines)


def _described(name: str, description: str, width: int, bold: tuple[str, str]) -> Iterator[str]:
    """A name and its description beside it, or below it where there is no room. The name is not broken."""
    column = _COLUMN if width >= 80 else 6
    told = _wrapped(description, width - column)
    shown = f"  {name.join(bold)}"
    if len(name) + 3 < column and told:
        yield shown + " " * (column - len(name) - 2) + told.pop(0)
    else:
        yield shown
    for line in told:
        yield " " * column + line


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
