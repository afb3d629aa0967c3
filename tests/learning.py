"""docs/learning.json, what was measured of trainings, and the tables of docs/learning.md, which are made of it.

python -m tests.learning makes them anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import TypedDict

import diffusers
import torch
from filelock import FileLock

from tenshot.core.shipped import ASSETS
from tenshot.io import hashes, tensors

RECORD = Path(__file__).parent.parent / "docs" / "learning.json"
TOOLS = ("tenshot", "diffusers")
TUNED_ON = {"doughnut", "penguin"}  # subjects that settings were chosen by, which are not reported
SHOWN = {  # figure -> what the page calls it
    "likeness": "likeness",
    "margin": "margin",
    "identified": "nearest of 16",
    "background": "background",
    "style": "style",
    "view": "view",
    "prompt": "prompt",
    "pres": "PRES",
    "div": "DIV",
    "loss": "loss",
    "copying": "copying",
    "cpu_seconds": "CPU s",
    "memory_gb": "GB",
}
Settings = Mapping[str, Mapping[str, object]]


class Measured(TypedDict):
    """cell: tool, row, subject, noun, seed. figures: of the pictures that were drawn, and of the training."""

    cell: dict[str, object]
    figures: dict[str, float]


class Record(TypedDict):
    model: str
    versions: dict[str, str]
    settings: dict[str, dict[str, object]]
    cells: list[Measured]


def read(place: Path, settings: Settings) -> Record:
    """What of the record is of the model that ships, and of these settings."""
    told = json.loads(place.read_text()) if place.is_file() else {}
    same = told.get("model") == hashes.of_model(ASSETS / "pocket")
    kept = [row for row in settings if same and told["settings"].get(row) == settings[row]]
    return {
        "model": hashes.of_model(ASSETS / "pocket"),
        "versions": {"diffusers": diffusers.__version__, "torch": str(torch.__version__)},
        "settings": {row: dict(of) for row, of in settings.items()},
        "cells": [each for each in told.get("cells", []) if each["cell"]["row"] in kept],
    }


def add(place: Path, settings: Settings, measured: Measured) -> None:
    """Into the record, and onto the page beside it."""
    with FileLock(f"{place}.lock"):
        record = read(place, settings)
        order = {row: number for number, row in enumerate(settings)}
        cells = sorted([*record["cells"], measured], key=lambda each: (order[str(each["cell"]["row"])], *_key(each)))
        tensors.write_json(place, {**record, "cells": cells})
        write(place.with_suffix(".md"), {**record, "cells": cells})


def _key(measured: Measured) -> tuple[str, ...]:
    cell = measured["cell"]
    return (str(cell["subject"]), str(cell["seed"]), str(cell["tool"]))


def reported(record: Record) -> list[Measured]:
    return [each for each in record["cells"] if each["cell"]["subject"] not in TUNED_ON]


def table(record: Record) -> str:
    """A row for each method and tool: mean over subjects and seeds, standard deviation, how many."""
    lines = [f"| | {' | '.join(SHOWN.values())} | n |", "|" + " --- |" * (len(SHOWN) + 2)]
    for row, tool, figures in _rows(record, reported(record)):
        told = " | ".join(_spread([each[name] for each in figures if name in each]) for name in SHOWN)
        lines.append(f"| {row}, {tool} | {told} | {len(figures)} |")
    return "\n".join(lines)


def by_subject(record: Record) -> str:
    """Margin and nearest-of-16 of every subject, ours: means over seeds."""
    cells = [each for each in reported(record) if each["cell"]["tool"] == TOOLS[0]]
    names = sorted({str(each["cell"]["subject"]) for each in cells})
    lines = [f"| | {' | '.join(names)} |", "|" + " --- |" * (len(names) + 1)]
    for row in record["settings"]:
        of = {
            name: [e["figures"] for e in cells if (e["cell"]["row"], e["cell"]["subject"]) == (row, name)]
            for name in names
        }
        if any(of.values()):
            lines.append(f"| {row} | {' | '.join(_margin(of[name]) for name in names)} |")
    return "\n".join(lines)


def _margin(figures: Sequence[Mapping[str, float]]) -> str:
    if not figures:
        return ""
    margin, nearest = (mean(each[name] for each in figures) for name in ("margin", "identified"))
    return f"{margin:+.2f}, {100 * nearest:.0f} %"


def _rows(record: Record, cells: Sequence[Measured]) -> Iterator[tuple[str, str, list[dict[str, float]]]]:
    for row, tool in product(record["settings"], TOOLS):
        figures = [e["figures"] for e in cells if (e["cell"]["row"], e["cell"]["tool"]) == (row, tool)]
        if figures:
            yield row, tool, figures


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{mean(values):.3g}" + (f" ± {stdev(values):.2g}" if values[1:] else "")


def settings(record: Record) -> str:
    told = {row: " ".join(f"--{name}={value}" for name, value in of.items()) for row, of in record["settings"].items()}
    return "\n".join(["| | options of both |", "| --- | --- |", *(f"| {row} | `{of}` |" for row, of in told.items())])


TABLES = {"by method": table, "by subject": by_subject, "settings": settings}


def filled(page: str, record: Record) -> str:
    """The page with each table, between the line that names it and the next empty line, as the record has it."""
    for name, made in TABLES.items():
        page = re.sub(rf"(?<=<!-- {name} -->\n).*?(?=\n\n)", lambda _, made=made: made(record), page, flags=re.S)
    return page


def write(page: Path, record: Record) -> None:
    if page.is_file():
        page.write_text(filled(page.read_text(encoding="utf-8"), record), encoding="utf-8")


if __name__ == "__main__":
    write(RECORD.with_suffix(".md"), json.loads(RECORD.read_text(encoding="utf-8")))
