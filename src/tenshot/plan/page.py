"""A plan as one HTML file that needs nothing beside it, and the sheet of what training will see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image

from tenshot.cli.output import shown
from tenshot.core.durations import span
from tenshot.core.html import Html, el, page, section, wide
from tenshot.core.results import Planned
from tenshot.io import png, tensors
from tenshot.plan.options import PlanOptions
from tenshot.plan.pictures import Seen, notes
from tenshot.report.pictures import captioned, picture
from tenshot.train.forecast import Foretold
from tenshot.train.subject_options import Method
from tenshot.train.ways import WAYS

SIZES = ("peak_bytes", "disk_bytes", "file_bytes")
ROOM = {"memory_bytes": "memory", "disk_bytes": "disk"}
COLUMNS = 5  # pictures side by side
HEADS = ("method", "takes", "memory at the peak", "disk", "result", "fits here")


def write(options: PlanOptions, told: Planned, seen: Sequence[Seen], found: Mapping[Method, Foretold | str]) -> None:
    """index.html, sheet.png and plan.json in --out, each whole or not at all."""
    assert options.out
    tensors.write_json(options.out / "plan.json", dict(told))
    png.write_picture(options.out / "sheet.png", sheet(seen), "")
    tensors.write_text(options.out / "index.html", render(options, told, seen, found))


def sheet(seen: Sequence[Seen]) -> Image.Image:
    """Every view of every picture, with what is wrong with it."""
    shown = [(view, _label(each)) for each in seen for view in each.views]
    columns = min(COLUMNS, len(shown))
    rows = [shown[start : start + columns] for start in range(0, len(shown), columns)]
    each = [png.contact_sheet([[view for view, _ in row]], [""], [label for _, label in row]) for row in rows]
    whole = Image.new("RGB", (max(one.width for one in each), sum(one.height for one in each)), "white")
    for number, one in enumerate(each):
        whole.paste(one, (0, sum(before.height for before in each[:number])))
    return whole


def render(options: PlanOptions, told: Planned, seen: Sequence[Seen], found: Mapping[Method, Foretold | str]) -> str:
    title = f"{len(seen)} pictures of {options.noun}: the plan"
    return page(
        title, _hero(options, told, seen, title), _pictures(seen), _methods(told), _phases(found), _commands(told)
    )


def _hero(options: PlanOptions, told: Planned, seen: Sequence[Seen], title: str) -> Html:
    chosen = told["recommended"]
    text = el(
        "div",
        el("p", title, class_="eyebrow"),
        el("h1", WAYS[chosen].title if chosen else "None fits here"),  # type: ignore[index]
        el("div", el("p", told["why"]), class_=f"verdict {'good' if chosen else 'bad'}"),
        *([el("p", el("code", told["commands"][chosen]))] if chosen else []),
        el("p", "Model ", el("b", options.model), " · nothing is trained yet", class_="dim"),
    )
    return el("header", text, el("div", picture(seen[0].views[0], "one of the pictures"), class_="glance"))


def _pictures(seen: Sequence[Seen]) -> Html:
    shown = [(view, _label(each) if view is each.views[0] else "") for each in seen for view in each.views]
    rows = [shown[start : start + COLUMNS] for start in range(0, len(shown), COLUMNS)]
    strips = [captioned([view for view, _ in row], [label for _, label in row]) for row in rows]
    said = [
        el("p", f"{each.example.path.name}: ", el("q", each.example.caption)) for each in seen if each.example.caption
    ]
    wrong = sum(bool(each.faults) for each in seen)
    lead = f"What training will see, cut as it will be cut. {f'{wrong} of {len(seen)} have faults.' if wrong else ''}"
    return section("The pictures", lead, *strips, *said, *(el("p", note) for note in notes(seen)))


def _label(seen: Seen) -> str:
    size = seen.example.size
    return "; ".join((f"{seen.example.path.name}, {size.width}x{size.height}", *seen.faults))


def _methods(told: Planned) -> Html:
    rows = []
    for method, row in told["methods"].items():
        name = el("th", WAYS[method].title, scope="row")  # type: ignore[index]
        if row["seconds"] is None:
            rows.append(el("tr", name, el("td", row["why"], colspan=len(HEADS) - 1)))
            continue
        low, high = row["seconds"]
        sizes = [shown(size, dict(row)[size]) for size in SIZES]
        rows.append(el("tr", name, *(el("td", each) for each in (span(low, high), *sizes, row["why"] or "yes"))))
    heads = el("tr", *(el("th", head, scope="col") for head in HEADS))
    room = " and ".join(f"{shown(name, dict(told)[name])} of {what}" for name, what in ROOM.items())
    lead = (
        "Forecast from a few real steps of each, in a process of its own; class pictures, validation pictures and"
        f" saving are in it. Free here: {room}."
    )
    return section("What each takes", lead, wide(el("table", el("thead", heads), el("tbody", *rows))), class_="whole")


def _phases(found: Mapping[Method, Foretold | str]) -> Html:
    measured = {WAYS[method].title: each for method, each in found.items() if not isinstance(each, str)}
    names = list(dict.fromkeys(name for each in measured.values() for name in each.parts))
    rows = [
        el(
            "tr",
            el("th", title, scope="row"),
            *(el("td", span(*each.parts[n]) if n in each.parts else "–") for n in names),
        )
        for title, each in measured.items()
    ]
    heads = el("tr", el("th", "method"), *(el("th", name, scope="col") for name in names))
    table = wide(el("table", el("thead", heads), el("tbody", *rows)))
    return section("Phase by phase", "At least and at most.", table, class_="whole") if rows else Html("")


def _commands(told: Planned) -> Html:
    rows = [
        el("div", el("dt", WAYS[method].title), el("dd", el("code", words)))  # type: ignore[index]
        for method, words in told["commands"].items()
    ]
    return section("Commands", "Each does what was forecast.", el("dl", *rows))


def _phase(found: Foretold, name: str) -> str:
    return span(*found.parts[name]) if name in found.parts else "–"
