"""The record of a demonstration, and the names of its picture files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

REAL = "real"
UNTUNED = "untuned"
WITH_PRIOR = "with prior preservation"
WITHOUT_PRIOR = "without prior preservation"


@dataclass(frozen=True)
class Row:
    """One prompt, and for each column (such as "before", "after") the pictures drawn for it from the same seeds."""

    prompt: str
    note: str
    pictures: Mapping[str, Sequence[Image.Image]]


@dataclass(frozen=True)
class Report:
    """Everything a demonstration found.

    contexts have the columns "before" and "after"; class_word has "before" and "after" with and without prior
    preservation. losses: curve name -> (step, loss). measures: row name (REAL, UNTUNED, WITH_PRIOR, WITHOUT_PRIOR) ->
    measure -> value. measure_help: measure -> (short meaning, "higher", "lower" or ""), the measure of the subject
    first and the one of the prompt second: the verdict speaks of these two. A forecast is compared with the fact of
    the same name.
    """

    title: str
    subject: str
    class_noun: str
    instance_prompt: str
    class_prompt: str
    model: str
    given: Sequence[Image.Image]
    class_pictures: Sequence[Image.Image]
    contexts: Sequence[Row]
    class_word: Row
    losses: Mapping[str, Sequence[tuple[int, float]]]
    measures: Mapping[str, Mapping[str, float | None]]
    measure_help: Mapping[str, tuple[str, str]]
    forecast: Mapping[str, str | float]
    facts: Mapping[str, str | float]


def rows(report: Report) -> dict[str, Row]:
    """Every row of generated pictures by the stem of its files."""
    contexts = {f"context-{number}": row for number, row in enumerate(report.contexts, 1)}
    return {**contexts, "class-word": report.class_word}


def columns(stem: str, row: Row) -> dict[str, str]:
    """Column -> stem of its files, no two alike."""
    found: dict[str, str] = {}
    for column in row.pictures:
        slug = name = f"{stem}-{_slug(column)}"
        count = 1
        while name in found.values():
            count += 1
            name = f"{slug}-{count}"
        found[column] = name
    return found


def shelf(report: Report) -> dict[str, Sequence[Image.Image]]:
    """Every picture of the report, by the stem of its file's name."""
    drawn = {
        name: row.pictures[column] for stem, row in rows(report).items() for column, name in columns(stem, row).items()
    }
    return {"given": report.given, "class": report.class_pictures, **drawn}


def file(stem: str, number: int) -> str:
    """The path of a picture from the page; numbers count from 1."""
    return f"pictures/{stem}-{number}.png"


def _slug(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower())[:60].strip("-") or "column"
