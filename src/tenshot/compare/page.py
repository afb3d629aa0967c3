"""A comparison as one HTML file that needs nothing beside it: pictures are within."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from tenshot.cli.output import in_words
from tenshot.cli.output import shown as told_as
from tenshot.compare.cells import FEW_STEPS, Outcome
from tenshot.compare.options import CompareOptions, SweepOptions
from tenshot.compare.table import Table
from tenshot.core.html import Html, el, page, section, wide
from tenshot.core.json_types import key
from tenshot.core.results import Swept
from tenshot.evaluate.judge import Judge
from tenshot.evaluate.measures import Subject
from tenshot.io import tensors
from tenshot.report.chart import lines
from tenshot.report.pictures import captioned, picture, strip
from tenshot.report.record import REAL, UNTUNED
from tenshot.report.verdict import shown
from tenshot.train.ways import WAYS, called

BEST = 5  # trainings of a sweep whose pictures are shown
SHOWN = 2  # pictures of each prompt and method
HINTS = {"higher": "↑ higher is better", "lower": "↓ lower is better"}
COSTS = {  # a cost -> its head, and what a unit of it is
    "seconds": ("training, minutes", 60.0),
    "seconds_per_step": ("seconds a step", 1.0),
    "peak_bytes": ("peak memory, GB", 1e9),
    "file_bytes": ("result, MB", 1e6),
}


def write(options: CompareOptions, table: Table, outcomes: Sequence[Outcome], judge: Judge, of: Subject) -> Path:
    """index.html and compare.json in --out, each whole or not at all; returns index.html."""
    tensors.write_json(options.out / "compare.json", {**_record(table, judge), "likeness_by_step": curves(outcomes)})
    tensors.write_text(options.out / "index.html", render(options, table, outcomes, judge, of))
    return options.out / "index.html"


def _record(table: Table, judge: Judge) -> dict[str, object]:
    def keyed(rows: object) -> object:
        return {row: {key(name): value for name, value in of.items()} for row, of in dict(rows).items()}  # type: ignore[call-overload]

    return {
        "judge": judge.name,
        "measures": keyed(table.measures),
        "spread": keyed(table.spread),
        "costs": table.costs,
        "recommended": table.recommended,
        "why": table.advice,
    }


def render(options: CompareOptions, table: Table, outcomes: Sequence[Outcome], judge: Judge, of: Subject) -> str:
    heading = f"{len(of.shown)} pictures of {options.noun}: which method?"
    return page(
        heading,
        _hero(options, table, of, heading),
        _measured(table, judge),
        _over_steps(outcomes, judge),
        _costs(table),
        _side_by_side(options, outcomes),
        _given(of),
    )


def _hero(options: CompareOptions, table: Table, of: Subject, heading: str) -> Html:
    tone = "good" if table.recommended else "bad"
    text = el(
        "div",
        el("p", heading, class_="eyebrow"),
        el("h1", WAYS[table.recommended].title if table.recommended else "None yet"),
        el("div", el("p", table.advice), class_=f"verdict {tone}"),
        el("p", "Model ", el("b", options.model), " · every method from the same pictures and seeds", class_="dim"),
    )
    return el("header", text, el("div", picture(of.shown[0], "one of the pictures given"), class_="glance"))


def _measured(table: Table, judge: Judge) -> Html:
    heads = [el("th", "pictures")]
    for name, (meaning, direction) in table.help.items():
        hint = el("span", HINTS.get(direction, ""), class_="hint")
        heads.append(el("th", name, hint, el("small", meaning), scope="col"))
    rows = [
        el("tr", el("th", title(row), scope="row"), *(_cell(table, row, name) for name in table.help))
        for row in table.measures
    ]
    body = el("table", el("thead", el("tr", *heads)), el("tbody", *rows), class_="measures")
    lead = f"Judged by {judge.name}. “{REAL}” are the pictures given, “{UNTUNED}” the model before training."
    return section("Measured", lead, wide(body), class_="whole")


def _cell(table: Table, row: str, name: str) -> Html:
    spread = table.spread.get(row, {}).get(name)
    more = [] if spread is None else [el("small", f" ± {spread:.2g}")]
    return el("td", shown(table.measures[row].get(name)), *more)


def curves(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """Row -> step -> likeness of validation pictures, the mean over trainings; step 0 is the model before."""
    of: dict[str, list[Outcome]] = {}
    for each in outcomes:
        if each.likeness:
            of.setdefault(each.cell.row, []).append(each)
    untuned = of.pop(UNTUNED, [])
    before = {"0": untuned[0].likeness[0]} if untuned else {}
    return {
        row: before | {str(step): mean(one.likeness[step] for one in those) for step in those[0].likeness}
        for row, those in of.items()
    }


def _over_steps(outcomes: Sequence[Outcome], judge: Judge) -> Html:
    found = curves(outcomes)
    if not found:
        return Html("")
    keys = [el("span", f"{number + 1} {title(row)}", class_=f"key c{number}") for number, row in enumerate(found)]
    drawn = lines(
        {row: [(int(step), each) for step, each in of.items()] for row, of in found.items()}, judge.subject_measure
    )
    lead = (
        "Of the pictures drawn during training, few and always of the same seeds: where a line lies flat, more steps"
        " bring little; where it falls, they spoil. Step 0 is the model before."
    )
    return section("Over the steps", lead, el("p", *keys, class_="legend"), drawn)


def _costs(table: Table) -> Html:
    heads = el(
        "tr", el("th", "method"), *(el("th", head, scope="col") for head, _ in COSTS.values()), el("th", "needs")
    )
    rows = [
        el(
            "tr",
            el("th", title(method), scope="row"),
            *(el("td", shown(table.costs[method][name] / unit)) for name, (_, unit) in COSTS.items()),
            el("td", WAYS[method].takes if method in WAYS else "one file more"),
        )
        for method in (*WAYS, FEW_STEPS)
        if method in table.costs
    ]
    lead = "Measured here, each training in a process of its own."
    return section("What it takes", lead, wide(el("table", el("thead", heads), el("tbody", *rows))), class_="whole")


def _side_by_side(options: CompareOptions, outcomes: Sequence[Outcome]) -> Html:
    """The first training of each method; a row is one prompt and seed."""
    first = {each.cell.row: each for each in reversed(outcomes)}
    shown = [first[row] for row in (UNTUNED, *WAYS, FEW_STEPS) if row in first]
    cards = []
    for number, prompt in enumerate(shown[0].drawn):
        columns = [list(outcome.drawn.values())[number][:SHOWN] for outcome in shown]
        names = [title(outcome.cell.row) for outcome in shown]
        rows = [captioned([column[0] for column in columns], names, prompt)]
        rows += [strip(row, f"{prompt}, another seed") for row in zip(*(column[1:] for column in columns), strict=True)]
        cards.append(el("article", el("h3", el("q", _with_hole(options, prompt))), *rows))
    lead = "Between the pictures of a row lies the method alone: prompt and seed are the same."
    return section("Side by side", lead, *cards)


def _with_hole(options: CompareOptions, prompt: str) -> str:
    return prompt.replace(options.noun, f"{options.noun} (or {called(options, 'textual-inversion')})")


def _given(of: Subject) -> Html:
    return section("The pictures given", "All that was learned from.", strip(of.shown, "given"))


def title(row: str) -> str:
    titles: dict[str, str] = {FEW_STEPS: "in 8 steps", **{method: way.title for method, way in WAYS.items()}}
    return titles.get(row, row)


def of_sweep(options: SweepOptions, told: Swept, outcomes: Sequence[Outcome]) -> str:
    """outcomes: of the trials that were finished, the best first."""
    best = outcomes[0]
    heading = f"{title(best.cell.row)} of {options.noun}: {len(told['trials'])} trainings"
    text = el(
        "div",
        el("p", heading, class_="eyebrow"),
        el("h1", told["best"]),
        el("p", el("code", told["next"][0])),
    )
    shown_ones = [next(iter(each.drawn.values()))[0] for each in outcomes[:BEST]]
    prompt = next(iter(best.drawn))
    pictures = captioned(shown_ones, [each.cell.name for each in outcomes[:BEST]], prompt)
    names = list(next(iter(told["trials"].values())))
    heads = el("tr", el("th", "training"), *(el("th", in_words(name), scope="col") for name in names))
    order = sorted(told["trials"].items(), key=lambda each: -(each[1]["score"] or 0.0))
    rows = [
        el("tr", el("th", name, scope="row"), *(el("td", told_as(key, value)) for key, value in trial.items()))
        for name, trial in order
    ]
    lead = "Score: likeness to the subject, times the share kept of drawing what is asked. The best first."
    table = wide(el("table", el("thead", heads), el("tbody", *rows)))
    parts = (section("Tried", lead, table, class_="whole"), section("The best", prompt, pictures))
    return page(heading, el("header", text), *parts)
