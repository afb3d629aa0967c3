"""The figures of a bench as tables in Markdown, and as a plot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from tenshot.cli.output import in_words, shown
from tenshot.core.errors import Fault
from tenshot.core.html import Html, el
from tenshot.io.tensors import write_text

_WIDE, _LEFT, _HIGH, _GAP = 760, 230, 22, 8
_SVG = "http://www.w3.org/2000/svg"
_TITLES = {
    "picture": "a picture",
    "control": "a picture with a ControlNet",
    "lora": "a picture with a LoRA",
    "tuned": "a picture of another fine-tune",
}


class Row(TypedDict, total=False):
    """One contender, or one candidate. failed: why it has no figures."""

    task: str
    section: str
    contender: str
    candidate: str
    failed: str
    seconds: float
    speedup: float
    psnr: float
    ssim: float
    error: float
    build_seconds: float
    load_seconds: float
    first_seconds: float
    swap_seconds: float
    peak_memory_bytes: int


class Figures(TypedDict):
    """All that a bench of drawing tells."""

    model: str
    steps: int
    command: str
    machine: Mapping[str, object]
    pictures: list[Row]
    parts: list[Row]


def write(path: Path, told: Figures) -> None:
    """A page of tables at `path`, and the plot of the first task beside it."""
    plot = path.with_suffix(".svg")
    write_text(plot, bars(told))
    write_text(path, "\n".join(page(told, plot.name)) + "\n")


def strangers(path: Path) -> Iterator[Fault]:
    """Files where `write` would write that it has not written: a bench's own are replaced."""
    for each, sign in ((path, b", Euler a, with guidance"), (path.with_suffix(".svg"), b"times as fast as torch")):
        if each.exists() and not (each.is_file() and sign in each.read_bytes()[:2000]):
            yield Fault(
                "--out", f"{each} is not one of a bench's", "a new name, or an earlier bench's", "choose another"
            )


def page(told: Figures, plot: str) -> Iterator[str]:
    machine = told["machine"]
    yield f"# {told['model']}: {told['steps']} steps, Euler a, with guidance"
    yield ""
    yield f"{machine['device']}, {machine['cores']} cores, {machine['threads']} threads, torch {machine['torch']}. "
    yield f"`{told['command']}`"
    yield ""
    yield f"![times as fast as torch in float32]({plot})"
    for task, title in _TITLES.items():
        rows = [row for row in told["pictures"] if row["task"] == task]
        if rows:
            yield from ("", f"## {title[0].upper()}{title[1:]}", "", *table(rows, skip="task"))
    for section in dict.fromkeys(row["section"] for row in told["parts"]):
        rows = [row for row in told["parts"] if row["section"] == section]
        yield from ("", f"## One call: {section}", "", *table(rows, skip="section"))


def table(rows: Sequence[Row], skip: str) -> Iterator[str]:
    """Markdown; the reason of what failed stands in its second column."""
    names = max((list(row) for row in rows), key=len)
    heads = [name for name in names if name not in (skip, "failed")]
    yield f"| {' | '.join(map(in_words, heads))} |"
    yield f"|{' --- |' * len(heads)}"
    for row in rows:
        figures: Mapping[str, object] = row
        told = [shown(name, figures.get(name, "")) for name in heads]
        cells = [figures[heads[0]], row["failed"]] if row.get("failed") else told
        yield f"| {' | '.join(map(str, cells + [''] * (len(heads) - len(cells))))} |"


def bars(told: Figures) -> str:
    """Times as fast as torch in float32, a bar for each contender, as SVG."""
    rows = [row for row in told["pictures"] if row.get("speedup") and row["task"] == told["pictures"][0]["task"]]
    most = max((row["speedup"] for row in rows), default=1)
    high = len(rows) * (_HIGH + _GAP) + 34
    shown = [piece for number, row in enumerate(rows) for piece in _bar(number, row, most)]
    title = el("text", f"{told['model']}: times as fast as torch in float32", x=0, y=16, font_weight="bold")
    style: dict[str, str | float] = {"font_family": "sans-serif", "font_size": 13, "xmlns": _SVG}
    return el("svg", title, *shown, viewBox=f"0 0 {_WIDE} {high}", width=_WIDE, height=high, **style)


def _bar(number: int, row: Row, most: float) -> Iterator[Html]:
    y, wide = 30 + number * (_HIGH + _GAP), row["speedup"] / most * (_WIDE - _LEFT - 60)
    ours = row["contender"].startswith("tenshot")
    yield el("text", row["contender"], x=_LEFT - 10, y=y + 16, text_anchor="end", fill="#666b74")
    yield el("rect", x=_LEFT, y=y, width=round(wide, 1), height=_HIGH, rx=3, fill="#1f6feb" if ours else "#a9b4c2")
    yield el("text", f"{row['speedup']:.2f}", x=_LEFT + wide + 8, y=y + 16, fill="#666b74")
