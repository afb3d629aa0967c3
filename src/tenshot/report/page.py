"""A demonstration as one HTML page that needs nothing but its folder of pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from urllib.parse import quote

from PIL import Image

from tenshot.core.html import Html, el, join, page, section, wide
from tenshot.report.chart import chart
from tenshot.report.record import REAL, Report, Row, columns, file
from tenshot.report.verdict import best_rows, improved, measure_names, percent, shown, value_of, verdict


def render(report: Report) -> str:
    """The page; it looks for its pictures where `file` names them."""
    parts = (_hero, _given, _contexts, _class_word, _losses, _table, _forecast, _facts, _footer)
    return page(report.title, *(part(report) for part in parts))


def _picture(stem: str, number: int, alt: str) -> Html:
    address = quote(file(stem, number))
    return el("img", src=address, alt=f"{alt}, picture {number}", width=160, height=160, loading="lazy")


def _strip(stem: str, pictures: Sequence[Image.Image], alt: str) -> Html:
    images = (_picture(stem, number, alt) for number in range(1, len(pictures) + 1))
    return el("div", *images, class_="strip", style=f"--n:{len(pictures)}")


def _hero(report: Report) -> Html:
    count = len(report.given)
    tone = {True: "good", False: "bad", None: "open"}[improved(report)]
    text = el(
        "div",
        el("p", report.title, class_="eyebrow"),
        el("h1", f"{report.subject}, taught from {count} picture{'' if count == 1 else 's'}"),
        el("div", *(el("p", sentence) for sentence in verdict(report)), class_=f"verdict {tone}"),
        el("p", "Model ", el("b", report.model), " · taught as ", el("q", report.instance_prompt), class_="dim"),
    )
    return el("header", text, _at_a_glance(report))


def _at_a_glance(report: Report) -> Html:
    figures = [_figure("given", "given", "one of the pictures given")] if report.given else []
    for row in report.contexts[:1]:
        captions = {"before": f"“{row.prompt}” before", "after": "the same prompt and seed, after"}
        for column, stem in columns("context-1", row).items():
            if row.pictures[column]:
                figures.append(_figure(stem, f"{column}: {row.prompt}", captions.get(column, column)))
    return el("div", *figures, class_="glance")


def _figure(stem: str, alt: str, caption: str) -> Html:
    return el("figure", _picture(stem, 1, alt), el("figcaption", caption))


def _given(report: Report) -> Html:
    lead = join(["All it was shown of the subject, with the prompt ", el("q", report.instance_prompt), "."])
    return section("The pictures given", lead, _strip("given", report.given, f"given: {report.subject}"))


def _contexts(report: Report) -> Html:
    lead = "Each column is one seed: only the training lies between the upper and the lower picture."
    return section("Before and after", lead, *(_card(f"context-{n}", row) for n, row in enumerate(report.contexts, 1)))


def _class_word(report: Report) -> Html:
    noun = el("b", report.class_noun)
    why = " turning into the subject is what prior preservation is there to prevent."
    lead = join(["The class word alone, without the subject. Every ", noun, why])
    content = [_card("class-word", report.class_word)]
    if report.class_pictures:
        made = _strip("class", report.class_pictures, f"for prior preservation: {report.class_prompt}")
        summary = f"The {len(report.class_pictures)} pictures the untuned model drew of its class to rehearse"
        content.append(el("details", el("summary", summary), made))
    return section("What became of the class", lead, *content)


def _card(stem: str, row: Row) -> Html:
    note = [el("span", row.note, class_="note")] if row.note else []
    strips = {
        column: _strip(name, row.pictures[column], f"{column}: {row.prompt}")
        for column, name in columns(stem, row).items()
    }
    lines = [el("div", el("h4", column), strip, class_="line") for column, strip in strips.items()]
    return el("article", el("h3", el("q", row.prompt), *note), *lines)


def _table(report: Report) -> Html:
    if not report.measures:
        return Html("")
    hints = {"higher": "↑ higher is better", "lower": "↓ lower is better"}
    heads = [el("th", "pictures")]
    for name in measure_names(report):
        meaning, direction = report.measure_help.get(name, ("", ""))
        hint = el("span", hints.get(direction, ""), class_="hint")
        heads.append(el("th", name, hint, el("small", meaning), scope="col"))
    best = {name: best_rows(report, name) for name in measure_names(report)}
    rows = [
        el("tr", el("th", row, scope="row"), *(_cell(report, row, name, row in best[name]) for name in best))
        for row in report.measures
    ]
    table = el("table", el("thead", el("tr", *heads)), el("tbody", *rows), class_="measures")
    lead = f"“{REAL}” are the pictures given, measured alike: a mark to aim at, not a rival."
    return section("Measured", lead, wide(table), class_="whole")


def _cell(report: Report, row: str, measure: str, best: bool) -> Html:
    mark = [el("span", "best", class_="best")] if best else []
    return el("td", shown(value_of(report, row, measure)), *mark)


def _forecast(report: Report) -> Html:
    if not report.forecast:
        return Html("")
    heads = el("tr", el("th", ""), *(el("th", name, scope="col") for name in ("forecast", "actual", "difference")))
    rows = []
    for name, value in report.forecast.items():
        fact = report.facts.get(name)
        cells = (shown(value), shown(fact), _difference(value, fact))
        rows.append(el("tr", el("th", name, scope="row"), *(el("td", cell) for cell in cells)))
    table = el("table", el("thead", heads), el("tbody", *rows))
    return section("Forecast and actual", "Said before the work began; compared when it was done.", wide(table))


def _difference(forecast: str | float, fact: str | float | None) -> str:
    if isinstance(forecast, str) or isinstance(fact, str) or fact is None:
        return ""
    return percent(forecast, fact).strip(" ()")


def _facts(report: Report) -> Html:
    told = {name: value for name, value in report.facts.items() if name not in report.forecast}
    rows = [el("div", el("dt", name), el("dd", shown(value))) for name, value in told.items()]
    return section("Facts", "What it took, and how to do it again.", el("dl", *rows)) if rows else Html("")


def _footer(report: Report) -> Html:
    files = ("report.json", "sheet-given.png", "sheet-contexts.png", "sheet-class.png")
    return el("footer", "Also in this folder: ", *(el("a", name, href=name) for name in files))


def _losses(report: Report) -> Html:
    curves = {name: [(s, loss) for s, loss in curve if math.isfinite(loss)] for name, curve in report.losses.items()}
    curves = {name: curve for name, curve in curves.items() if curve}
    if not curves:
        return Html("")
    lead = (
        "One step alone mostly tells how much noise was drawn: read the thick line, the mean over a tenth of the steps."
    )
    keys = [el("span", name, class_=f"key c{number}") for number, name in enumerate(curves)]
    return section("Loss", lead, el("p", *keys, class_="legend"), chart(curves))
