"""The bench of drawing: everybody draws the same picture, and the tables say what was found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tenshot.bench import inference, tables
from tenshot.bench.inference import BenchInferenceOptions
from tenshot.core.errors import Refusal
from tests.artifacts import Listener


def run(sd1: Path, work: Path, **more: object) -> dict:
    given = {"model": str(sd1), "work": work, "steps": 2, "rounds": 1, "trial_steps": 1, "device": "cpu"}
    return inference.bench(BenchInferenceOptions.model_validate(given | more), Listener())


@pytest.mark.slow
def test_everybody_draws_the_same_picture(sd1: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(inference, "contenders", lambda half: CONTENDERS)
    out = tmp_path / "figures.md"
    told = run(sd1, tmp_path / "work", task=["lora"], out=out)
    rows = {row["contender"]: row for row in told["pictures"]}
    assert len(rows) == 3
    assert rows["torch fp32"]["psnr"] == float("inf")
    assert rows["tenshot lossless"]["psnr"] > 25
    assert rows["tenshot lossless"]["swap_seconds"] >= 0
    assert rows["magic"]["failed"] == "no such backend"
    assert "One call: unet" in out.read_text()
    assert "torch fp32" in out.with_suffix(".svg").read_text()


CONTENDERS = [
    inference.Contender("torch fp32", "torch"),
    inference.Contender("magic", "compiled", backend="magic"),
    inference.Contender("tenshot lossless", "compiled", backend="eager"),
]


def test_tables_have_a_cell_for_everything():
    rows = [{"task": "picture", "who": "a", "seconds": 1.5}, {"task": "picture", "who": "b", "failed": "no"}]
    assert list(tables.table(rows, skip="task")) == [
        "| who | seconds |",
        "| --- | --- |",
        "| a | 1.5 s |",
        "| b | no |",
    ]


def test_bars_are_as_long_as_their_figures():
    rows = [{"task": "picture", "contender": name, "speedup": times} for name, times in (("a", 1.0), ("b", 4.0))]
    drawn = tables.bars({"model": "pocket", "pictures": rows})
    widths = [float(part.split('"')[0]) for part in drawn.split('width="')[2:]]
    assert widths[1] == 4 * widths[0]


@pytest.mark.parametrize("suffix", (".md", ".svg"))
def test_no_page_of_another_is_replaced(suffix: str, sd1: Path, tmp_path: Path):
    mine = (tmp_path / "figures.md").with_suffix(suffix)
    mine.write_text("mine")
    with pytest.raises(Refusal, match="not one of a bench's"):
        run(sd1, tmp_path / "work", out=tmp_path / "figures.md")
    assert mine.read_text() == "mine" and not (tmp_path / "work").exists()
