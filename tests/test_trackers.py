"""Tracking services get what TensorBoard gets, through the calls that both libraries share."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tests.dreambooth_runs import Bench, losses


@pytest.mark.usefixtures("sketches")
@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_service_hears_every_step_and_sees_every_picture(name: str, bench: Bench, monkeypatch: pytest.MonkeyPatch):
    calls: list[tuple[str, Any]] = []
    library = SimpleNamespace(
        __spec__=True,
        init=lambda **told: calls.append(("init", told)),
        log=lambda values, step: calls.append(("log", (step, set(values)))),
        finish=lambda: calls.append(("finish", None)),
        Image=lambda pixels: pixels.shape,
    )
    monkeypatch.setitem(sys.modules, name, library)
    shown = {"validation_prompt": "az", "validation_steps": "2", "num_validation_images": "1"}
    bench.run("out", report_to=name, tracker_project_name="cats", **shown)
    (_, told), *logged, last = calls
    assert told["project"] == "cats"
    assert told["name"] == "out"
    assert told["config"]["learning_rate"] == 1e-3
    assert ("id" in told) == (name == "wandb")
    figures = {"train/loss", "train/rate", "train/norm", "train/seconds"}
    assert [entry for _, entry in logged if entry[1] == figures] == [(step, figures) for step in (1, 2, 3)]
    assert [entry for _, entry in logged if entry[1] != figures] == [(2, {"validation/0"}), (3, {"validation/0"})]
    assert last == ("finish", None)


@pytest.mark.parametrize(("name", "package"), [
    ("wandb", "wandb"), ("trackio", "trackio"), ("tensorboard", '"tenshot[tensorboard]"'),
])  # fmt: skip
def test_a_tracker_that_is_not_installed_is_said_and_the_losses_are_kept(
    name: str, package: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, name, None)
    (said,) = bench.options("out", report_to=name).notes()
    assert f"pip install {package})" in said
    folder = bench.run("out", report_to=name)
    assert len(losses(folder)) == 3
    assert not (folder / "logs").exists()


def test_without_tensorboard_the_default_is_silent(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    del bench.base["report_to"]
    options = bench.options("out")
    assert (options.tracker, [*options.notes()]) == ("none", [])
    monkeypatch.undo()
    assert bench.options("out").tracker == "tensorboard"
