"""The demonstration's report: read back as a browser, a program and a file manager would."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tenshot.core.json_types import key
from tenshot.report.chart import ticks
from tenshot.report.record import REAL, UNTUNED, WITH_PRIOR, WITHOUT_PRIOR, Report, Row
from tenshot.report.verdict import MORE, improved, verdict
from tenshot.report.write import write

NASTY = """<script>alert('x')</script> & "quotes" <b>"""
LIKENESS, PROMPT, DRIFT = "subject likeness", "prompt likeness", "class drift"


def pictures(count: int, seed: int) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.fixture
def report() -> Report:
    after = ("after, with prior preservation", "after, without prior preservation")
    return Report(
        title="Tenshot demo",
        subject="az fox",
        class_noun="fox",
        instance_prompt="az fox",
        class_prompt="a fox",
        model="pocket",
        given=pictures(6, 0),
        class_pictures=pictures(3, 1),
        contexts=[
            Row("az fox, red", "other background", {"before": pictures(2, 2), "after": pictures(2, 3)}),
            Row("az fox, blue", "", {"before": pictures(3, 4), "after": pictures(3, 5)}),
        ],
        class_word=Row("a fox", "", {name: pictures(2, 6 + n) for n, name in enumerate(("before", *after))}),
        losses={WITH_PRIOR: [(n, 1 / n) for n in range(1, 101)], WITHOUT_PRIOR: [(n, 0.5 / n) for n in range(1, 101)]},
        measures={
            REAL: {LIKENESS: 0.85, PROMPT: 0.3, DRIFT: None},
            UNTUNED: {LIKENESS: 0.41, PROMPT: 0.31, DRIFT: 0.12},
            WITH_PRIOR: {LIKENESS: 0.72, PROMPT: 0.30, DRIFT: 0.17},
            WITHOUT_PRIOR: {LIKENESS: 0.74, PROMPT: 0.28, DRIFT: 0.46},
        },
        measure_help={LIKENESS: ("cosine", "higher"), PROMPT: ("cosine", "higher"), DRIFT: ("how far", "lower")},
        forecast={"time in all, s": 80, "peak memory, MiB": 1000},
        facts={"time in all, s": 100.0, "seeds": "7, 8", "torch": "2.13"},
    )


class Page(HTMLParser):
    """Elements as (tag, attributes), texts by the tag they are in; fails where tags do not nest."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def said(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def with_measure(report: Report, before: float | None, after: float | None, direction: str = "higher") -> Report:
    measures = {UNTUNED: {LIKENESS: before}, WITH_PRIOR: {LIKENESS: after}}
    return replace(report, measures=measures, measure_help={LIKENESS: ("", direction)})


def test_every_picture_is_shown_and_is_the_one_given(report, tmp_path):
    page = Page(write(report, tmp_path))
    shown = {image["src"]: np.asarray(Image.open(tmp_path / image["src"])) for image in page.of("img")}
    rows = [*report.contexts, report.class_word]
    drawn = [picture for row in rows for of in row.pictures.values() for picture in of]
    everything = [*report.given, *report.class_pictures, *drawn]
    assert len(shown) == len(everything) == len(list((tmp_path / "pictures").iterdir()))
    assert {pixels.tobytes() for pixels in shown.values()} == {picture.tobytes() for picture in everything}
    after = shown["pictures/context-2-after-3.png"]
    assert np.array_equal(after, np.asarray(report.contexts[1].pictures["after"][2]))
    assert all(image["alt"] for image in page.of("img"))


def test_columns_that_differ_in_punctuation_only_have_files_of_their_own(report, tmp_path):
    row = Row("az fox", "", {name: pictures(2, n) for n, name in enumerate(("after", "after!", "after 2", "?", "!"))})
    write(replace(report, contexts=[row]), tmp_path)
    files = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["contexts"][0]["pictures"]
    for column, drawn in row.pictures.items():
        read = [np.asarray(Image.open(tmp_path / file)) for file in files[column]]
        assert all(np.array_equal(one, picture) for one, picture in zip(read, drawn, strict=True)), column
    assert len({file for of in files.values() for file in of}) == 10


def test_the_page_needs_nothing_from_elsewhere(report, tmp_path):
    page = Page(write(report, tmp_path))
    assert not re.search(r"https?:|@import|url\(|javascript:|\son\w+=", page.source)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.elements}
    linked = [attributes["href"] for attributes in page.of("a")]
    assert len(linked) == 4 and all((tmp_path / href).is_file() for href in linked)


def test_texts_are_escaped_wherever_they_come_from(report, tmp_path):
    texts = ("title", "subject", "class_noun", "instance_prompt", "class_prompt", "model")
    row = Row(NASTY, NASTY, {NASTY: pictures(1, 9)})
    nasty = replace(
        report,
        **dict.fromkeys(texts, NASTY),
        contexts=[row],
        class_word=row,
        losses={NASTY: [(1, 0.5), (2, 0.4)]},
        measures={UNTUNED: {NASTY: 1.0}, WITH_PRIOR: {NASTY: 2.0}, NASTY: {NASTY: 3.0}},
        measure_help={NASTY: (NASTY, "higher")},
        forecast={NASTY: NASTY},
        facts={NASTY: NASTY, "other " + NASTY: NASTY},
    )
    page = Page(write(nasty, tmp_path))
    assert "script" not in {tag for tag, _ in page.elements}
    assert all(set(image) == {"src", "alt", "width", "height", "loading"} for image in page.of("img"))
    for tag in ("title", "q", "h4", "th", "td", "small", "dt", "dd", "span", "b"):
        assert any(NASTY in text for text in page.said(tag)), tag
    assert all((tmp_path / str(image["src"]).replace("%20", " ")).is_file() for image in page.of("img"))


@pytest.mark.parametrize(
    ("before", "after", "direction", "better", "says"),
    [
        (0.41, 0.72, "higher", True, "Subject likeness rose from 0.410 to 0.720 (+76\u202f%)."),
        (0.50, 0.40, "higher", False, "Subject likeness did not rise: it went from 0.500 to 0.400 (\u221220\u202f%)."),
        (0.50, 0.40, "lower", True, "Subject likeness fell from 0.500 to 0.400 (\u221220\u202f%)."),
        (0.40, 0.50, "lower", False, "Subject likeness did not fall: it went from 0.400 to 0.500 (+25\u202f%)."),
        (0.500, 0.502, "higher", False, "Subject likeness hardly moved: it went from 0.500 to 0.502 (±0\u202f%)."),
        (0.0, 0.5, "higher", True, "Subject likeness rose from 0.00 to 0.500."),
        (
            0.0006,
            0.41,
            "higher",
            True,
            "Subject likeness rose from 0.000600 to 0.410.",
        ),  # no percent of next to nothing
        (-0.14, 0.15, "higher", True, "Subject likeness rose from \u22120.140 to 0.150."),
        (0.4, 0.5, "", None, "Subject likeness went from 0.400 to 0.500 (+25\u202f%)."),
        (None, 0.5, "higher", None, "Nothing was measured: judge by the pictures."),
        (0.4, math.nan, "higher", None, "Nothing was measured: judge by the pictures."),
    ],
)
def test_the_verdict_says_what_was_measured(report, tmp_path, before, after, direction, better, says):
    judged = with_measure(report, before, after, direction)
    assert verdict(judged) == ((says,) if better is not False else (says, MORE))
    assert "--max_train_steps" in MORE and "--learning_rate" in MORE
    assert improved(judged) is better
    page = Page(write(judged, tmp_path))
    assert says in page.said("p")
    tone = {True: "good", False: "bad", None: "open"}[better]
    assert {"class": f"verdict {tone}"} in page.of("div")


def test_the_verdict_compares_with_real_pictures_and_speaks_of_the_prompt(report):
    subject, prompt = verdict(report)
    assert subject.endswith("; real pictures: 0.850.")
    assert prompt == "Prompt likeness went from 0.310 to 0.300 (\u22123\u202f%); real pictures: 0.300."


def test_best_is_the_best_in_the_right_direction_and_never_the_real_pictures(report, tmp_path):
    source = Page(write(report, tmp_path)).source
    rows = {
        row: re.findall("<td>(.*?)</td>", rest) for row, rest in re.findall('scope="row">(.*?)</th>(.*?)</tr>', source)
    }
    best = {row: [number for number, cell in enumerate(cells) if "best" in cell] for row, cells in rows.items()}
    assert {row: best[row] for row in report.measures} == {
        REAL: [],
        UNTUNED: [1, 2],
        WITH_PRIOR: [],
        WITHOUT_PRIOR: [0],
    }
    assert rows[REAL] == ["0.850", "0.300", "\u2013"]


def test_equal_values_have_no_best(report, tmp_path):
    assert 'class="best"' not in Page(write(with_measure(report, 0.5, 0.5), tmp_path)).source


def test_json_holds_everything_and_is_json_for_everyone(report, tmp_path):
    odd = replace(report, facts={**report.facts, "loss": math.nan}, losses={"one": [(1, 0.5), (2, math.inf)]})
    write(odd, tmp_path)

    def never(constant: str) -> None:
        raise AssertionError(constant)

    record = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=never)
    assert record["losses"] == {"one": {"step": [1, 2], "loss": [0.5, None]}}
    assert record["facts"] == {"time_in_all_seconds": 100.0, "seeds": "7, 8", "torch": "2.13", "loss": None}
    assert record["forecast"] == {"time_in_all_seconds": 80, "peak_memory_mib": 1000}
    assert record["measures"] == {key(row): {key(n): v for n, v in of.items()} for row, of in report.measures.items()}
    assert record["measure_help"][key(DRIFT)] == {"meaning": "how far", "better": "lower"}
    assert [row["prompt"] for row in record["contexts"]] == ["az fox, red", "az fox, blue"]
    files = [*record["given"], *record["class_pictures"]]
    files += [
        file for row in (*record["contexts"], record["class_word"]) for of in row["pictures"].values() for file in of
    ]
    assert sorted(files) == sorted(f"pictures/{path.name}" for path in (tmp_path / "pictures").iterdir())
    assert record["verdict"] == list(verdict(report)) and record["improved"] is True


def test_forecast_stands_beside_the_fact_of_its_name(report, tmp_path):
    page = Page(write(report, tmp_path))
    assert page.said("td")[-5:] == ["80", "100", "+25\u202f%", "1\u202f000", "\u2013"]
    assert page.said("dt") == ["seeds", "torch"]


def test_the_loss_lines_lie_where_the_losses_say(report, tmp_path):
    rng = np.random.default_rng(0)
    losses = {"a": [(n, float(x)) for n, x in enumerate(rng.uniform(0.1, 0.9, 200), 1)]}
    page = Page(write(replace(report, losses=losses), tmp_path))
    raw, mean = (
        np.array([point.split(",") for point in str(line["points"]).split()], float) for line in page.of("polyline")
    )
    values = np.array([loss for _, loss in losses["a"]])
    window = np.convolve(values, np.ones(21), "same") / np.convolve(np.ones(200), np.ones(21), "same")
    shown = values < np.quantile(values, 0.97)  # the highest are cut off at the top of the chart
    slope, start = np.polyfit(raw[shown, 1], values[shown], 1)
    assert slope < 0  # y points downwards
    assert np.allclose(slope * raw[shown, 1] + start, values[shown], atol=0.001)
    assert np.allclose(slope * mean[:, 1] + start, window, atol=0.001)
    assert np.allclose(np.diff(raw[:, 0]), np.diff(raw[:, 0]).mean(), atol=0.11)


@pytest.mark.parametrize("curve", [[], [(1, math.nan)]])
def test_without_losses_there_is_no_chart(report, tmp_path, curve):
    assert not Page(write(replace(report, losses={"a": curve}), tmp_path)).of("svg")


@pytest.mark.parametrize(("low", "high"), [(0, 0.23), (0, 1), (1, 400), (1, 2), (0, 1e-5), (900, 12_000)])
def test_ticks_are_few_round_and_inside(low, high):
    found = np.array(ticks(low, high))
    assert 2 <= len(found) <= 7
    assert found.min() >= low and found.max() <= high * (1 + 1e-9)
    digits = {f"{stride:.3e}".split("e")[0] for stride in np.diff(found)}
    assert digits <= {"1.000", "2.000", "2.500", "5.000"} and len(digits) == 1


def test_a_long_curve_does_not_make_a_heavy_page(report, tmp_path):
    long = replace(report, losses={"a": [(n, 0.1) for n in range(50_000)]})
    assert write(long, tmp_path).stat().st_size < 150_000


def test_sheets_are_pictures(report, tmp_path):
    write(report, tmp_path)
    sizes = {path.name: Image.open(path).size for path in tmp_path.glob("sheet-*.png")}
    assert set(sizes) == {"sheet-contexts.png", "sheet-class.png", "sheet-given.png"}
    assert sizes["sheet-contexts.png"][1] > 4 * 160 and sizes["sheet-class.png"][1] > 3 * 160
    assert sizes["sheet-given.png"][0] > 5 * 160


def test_writing_again_leaves_nothing_old_and_is_the_same_every_time(report, tmp_path):
    first = {path.name: path.read_bytes() for path in write(report, tmp_path).parent.rglob("*.*") if path.is_file()}
    write(replace(report, given=pictures(8, 0)), tmp_path)
    write(report, tmp_path)
    again = {path.name: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    assert again == first


def test_what_fails_on_the_way_leaves_the_old_report_whole(report, tmp_path, monkeypatch):
    write(report, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("tenshot.report.write.contact_sheet", fails)
    with pytest.raises(RuntimeError):
        write(replace(report, title="new", given=pictures(1, 9)), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_least_report_is_still_a_page(tmp_path):
    empty = Row("a fox", "", {})
    least = Report("t", "s", "n", "i", "c", "m", [], [], [Row("p", "", {"before": []})], empty, {}, {}, {}, {}, {})
    page = Page(write(least, tmp_path))
    assert not page.of("img")
    assert page.said("h1") == ["s, taught from 0 pictures"]
    assert "Nothing was measured: judge by the pictures." in page.said("p")
