"""One method with many settings: what is tried, what is stopped early, and that a sweep goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tenshot.compare import cells, sweep, table
from tenshot.compare.cells import Cell, Examination, GaveUp
from tenshot.compare.options import SweepOptions
from tenshot.core.errors import Cancelled, Refusal
from tenshot.core.events import Events
from tenshot.core.options import resolve
from tenshot.evaluate import pocket_judge
from tenshot.evaluate.subject import SUBJECTS

STEPS = (60, 120, 180)


def goodness(cell: Cell) -> float:
    """The nearer to a rate of 2e-3 and a rank of 8, the better."""
    training: Any = cell.training
    return 0.8 - abs(training.learning_rate - 2e-3) * 100 - abs(training.rank - 8) / 100


class Trained(list[str]):
    """Names of what was trained. most: how many, before it is stopped. looks: how often likeness was asked for."""

    most, looks = 1000, 0


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    done = Trained()

    def train(cell: Cell, folder: Path, events: Events, hopeless: Callable[[], bool]) -> dict[str, float]:
        if cell.method:
            if len(done) == done.most:
                raise Cancelled
            done.append(cell.name)
            for seen[cell.name] in STEPS:
                if hopeless() or hopeless():
                    raise GaveUp
        return {"seconds": 1.0, "seconds_per_step": 1.0, "peak_bytes": 1.0, "file_bytes": 1.0}

    def drawn(self: Examination, cell: Cell) -> dict[int, list[Path]]:
        return {step: [] for step in STEPS if step <= seen[cell.name]}

    def likeness(self: Examination, cell: Cell, before: object) -> dict[int, float]:
        done.looks += 1
        return {step: goodness(cell) * step / 180 for step in STEPS if cell.method and step <= seen[cell.name]}

    def examined(self: Examination, cell: Cell, *_: object) -> Any:
        figures = {"subject likeness": goodness(cell) if cell.method else 0.1, "prompt likeness": 0.5}
        return figures, {"a prompt": [Image.new("RGB", (8, 8))]}, []

    seen: dict[str, int] = {}
    monkeypatch.setattr(cells, "_train", train)
    monkeypatch.setattr(Examination, "_drawn", drawn)
    monkeypatch.setattr(Examination, "_likeness", likeness)
    monkeypatch.setattr(Examination, "_examined", examined)
    return done


def swept(out: Path, **given: object) -> dict[str, Any]:
    told = {"pictures": SUBJECTS / "koala", "subject": "animal", "out": out, "train_steps": [180]}
    return dict(sweep.sweep(resolve(SweepOptions, told | given), Events()))


def test_a_grid_tries_all_and_the_best_has_its_command(trained: Trained, tmp_path: Path):
    found = swept(tmp_path / "out", search="grid", rank=[4, 8], learning_rate=[1e-3, 2e-3], prune=False, trials=100)
    tried = {(each["rank"], each["learning_rate"]) for each in found["trials"].values()}
    assert trained.looks == 4 * (len(STEPS) + 1) + 1  # once for what is new, and in the end
    assert tried == {(4, 1e-3), (4, 2e-3), (8, 1e-3), (8, 2e-3)} and len(trained) == 4
    best = found["trials"][found["best"]]
    assert (best["rank"], best["learning_rate"]) == (8, 2e-3) and best["score"] == pytest.approx(0.8)
    assert "--rank 8" in found["next"][0] and "--learning_rate 0.002" in found["next"][0]
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["best"] == found["best"]
    written = (tmp_path / "out" / "index.html").read_text()
    assert written.index(f">{found['best']}<") < written.index("4 trainings") or found["best"] in written
    assert swept(tmp_path / "out", search="grid", rank=[4, 8], learning_rate=[1e-3, 2e-3], prune=False) == found
    assert len(trained) == 4


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_what_was_stopped_goes_on_as_if_it_had_not_been(search: str, trained: Trained, tmp_path: Path):
    """The same questions again: what is in the cells is not trained again, and what follows is the same."""
    given = {"search": search, "learning_rate": [1e-4, 1e-2], "trials": 9}
    whole = swept(tmp_path / "whole", **given)
    names, early = [*trained], [name for name, each in whole["trials"].items() if each["stopped_early"]]
    assert 0 < len(early) < 6 and all(whole["trials"][name]["score"] is None for name in early)
    trained.clear()
    trained.most = 5
    with pytest.raises(Cancelled):
        swept(tmp_path / "parts", **given)
    trained.most = 1000
    parts = swept(tmp_path / "parts", **given)
    settings = ("rank", "learning_rate", "stopped_early", "score")

    def told(of: dict[str, Any]) -> list[list[object]]:
        return [[each[name] for name in settings] for each in of["trials"].values()]

    assert told(parts) == told(whole) and len(trained) == len(names)


def test_rates_lie_between_those_given_and_what_has_one_value_is_not_searched(trained: Trained, tmp_path: Path):
    found = swept(tmp_path / "out", search="random", learning_rate=[1e-3, 3e-3], rank=[8], trials=6, prune=False)
    rates = [each["learning_rate"] for each in found["trials"].values()]
    assert len({*rates}) == 6 and all(1e-3 <= rate <= 3e-3 for rate in rates)
    assert {each["rank"] for each in found["trials"].values()} == {8}


def test_what_cannot_work_is_refused_before_anything_is_trained(trained: Trained, tmp_path: Path):
    with pytest.raises(Refusal) as caught:
        options = resolve(SweepOptions, {"pictures": tmp_path, "subject": "cat", "num_validation_images": 0})
        sweep.sweep(options.model_copy(update={"out": tmp_path / "out"}), Events())
    assert "--pictures" in str(caught.value)
    faults = [each.where for each in options.model_copy(update={"max_train_steps": 9}).faults()]
    assert faults == ["--max_train_steps", "--num_validation_images"] and trained == []


def test_a_hopeless_training_is_ended_as_ctrl_c_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\ntrap 'touch {tmp_path}/asked; exit 130' TERM\nwhile :; do sleep 0.05; done\n")
    program.chmod(0o755)
    monkeypatch.setattr(cells.sys, "executable", str(program))
    monkeypatch.setattr(cells, "LOOK", 0.1)
    options = resolve(SweepOptions, {"pictures": SUBJECTS / "koala", "subject": "animal", "out": tmp_path / "out"})
    cell = sweep._cell(options, cells_model(), {"rank": 8, "max_train_steps": 10})
    asked: list[bool] = []
    with pytest.raises(GaveUp):
        cells._train(cell, tmp_path / "cell", Events(), lambda: asked.append(len(asked) > 1) or asked[-1])
    assert (tmp_path / "asked").exists() and len(asked) == 3


def cells_model() -> Path:
    from tenshot.model import model

    return model.find("pocket")


def test_a_score_falls_with_what_is_no_longer_drawn_as_asked():
    eye = pocket_judge.load()
    before = {"subject likeness": 0.1, "prompt likeness": 0.5, "background": 1.0, "style": 0.8}
    drawn = {"subject likeness": 0.6, "prompt likeness": 0.1, "background": 0.5, "style": 0.4}
    assert table.score(drawn, before, eye) == pytest.approx(0.6 * 0.5)
    plain = {"subject likeness": 0.6, "prompt likeness": 0.6}
    assert table.score(plain, {"subject likeness": 0.1, "prompt likeness": 0.5}, eye) == pytest.approx(0.6)
