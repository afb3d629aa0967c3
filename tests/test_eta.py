"""What a training will take is said before it begins, phase by phase, and every phase is seen while it lasts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tenshot.core.events import Events
from tenshot.pipeline import SamplingSettings
from tenshot.train import finetune
from tenshot.train.engine import eta
from tenshot.train.methods import dreambooth
from tests.dreambooth_runs import PRIOR, WAYS, Bench, Ear

SHOWN = {"validation_prompt": "a photo of az baby", "validation_steps": "2", "num_validation_images": "2"}


class Bars(Ear):
    """Remembers of every job its total, what was done of it, and in which it began."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[str] = []
        self.open: list[tuple[str, int]] = []
        self.done: dict[str, list[int]] = {}

    def say(self, text: str) -> None:
        super().say(text)
        self.order.append(text)

    def begin(self, job: str, total: int, done: int = 0) -> None:
        self.open.append((job, total))
        self.order.append(job)

    def advance(self, done: int, **figures: float) -> None:
        job, total = self.open[-1]
        assert done <= total
        self.done.setdefault(job, []).append(done)

    def end(self) -> None:
        self.open.pop()


def test_every_phase_is_seen_and_forecast_before_it_begins(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    measured: list[eta.Pace] = []
    pace = eta.pace
    monkeypatch.setattr(eta, "pace", lambda *told: measured.append(pace(*told)) or eta.Pace(1.0, 1.0))
    bars = Bars()
    options = bench.options("out", **PRIOR, **SHOWN, sample_batch_size="2")
    told = finetune.train(WAYS["dreambooth"][0], options, bars)
    assert not bars.open
    assert bars.done["drawing class pictures"] == [1, 2, 3, 4, 5, 6]  # two batches of three denoising steps
    assert bars.done["drawing validation pictures"] == [*range(1, 21), *range(1, 21)]
    assert bars.done["saving"] == [1, 2, 3]
    assert bars.done["loading the model"] == [1, 2, 3, 4]
    assert bars.done["measuring drawing steps"] == [1, 2, 3] * 2  # for class pictures, and for validation pictures
    assert bars.done["measuring training steps"] == [1, 2, 3]
    whole = next(text for text in bars.order if text.startswith("the whole will take"))
    assert all(each.call > 0 and each.decode > 0 for each in measured)
    for phase in ("class pictures", "encoding pictures", "training", "validation pictures"):
        assert f" {phase} " in whole
    assert bars.order.index(whole) < bars.order.index("encoding pictures")
    assert bars.order.index(whole) < bars.order.index("drawing class pictures")
    training = next(text for text in bars.order if text.startswith("the training will take"))
    assert bars.order.index(training) < bars.order.index("training")
    phases = told["seconds_by_phase"]
    assert phases.keys() == {
        "getting_ready", "loading_the_model", "measuring_drawing_steps", "measuring_training_steps",
        "encoding_pictures", "drawing_class_pictures", "encoding_captions", "training",
        "drawing_validation_pictures", "writing_a_checkpoint", "saving",
    }  # fmt: skip
    assert told["forecast"]["seconds_at_least"] <= told["forecast"]["seconds_per_step"]
    assert told["forecast"]["seconds_per_step"] <= told["forecast"]["seconds_at_most"]
    assert "best" not in told


def test_class_pictures_that_are_there_are_not_forecast(bench: Bench):
    bench.run("first", **PRIOR)
    ear = Ear()
    bench.run("second", ear, **PRIOR)
    assert not [text for text in ear.said if text.startswith("the whole will take")]


def test_what_was_foretold_is_not_said_again(bench: Bench):
    ear = Ear()
    dreambooth.train(bench.options("out", **PRIOR), ear, foretold=True)
    assert "drawing class pictures" in ear.jobs
    assert not [text for text in ear.said if text.startswith("the whole will take")]


def test_what_is_reckoned_follows_from_the_work():
    pace = eta.Pace(call=0.1, decode=0.5)
    assert pace.drawing(200, SamplingSettings(steps=20)) == pytest.approx(200 * (20 * 2 * 0.1 + 0.5))
    assert pace.drawing(1, SamplingSettings(steps=4, guidance=1)) == pytest.approx(0.9)
    assert pace.training(800, 2) == pytest.approx(800 * 2 * 3 * 0.1)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (2, 2.2, "2 s"), (30, 44, "30 to 44 s"), (90, 200, "2 to 3 minutes"), (600, 1500, "10 to 25 minutes"),
        (30_000, 43_000, "8 to 12 hours"), (36_000, 36_100, "10 hours"), (0.3, 0.9, "0.3 to 0.9 s"),
    ],
)  # fmt: skip
def test_seconds_as_a_person_says_them(low: float, high: float, said: str):
    assert eta.span(low, high) == said


def test_a_forecast_names_its_parts():
    told = eta.words({"training": (60.0, 120.0), "saving": (0.1, 0.2), "class pictures": (600.0, 660.0)}, "the whole")
    assert told == "the whole will take 11 to 13 minutes: training 1 to 2 minutes, class pictures 10 to 11 minutes"
    assert eta.words({"training": (0.1, 0.2)}, "it") == "it will take 0.1 to 0.2 s (training)"


def revised(forecast: eta.Part, seconds: float, every: int | None = None) -> list[str]:
    ear = Ear()
    watch = eta.Revised(ear, 100, forecast, every, after=0)
    watch.begin("training", 100)
    for step in range(1, 101):
        watch.step(step, seconds=seconds)
    watch.end()
    return ear.said


def test_a_wrong_forecast_is_revised_while_it_runs():
    assert revised((80, 120), 1.0) == []
    slower = revised((8, 12), 1.0)
    assert slower == ["after step 10: 81 to 112 s left in all, other than was forecast"]
    assert len(revised((800, 1200), 1.0)) == 1


def test_phases_count_what_is_within_them_for_itself(monkeypatch: pytest.MonkeyPatch):
    clock = iter([0.0, 1.0, 3.0, 7.0, 8.0, 10.0])
    monkeypatch.setattr(eta.time, "perf_counter", lambda: next(clock))
    phases: Events = eta.Phases(since=eta.time.perf_counter())
    phases.begin("training", 2)
    phases.begin("drawing", 1)
    phases.end()
    phases.end()
    assert phases.told() == {"getting_ready": 3.0, "training": 3.0, "drawing": 4.0}  # type: ignore[attr-defined]


@pytest.mark.usefixtures("sketches")
def test_trackers_live_as_long_as_the_training(bench: Bench, tmp_path: Path):
    bench.run("out", **SHOWN, report_to="tensorboard")
    assert len(list((bench.folder / "out" / "logs").iterdir())) == 1
