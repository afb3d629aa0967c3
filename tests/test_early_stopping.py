"""Stopping when it has learned: the rule itself, and a run that stops and is resumed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from tenshot.core.errors import Cancelled
from tenshot.evaluate import judge
from tenshot.train.engine import early_stopping, loop
from tenshot.train.engine.early_stopping import Sight
from tenshot.train.options import LoopOptions
from tests.dreambooth_runs import Bench, same_weights
from tests.dreambooth_runs import Ear as Listener
from tests.test_loop import Ear, Regression, options, weights

SHOWN = {"validation_prompt": "a photo of az baby", "validation_steps": "1000", "num_validation_images": "1"}
QUICK = {"EVERY": 1, "WINDOW": 3, "EARLIEST": 6}  # of early_stopping, for runs of few steps


class Eye(loop.Validator):
    """Looks every `every` steps and at the first; sees at step n the likeness `seen(n)`."""

    def __init__(self, every: int, seen: Callable[[int], float]) -> None:
        self.every, self.seen, self.looks = every, seen, list[int]()

    def due(self, step: int) -> bool:
        return step % self.every == 0

    def done(self, step: int) -> bool:
        return step in self.looks

    def validate(self, step: int) -> None:
        self.looks.append(step)

    def sight(self, step: int) -> Sight:
        return Sight(self.seen(step), self.seen(0), 0.9)


class Said(Ear):
    def __init__(self, last: int = 0) -> None:
        super().__init__(last)
        self.said = list[str]()

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in QUICK.items():
        monkeypatch.setattr(early_stopping, name, value)


def still(folder: Path, **given: object) -> LoopOptions:
    """Of a run whose loss soon lies still."""
    told = {"stop_when_learned": True, "max_train_steps": 60, "train_batch_size": 8, "learning_rate": 0.05}
    return options(folder, **told | given)


def test_three_quarters_of_the_way_are_recognised():
    assert [Sight(now, 0.2, 0.8).recognised for now in (0.2, 0.649, 0.651, 0.9)] == [False, False, True, True]
    assert [Sight(now, -0.4, 0.8).recognised for now in (0.499, 0.501)] == [False, True]
    assert not Sight(0.8, 0.78, 0.8).recognised  # before training as well: nothing to go by
    assert (
        "from step 620 on" in Sight(0.2, 0.2, 0.8).ahead() and "likeness 0.650 (0.200" in Sight(0.2, 0.2, 0.8).ahead()
    )
    assert "will not stop" in Sight(0.78, 0.78, 0.8).ahead()


@pytest.mark.usefixtures("quick")
def test_a_loss_that_lies_still_is_not_enough(tmp_path: Path):
    """Only at looks can it stop; where nothing is recognised it goes on, and says so."""
    ear, blind = Said(), Eye(100, lambda step: 0.2)
    assert loop.fit(Regression(), still(tmp_path / "blind"), ear, blind).step == 60
    print(ear.said)
    assert blind.looks[0] == 0 and blind.looks[-1] == 60
    (first,) = blind.looks[1:2]  # drawn although it was not due: the loss had come to lie still
    assert (
        f"it goes on: after step {first} the loss on fixed inputs lies still, but what is drawn does not" in ear.said[0]
    )
    assert "after step 60 the loss" in ear.said[-1] and "your pictures (likeness 0.200, 0.725 wanted)" in ear.said[-1]
    ear, early = Said(), Eye(100, lambda step: 0.8 if step else 0.2)
    assert loop.fit(Regression(), still(tmp_path / "early"), ear, early).step == first
    assert early.looks == [0, first] and ear.saved == [first]
    assert ear.said == [
        f"stopped after step {first} of 60: the loss on fixed inputs lies still, and what is drawn shows your pictures"
        " (likeness 0.800, 0.725 wanted)"
    ]
    late = Eye(7, lambda step: 0.8 if step > first else 0.2)
    stopped = loop.fit(Regression(), still(tmp_path / "late"), Said(), late).step
    assert first < stopped < 60 and late.looks[-1] == stopped


@pytest.mark.usefixtures("quick")
def test_a_judge_that_cannot_tell_stops_nothing_and_is_said_to(tmp_path: Path):
    ear = Said()
    assert loop.fit(Regression(), still(tmp_path), ear, Eye(100, lambda step: 0.9 if step else 0.88)).step == 60
    assert ear.said[-1] == (
        "after step 60 the loss on fixed inputs lies still, but the judge cannot tell your pictures from others"
        " (likeness 0.880 before training, 0.900 among your pictures)"
    )


@pytest.mark.usefixtures("quick")
def test_a_run_that_was_cut_stops_where_it_would_have(tmp_path: Path):
    def seen(step: int) -> float:
        return 0.8 if step > 20 else 0.2

    whole = loop.fit(Regression(), still(tmp_path / "whole"), Said(), Eye(7, seen)).step
    assert 20 < whole < 60
    for cut in (whole - 8, whole - 1, whole):
        place, eye = tmp_path / f"cut{cut}", Eye(7, seen)
        with pytest.raises(Cancelled):
            loop.fit(Regression(), still(place), Said(cut), eye)
        assert loop.fit(Regression(), still(place), Said(), eye).step == whole
        assert loop.fit(Regression(), still(place), Said(), eye).step == whole  # and there it stays


@pytest.mark.usefixtures("quick")
def test_a_loss_that_moves_is_said_to(tmp_path: Path):
    ear = Said()
    loop.fit(Regression(), still(tmp_path, learning_rate=1e-6, max_train_steps=7), ear, Eye(100, lambda step: 0.2))
    assert ear.said[-1].startswith("--stop_when_learned did not stop it: the loss on fixed inputs moves")


def test_it_is_refused_where_it_could_never_stop(bench: Bench):
    assert bench.refused("a", stop_when_learned=True, max_train_steps="800") == ["--stop_when_learned"]
    assert bench.refused("b", stop_when_learned=True, max_train_steps="620", **SHOWN) == ["--stop_when_learned"]
    bench.options("c", stop_when_learned=True, max_train_steps="621", **SHOWN)


@pytest.mark.usefixtures("quick", "sketches")
def test_a_training_stops_on_what_is_seen(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    """Through all of the house, with a judge who sees what he is told to."""
    likeness = iter([0.1, 0.75, 0.75])
    monkeypatch.setattr(judge.Judge, "likeness", lambda *_: next(likeness))
    monkeypatch.setattr(judge.Judge, "likeness_within", lambda *_: 0.9)
    monkeypatch.setattr(early_stopping, "STILL", math.inf)  # any loss will do
    ear = Listener()
    given = {"stop_when_learned": True, "keep_best": True, "max_train_steps": "621"}
    folder = bench.run("out", ear, **given, **SHOWN)
    told = json.loads((folder / "manifest.json").read_text())
    assert told["steps"] == 6 and told["best"] == {"step": 6, "likeness": 0.75}  # the final weights are judged, too
    assert told["likeness_by_step"] == {"0": 0.1, "6": 0.75}
    assert same_weights(folder, folder / "best")
    said = "\n".join(ear.said)
    assert "--stop_when_learned can stop from step 6 on" in said and "likeness 0.700 (0.100 before training" in said
    assert "stopped after step 6 of 621" in said
    assert "most like your pictures: step 6 of 6, likeness 0.750 (before training 0.100)" in said
    bench.run("out", **given, **SHOWN)  # the same command: nothing is left to do
    (folder / "validation/likeness.json").write_text(
        '{"0": 0.1}'
    )  # it was killed before the last look's figure was kept
    bench.run("out", **given, **SHOWN)
    told = json.loads((folder / "manifest.json").read_text())
    assert told["steps"] == 6 and told["likeness_by_step"] == {"0": 0.1, "6": 0.75} and not list(likeness)
    assert bench.refused("out", **given, **SHOWN | {"validation_prompt": "a baby"}) == ["--output_dir"]


def test_a_loss_that_falls_has_not_learned_and_one_that_lies_still_has():
    falling = [1 - n / 1000 for n in range(75)]
    assert not any(early_stopping.converged(falling[:n]) for n in range(75))
    settled = [math.exp(-n / 3) for n in range(90)]
    assert next(n for n in range(90) if early_stopping.converged(settled[:n])) == 2 * early_stopping.WINDOW


@pytest.mark.slow
def test_a_run_stops_by_itself_and_so_does_one_that_was_cut(tmp_path: Path):
    given = {"stop_when_learned": True, "max_train_steps": 5000, "train_batch_size": 8, "learning_rate": 0.05}
    whole, ear = Regression(), Ear()
    fit = loop.fit(whole, options(tmp_path / "whole", **given), ear)
    assert 2 * early_stopping.WINDOW * early_stopping.EVERY <= fit.step < 5000
    assert ear.saved[-1] == fit.step
    with pytest.raises(Cancelled):
        loop.fit(Regression(), options(tmp_path / "cut", **given), Ear(405))
    cut = Regression()
    assert loop.fit(cut, options(tmp_path / "cut", **given), Ear()).step == fit.step
    assert weights(cut) == weights(whole)
    again = Regression()
    assert loop.fit(again, options(tmp_path / "cut", **given), Ear()).step == fit.step
    assert weights(again) == weights(whole)
