"""What a demonstration found, as a page for a person, contact sheets, and JSON for a program."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from tenshot.files.images import contact_sheet
from tenshot.files.pictures import as_rgb
from tenshot.files.tensors import replacing, replacing_folder, write_json, write_text

REAL = "real"
UNTUNED = "untuned"
WITH_PRIOR = "with prior preservation"
WITHOUT_PRIOR = "without prior preservation"

_THIN, _MINUS, _NOTHING = "\u202f", "\u2212", "\u2013"  # a space at which no line breaks, a minus, a dash


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


def write(report: Report, folder: Path) -> Path:
    """Write index.html, pictures/*.png, sheet-*.png and report.json, each whole or not at all; returns index.html."""
    folder = Path(folder)
    page, record, sheets = _page(report), _record(report), _sheets(report)
    with replacing_folder(folder / "pictures") as room:
        for stem, pictures in _shelf(report).items():
            for number, picture in enumerate(pictures, 1):
                as_rgb(picture).save(room / f"{stem}-{number}.png")
    for name, sheet in sheets.items():
        with replacing(folder / name) as temporary:
            sheet.save(temporary, format="PNG")
    write_json(folder / "report.json", record)
    write_text(folder / "index.html", page)
    return folder / "index.html"


# --- what the measures say ---------------------------------------------------------------------------------------


def verdict(report: Report) -> tuple[str, ...]:
    """A sentence on the first measure (the subject: did it get better, or plainly not?) and one on the second."""
    said = [_moved(report, measure, judged=number == 0) for number, measure in enumerate(_measures(report)[:2])]
    return tuple(filter(None, said)) or ("Nothing was measured: judge by the pictures.",)


def improved(report: Report) -> bool | None:
    """Whether the first measure moved the right way by 1 % or more; None where that cannot be said."""
    for measure in _measures(report)[:1]:
        before, after = _value(report, UNTUNED, measure), _value(report, WITH_PRIOR, measure)
        direction = report.measure_help.get(measure, ("", ""))[1]
        if before is not None and after is not None and direction:
            return _change(before, after) * (1 if direction == "higher" else -1) > 0
    return None


def _moved(report: Report, measure: str, judged: bool) -> str:
    before, after = _value(report, UNTUNED, measure), _value(report, WITH_PRIOR, measure)
    if before is None or after is None:
        return ""
    change, real = _change(before, after), _value(report, REAL, measure)
    span = f"from {_number(before)} to {_number(after)}{_percent(before, after)}"
    span += "" if real is None else f"; real pictures: {_number(real)}"
    wished = {"higher": 1, "lower": -1}.get(report.measure_help.get(measure, ("", ""))[1])
    name = measure[:1].upper() + measure[1:]
    if not judged or wished is None:
        return f"{name} went {span}."
    if change == 0:
        return f"{name} hardly moved: it went {span}."
    if change == wished:
        return f"{name} {'rose' if wished > 0 else 'fell'} {span}."
    return f"{name} did not {'rise' if wished > 0 else 'fall'}: it went {span}."


def _change(before: float, after: float) -> int:
    """-1, 0 or 1; less than 1 % is no change."""
    if abs(after - before) < 0.01 * abs(before) or after == before:
        return 0
    return 1 if after > before else -1


def _percent(before: float, after: float) -> str:
    if not before:
        return ""
    percent = round(100 * (after - before) / abs(before))
    return f" ({percent:+d}{_THIN}%)".replace("-", _MINUS) if percent else f" (±0{_THIN}%)"


def _measures(report: Report) -> list[str]:
    return list(dict.fromkeys([*report.measure_help, *(name for row in report.measures.values() for name in row)]))


def _value(report: Report, row: str, measure: str) -> float | None:
    value = report.measures.get(row, {}).get(measure)
    return value if value is not None and math.isfinite(value) else None


def _best(report: Report, measure: str) -> set[str]:
    """The rows that are best in `measure`'s direction as far as the page's digits show; none where all are alike."""
    direction = report.measure_help.get(measure, ("", ""))[1]
    values = {row: value for row in report.measures if (value := _value(report, row, measure)) is not None}
    values.pop(REAL, None)
    if not direction or len({_number(value) for value in values.values()}) < 2:
        return set()
    best = _number((max if direction == "higher" else min)(values.values()))
    return {row for row, value in values.items() if _number(value) == best}


def _number(value: str | float | None) -> str:
    """A float with three digits that count, an integer with all of them."""
    if value is None or isinstance(value, str):
        return value or _NOTHING
    if not math.isfinite(value):
        return _NOTHING
    if isinstance(value, int) or abs(value) >= 99.95:
        return f"{value:,.0f}".replace(",", _THIN).replace("-", _MINUS)
    text = f"{value:#.3g}" if abs(value) >= 0.1 or abs(value) < 0.001 else f"{value:.3f}"
    return text.rstrip(".").replace("-", _MINUS)


# --- pictures and JSON -------------------------------------------------------------------------------------------


def _slug(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")


def _rows(report: Report) -> dict[str, Row]:
    """Every row of generated pictures by the stem of its files."""
    contexts = {f"context-{number}": row for number, row in enumerate(report.contexts, 1)}
    return {**contexts, "class-word": report.class_word}


def _shelf(report: Report) -> dict[str, Sequence[Image.Image]]:
    """Every picture of the report, by the stem of its file's name."""
    drawn = {
        f"{stem}-{_slug(column)}": pictures
        for stem, row in _rows(report).items()
        for column, pictures in row.pictures.items()
    }
    return {"given": report.given, "class": report.class_pictures, **drawn}


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
        files = {column: _files(f"{stem}-{_slug(column)}", pictures) for column, pictures in row.pictures.items()}
        return {"prompt": row.prompt, "note": row.note, "pictures": files}

    *contexts, word = (row(*pair) for pair in _rows(report).items())
    texts = ("title", "subject", "class_noun", "instance_prompt", "class_prompt", "model")
    return {
        **{name: getattr(report, name) for name in texts},
        "verdict": verdict(report),
        "improved": improved(report),
        "measures": {row: {name: _value(report, row, name) for name in of} for row, of in report.measures.items()},
        "measure_help": {name: {"meaning": text, "better": way} for name, (text, way) in report.measure_help.items()},
        "forecast": {name: _finite(value) for name, value in report.forecast.items()},
        "facts": {name: _finite(value) for name, value in report.facts.items()},
        "given": _files("given", report.given),
        "class_pictures": _files("class", report.class_pictures),
        "contexts": contexts,
        "class_word": word,
        "losses": {
            name: {"step": [step for step, _ in curve], "loss": [_finite(loss) for _, loss in curve]}
            for name, curve in report.losses.items()
        },
    }


def _files(stem: str, pictures: Sequence[Image.Image]) -> list[str]:
    return [f"pictures/{stem}-{number}.png" for number in range(1, len(pictures) + 1)]


def _finite(value: str | float) -> str | float | None:
    """JSON knows neither NaN nor infinity."""
    return value if isinstance(value, str) or math.isfinite(value) else None


# --- the page ----------------------------------------------------------------------------------------------------


class _Html(str):
    """Text that is markup already; every other text is escaped where it enters the page."""


def _el(tag: str, *content: str, **attributes: str | float) -> _Html:
    """An element. Underscores in attribute names stand for hyphens; one at the end is dropped."""
    given = "".join(f' {k.rstrip("_").replace("_", "-")}="{escape(str(v))}"' for k, v in attributes.items())
    if tag in ("img", "meta"):
        return _Html(f"<{tag}{given}>")
    return _Html(f"<{tag}{given}>{_join(content)}</{tag}>")


def _join(content: Iterable[str]) -> _Html:
    return _Html("".join(part if isinstance(part, _Html) else escape(part) for part in content))


def _page(report: Report) -> str:
    head = _el(
        "head",
        _el("meta", charset="utf-8"),
        _el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        _el("meta", name="color-scheme", content="light dark"),
        _el("title", report.title),
        _el("style", _Html(_STYLE)),
    )
    parts = (_hero, _given, _contexts, _class_word, _losses, _table, _forecast, _facts, _footer)
    body = _el("body", _el("main", *(part(report) for part in parts)))
    return "<!doctype html>\n" + _el("html", head, "\n", body, lang="en") + "\n"


def _section(heading: str, lead: str, *content: str, class_: str = "beside") -> _Html:
    side = _el("div", _el("h2", heading), _el("p", lead), class_="side")
    return _el("section", side, _el("div", *content), class_=class_)


def _picture(stem: str, number: int, alt: str) -> _Html:
    address = quote(f"pictures/{stem}-{number}.png")
    return _el("img", src=address, alt=f"{alt}, picture {number}", width=160, height=160, loading="lazy")


def _strip(stem: str, pictures: Sequence[Image.Image], alt: str) -> _Html:
    shown = (_picture(stem, number, alt) for number in range(1, len(pictures) + 1))
    return _el("div", *shown, class_="strip", style=f"--n:{len(pictures)}")


def _hero(report: Report) -> _Html:
    count = len(report.given)
    tone = {True: "good", False: "bad", None: "open"}[improved(report)]
    text = _el(
        "div",
        _el("p", report.title, class_="eyebrow"),
        _el("h1", f"{report.subject}, taught from {count} picture{'' if count == 1 else 's'}"),
        _el("div", *(_el("p", sentence) for sentence in verdict(report)), class_=f"verdict {tone}"),
        _el("p", "Model ", _el("b", report.model), " · taught as ", _el("q", report.instance_prompt), class_="dim"),
    )
    return _el("header", text, _at_a_glance(report))


def _at_a_glance(report: Report) -> _Html:
    shown = [_figure("given", "given", "one of the pictures given")] if report.given else []
    for row in report.contexts[:1]:
        captions = {"before": f"“{row.prompt}” before", "after": "the same prompt and seed, after"}
        for column in filter(row.pictures.get, row.pictures):
            stem = f"context-1-{_slug(column)}"
            shown.append(_figure(stem, f"{column}: {row.prompt}", captions.get(column, column)))
    return _el("div", *shown, class_="glance")


def _figure(stem: str, alt: str, caption: str) -> _Html:
    return _el("figure", _picture(stem, 1, alt), _el("figcaption", caption))


def _given(report: Report) -> _Html:
    lead = _join(["All it was shown of the subject, with the prompt ", _el("q", report.instance_prompt), "."])
    return _section("The pictures given", lead, _strip("given", report.given, f"given: {report.subject}"))


def _contexts(report: Report) -> _Html:
    lead = "Each column is one seed: only the training lies between the upper and the lower picture."
    return _section("Before and after", lead, *(_card(f"context-{n}", row) for n, row in enumerate(report.contexts, 1)))


def _class_word(report: Report) -> _Html:
    noun = _el("b", report.class_noun)
    why = " turning into the subject is what prior preservation is there to prevent."
    lead = _join(["The class word alone, without the subject. Every ", noun, why])
    shown = [_card("class-word", report.class_word)]
    if report.class_pictures:
        made = _strip("class", report.class_pictures, f"for prior preservation: {report.class_prompt}")
        summary = f"The {len(report.class_pictures)} pictures the untuned model drew of its class to rehearse"
        shown.append(_el("details", _el("summary", summary), made))
    return _section("What became of the class", lead, *shown)


def _card(stem: str, row: Row) -> _Html:
    note = [_el("span", row.note, class_="note")] if row.note else []
    strips = {
        column: _strip(f"{stem}-{_slug(column)}", pictures, f"{column}: {row.prompt}")
        for column, pictures in row.pictures.items()
    }
    lines = [_el("div", _el("h4", column), strip, class_="line") for column, strip in strips.items()]
    return _el("article", _el("h3", _el("q", row.prompt), *note), *lines)


def _table(report: Report) -> _Html:
    if not report.measures:
        return _Html("")
    hints = {"higher": "↑ higher is better", "lower": "↓ lower is better"}
    heads = [_el("th", "pictures")]
    for name in _measures(report):
        meaning, direction = report.measure_help.get(name, ("", ""))
        hint = _el("span", hints.get(direction, ""), class_="hint")
        heads.append(_el("th", name, hint, _el("small", meaning), scope="col"))
    best = {name: _best(report, name) for name in _measures(report)}
    rows = [
        _el("tr", _el("th", row, scope="row"), *(_cell(report, row, name, row in best[name]) for name in best))
        for row in report.measures
    ]
    table = _el("table", _el("thead", _el("tr", *heads)), _el("tbody", *rows), class_="measures")
    lead = f"“{REAL}” are the pictures given, measured alike: a mark to aim at, not a rival."
    return _section("Measured", lead, _wide(table), class_="whole")


def _cell(report: Report, row: str, measure: str, best: bool) -> _Html:
    mark = [_el("span", "best", class_="best")] if best else []
    return _el("td", _number(_value(report, row, measure)), *mark)


def _wide(table: _Html) -> _Html:
    return _el("div", table, class_="scroll", tabindex=0, role="region", aria_label="table")


def _forecast(report: Report) -> _Html:
    if not report.forecast:
        return _Html("")
    heads = _el("tr", _el("th", ""), *(_el("th", name, scope="col") for name in ("forecast", "actual", "difference")))
    rows = []
    for name, value in report.forecast.items():
        fact = report.facts.get(name)
        cells = (_number(value), _number(fact), _difference(value, fact))
        rows.append(_el("tr", _el("th", name, scope="row"), *(_el("td", cell) for cell in cells)))
    table = _el("table", _el("thead", heads), _el("tbody", *rows))
    return _section("Forecast and actual", "Said before the work began; compared when it was done.", _wide(table))


def _difference(forecast: str | float, fact: str | float | None) -> str:
    if isinstance(forecast, str) or isinstance(fact, str) or fact is None:
        return ""
    return _percent(forecast, fact).strip(" ()")


def _facts(report: Report) -> _Html:
    told = {name: value for name, value in report.facts.items() if name not in report.forecast}
    rows = [_el("div", _el("dt", name), _el("dd", _number(value))) for name, value in told.items()]
    return _section("Facts", "What it took, and how to do it again.", _el("dl", *rows)) if rows else _Html("")


def _footer(report: Report) -> _Html:
    files = ("report.json", "sheet-given.png", "sheet-contexts.png", "sheet-class.png")
    return _el("footer", "Also in this folder: ", *(_el("a", name, href=name) for name in files))


# --- the loss curve ----------------------------------------------------------------------------------------------

_WIDE, _HIGH, _LEFT, _RIGHT, _TOP, _BOTTOM = 680, 300, 72, 26, 12, 54
_SHOWN = 800  # points of a raw curve that a page can show
Curve = Sequence[tuple[float, float]]


def _losses(report: Report) -> _Html:
    curves = {name: [(s, loss) for s, loss in curve if math.isfinite(loss)] for name, curve in report.losses.items()}
    curves = {name: curve for name, curve in curves.items() if curve}
    if not curves:
        return _Html("")
    lead = (
        "One step alone mostly tells how much noise was drawn: read the thick line, the mean over a tenth of the steps."
    )
    keys = [_el("span", name, class_=f"key c{number}") for number, name in enumerate(curves)]
    return _section("Loss", lead, _el("p", *keys, class_="legend"), _chart(curves))


def _chart(curves: Mapping[str, Curve]) -> _Html:
    smooth = {name: _smoothed(curve) for name, curve in curves.items()}
    steps = [step for curve in curves.values() for step, _ in curve]
    low, high = min(steps), max(max(steps), min(steps) + 1)
    top = _ceiling(curves.values(), smooth.values())

    def place(step: float, loss: float) -> tuple[float, float]:
        x = _LEFT + (step - low) / (high - low) * (_WIDE - _LEFT - _RIGHT)
        return round(x, 1), round(_HIGH - _BOTTOM - min(max(loss / top, 0), 1) * (_HIGH - _TOP - _BOTTOM), 1)

    def line(curve: Curve, kind: str) -> _Html:
        thinned = curve[:: max(1, len(curve) // _SHOWN)]
        points = " ".join("{},{}".format(*place(*point)) for point in thinned)
        return _el("polyline", points=points, class_=kind)

    raw = [line(curve, f"raw c{number}") for number, curve in enumerate(curves.values())]
    mean = [line(curve, f"mean c{number}") for number, curve in enumerate(smooth.values())]
    parts = (*_axes(low, high, top, place), *raw, *mean)
    return _el("svg", *parts, viewBox=f"0 0 {_WIDE} {_HIGH}", role="img", aria_label="loss by step")


def _smoothed(curve: Curve) -> Curve:
    """Each step with the mean loss of the tenth of the steps around it."""
    sums = list(accumulate((loss for _, loss in curve), initial=0.0))
    reach, last = len(curve) // 20, len(curve)

    def mean(start: int, end: int) -> float:
        return (sums[end] - sums[start]) / (end - start)

    return [(step, mean(max(0, n - reach), min(last, n + reach + 1))) for n, (step, _) in enumerate(curve)]


def _ceiling(raw: Iterable[Curve], smooth: Iterable[Curve]) -> float:
    """The loss at the top of the chart: nearly all points lie below it, the thick lines always do."""
    losses = sorted(loss for curve in raw for _, loss in curve)
    crest = max(loss for curve in smooth for _, loss in curve)
    return max(losses[int(0.98 * (len(losses) - 1))], 1.15 * crest) or 1.0


def _axes(low: float, high: float, top: float, place: Callable[[float, float], tuple[float, float]]) -> Iterator[_Html]:
    left, floor = place(low, 0)
    for loss in _ticks(0, top):
        _, y = place(low, loss)
        yield _el("line", x1=left, x2=_WIDE - _RIGHT, y1=y, y2=y, class_="rule")
        yield _el("text", f"{loss:g}", x=left - 8, y=y, dy="0.35em", text_anchor="end")
    for step in _ticks(low, high):
        yield _el("text", f"{step:g}", x=place(step, 0)[0], y=floor + 20, text_anchor="middle")
    yield _el("text", "step", x=(left + _WIDE - _RIGHT) / 2, y=_HIGH - 6, text_anchor="middle")
    middle = (floor + _TOP) / 2
    yield _el("text", "loss", x=14, y=middle, text_anchor="middle", transform=f"rotate(-90 14 {middle})")


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers from low to high."""
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    stride = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    return [stride * n for n in range(math.ceil(low / stride), math.floor(high / stride + 1e-9) + 1)]


_STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf8; --card: #fff; --ink: #1d1f23; --dim: #666b74; --line: #e4e1db;
  --c0: #1f6feb; --c1: #d9730d; --good: #1a7f4b; --bad: #b4452c; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --card: #1d2024; --ink: #e9e8e4; --dim: #9aa0a9;
  --line: #32363c; --c0: #6aa5ff; --c1: #f0a04b; --good: #4fc289; --bad: #f08a6c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 48px 28px 64px; }
header, section { display: grid; grid-template-columns: 230px minmax(0, 1fr); gap: 16px 44px; }
header { grid-template-columns: minmax(0, 1fr) minmax(0, 520px); align-items: center; padding-bottom: 48px; }
section { padding: 40px 0; border-top: 1px solid var(--line); }
section.whole { grid-template-columns: minmax(0, 1fr); }
h1 { font-size: clamp(28px, 4vw, 40px); line-height: 1.15; letter-spacing: -0.02em; margin: 0 0 18px;
  text-wrap: balance; }
h2 { font-size: 21px; line-height: 1.25; letter-spacing: -0.01em; margin: 0 0 8px; }
h3 { font-size: 16px; margin: 0 0 12px; }
h4 { font-size: 13px; font-weight: 500; line-height: 1.35; color: var(--dim); margin: 0; }
p { margin: 0; }
q { font-style: italic; }
.side p, .dim, .note, small, figcaption, summary { color: var(--dim); font-size: 14px; line-height: 1.45; }
.eyebrow { color: var(--dim); font-size: 13px; letter-spacing: 0.08em; text-transform: uppercase; margin-bottom: 12px; }
.verdict { border-left: 4px solid var(--dim); padding-left: 16px; margin-bottom: 18px; }
.verdict p + p { color: var(--dim); margin-top: 6px; }
.verdict p:first-child { font-size: 18px; line-height: 1.45; font-weight: 500; }
.verdict.good { border-color: var(--good); }
.verdict.bad { border-color: var(--bad); }
img { display: block; width: 100%; height: auto; aspect-ratio: 1; object-fit: cover; border-radius: 8px;
  background: var(--line); outline: 1px solid rgb(128 128 128 / 0.2); outline-offset: -1px; }
.glance { display: grid; grid-template-columns: repeat(3, minmax(0, 160px)); gap: 20px; justify-content: end; }
figure { margin: 0; }
figcaption { font-size: 13px; margin-top: 8px; overflow-wrap: break-word; }
.strip { display: grid; grid-template-columns: repeat(var(--n), minmax(64px, 160px)); gap: 8px; overflow-x: auto; }
article + article { margin-top: 36px; }
.note { font-weight: 400; margin-left: 10px; }
.line { display: grid; grid-template-columns: 92px minmax(0, 1fr); gap: 12px; align-items: center; }
.line + .line { margin-top: 8px; }
.line + .line h4 { color: var(--ink); font-weight: 600; }
details { margin-top: 28px; }
summary { cursor: pointer; margin-bottom: 10px; }
details .strip { grid-template-columns: repeat(auto-fill, minmax(72px, 1fr)); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 22px; font-size: 14px; margin-bottom: 8px; }
.key::before { content: ""; display: inline-block; width: 22px; height: 3px; border-radius: 2px; margin-right: 8px;
  vertical-align: middle; background: var(--stroke); }
.c0 { --stroke: var(--c0); } .c1 { --stroke: var(--c1); } .c2 { --stroke: var(--good); } .c3 { --stroke: var(--bad); }
svg { display: block; width: 100%; max-width: 780px; height: auto; }
svg text { font-size: 13px; fill: var(--dim); }
polyline { fill: none; stroke: var(--stroke, var(--dim)); stroke-linejoin: round; stroke-linecap: round; }
.raw { stroke-width: 1; opacity: 0.22; }
.mean { stroke-width: 2.6; }
.rule { stroke: var(--line); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 10px 18px 10px 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
.measures th { min-width: 118px; }
tbody tr:last-child > *, dl div:last-child { border-bottom: 0; }
thead th { line-height: 1.35; }
.scroll th:first-child { position: sticky; left: 0; background: var(--paper); }
th small, .hint { display: block; font-weight: 400; }
.hint { font-size: 13px; color: var(--c0); }
.best { font-size: 12px; color: var(--good); border: 1px solid; border-radius: 9px; padding: 0 7px; margin-left: 8px; }
dl { margin: 0; }
dl div { display: grid; grid-template-columns: 190px minmax(0, 1fr); gap: 4px 16px; padding: 8px 0;
  border-bottom: 1px solid var(--line); }
dt { color: var(--dim); }
dd { margin: 0; overflow-wrap: anywhere; }
footer { border-top: 1px solid var(--line); padding-top: 20px; color: var(--dim); font-size: 14px; }
footer a { color: inherit; margin-left: 12px; }
@media (max-width: 860px) {
  main { padding: 28px 18px 48px; }
  header, section { grid-template-columns: minmax(0, 1fr); }
  header { padding-bottom: 32px; }
  section { padding: 30px 0; }
  .glance { justify-content: start; gap: 12px; }
  .line { grid-template-columns: minmax(0, 1fr); gap: 4px; }
  .note { display: block; margin: 2px 0 0; }
  dl div { grid-template-columns: minmax(0, 1fr); gap: 0; }
}
@media (max-width: 560px) { svg text { font-size: 21px; } }
"""
