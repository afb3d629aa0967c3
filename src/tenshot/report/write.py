"""Writing a demonstration into a folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from tenshot.core.json_types import key
from tenshot.io.images import as_rgb
from tenshot.io.png import contact_sheet
from tenshot.io.tensors import replacing, replacing_folder, write_json, write_text
from tenshot.report.page import render
from tenshot.report.record import Report, Row, columns, file, rows, shelf
from tenshot.report.verdict import improved, value_of, verdict


def write(report: Report, folder: Path) -> Path:
    """Write index.html, pictures/*.png, sheet-*.png and report.json, each whole or not at all; returns index.html."""
    folder = Path(folder)
    page, record, sheets = render(report), _record(report), _sheets(report)
    with replacing_folder(folder / "pictures") as room:
        for stem, pictures in shelf(report).items():
            for number, picture in enumerate(pictures, 1):
                as_rgb(picture).save(room / Path(file(stem, number)).name)
    for name, sheet in sheets.items():
        with replacing(folder / name) as temporary:
            sheet.save(temporary, format="PNG")
    write_json(folder / "report.json", record)
    write_text(folder / "index.html", page)
    return folder / "index.html"


def _sheets(report: Report) -> dict[str, Image.Image]:
    return {
        "sheet-contexts.png": _sheet(report.contexts, f"{report.subject}: before and after"),
        "sheet-class.png": _sheet([report.class_word], f"the class alone: {report.class_prompt}"),
        "sheet-given.png": _grid([report.given], ["given"], report.subject),
    }


def _sheet(rows: Sequence[Row], title: str) -> Image.Image:
    labels = [f"{row.prompt}\n{column}" for row in rows for column in row.pictures]
    return _grid([pictures for row in rows for pictures in row.pictures.values()], labels, title)


def _grid(rows: Sequence[Sequence[Image.Image]], labels: Sequence[str], title: str) -> Image.Image:
    widest = max(map(len, rows), default=0)
    filled = [[*row, *[None] * (widest - len(row))] for row in rows]
    return contact_sheet(filled, labels, [str(number + 1) for number in range(widest)], title=title)


def _record(report: Report) -> dict[str, object]:
    def row(stem: str, row: Row) -> dict[str, object]:
        files = {column: _files(name, row.pictures[column]) for column, name in columns(stem, row).items()}
        return {"prompt": row.prompt, "note": row.note, "pictures": files}

    *contexts, word = (row(*pair) for pair in rows(report).items())
    texts = ("title", "subject", "class_noun", "instance_prompt", "class_prompt", "model")
    return {
        **{name: getattr(report, name) for name in texts},
        "verdict": verdict(report),
        "improved": improved(report),
        "measures": {key(row): {key(n): value_of(report, row, n) for n in of} for row, of in report.measures.items()},
        "measure_help": {
            key(name): {"meaning": text, "better": way} for name, (text, way) in report.measure_help.items()
        },
        "forecast": _plain(report.forecast),
        "facts": _plain(report.facts),
        "given": _files("given", report.given),
        "class_pictures": _files("class", report.class_pictures),
        "contexts": contexts,
        "class_word": word,
        "losses": {
            key(name): {"step": [step for step, _ in curve], "loss": [_finite(loss) for _, loss in curve]}
            for name, curve in report.losses.items()
        },
    }


def _files(stem: str, pictures: Sequence[Image.Image]) -> list[str]:
    return [file(stem, number) for number in range(1, len(pictures) + 1)]


def _plain(told: Mapping[str, str | float]) -> dict[str, str | float | None]:
    """Figures in SI units, under names for programs."""
    factors = {name: 1e9 if name.endswith(", GB") else 1 for name in told}
    return {
        key(name): _finite(value if isinstance(value, str) else value * factors[name]) for name, value in told.items()
    }


def _finite(value: str | float) -> str | float | None:
    """JSON knows neither NaN nor infinity."""
    return value if isinstance(value, str) or math.isfinite(value) else None
