"""The pocket model learns a subject it never saw, keeps its prompts, and with prior preservation keeps its class."""

from __future__ import annotations

from pathlib import Path

import pytest

from tenshot.core.events import Events
from tenshot.core.json_types import key
from tenshot.core.options import resolve
from tenshot.core.shipped import ASSETS
from tenshot.demo.demo import DemoOptions, demo
from tenshot.report.record import UNTUNED, WITH_PRIOR, WITHOUT_PRIOR
from tenshot.train import finetune
from tenshot.train.methods import dreambooth
from tenshot.train.options import DreamBoothOptions
from tests import test_methods as methods

STEPS = 300


def test_forty_steps_bring_the_subject_near(tmp_path: Path) -> None:
    """The shortest proof that it learns; the whole demo below takes minutes."""
    told = methods.NAMED | {"max_train_steps": 40, "learning_rate": 5e-4, "output_dir": tmp_path / "out"}
    finetune.train(dreambooth.METHOD, resolve(DreamBoothOptions, told), Events())
    before, after = (
        methods.likeness(methods.whole(place), "az bear", seeds=2, steps=10)
        for place in (ASSETS / "pocket", tmp_path / "out")
    )
    assert after > before + 0.15  # .040 -> .486 seen


@pytest.fixture(scope="module")
def measures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    folder = tmp_path_factory.mktemp("demo")
    options = DemoOptions(out=folder / "out", max_train_steps=STEPS, seeds=2)
    found = demo(options, Events())
    assert Path(found["page"]).is_file()
    return found["measures"]


@pytest.mark.slow
def test_subject_likeness_rises_clearly(measures: dict[str, dict[str, float]]) -> None:
    assert measures[key(WITH_PRIOR)]["subject_likeness"] > measures[key(UNTUNED)]["subject_likeness"] + 0.1


@pytest.mark.slow
def test_prompt_likeness_stays_within_a_tenth(measures: dict[str, dict[str, float]]) -> None:
    before = measures[key(UNTUNED)]["prompt_likeness"]
    assert abs(measures[key(WITH_PRIOR)]["prompt_likeness"] - before) <= 0.1 * abs(before)


@pytest.mark.slow
def test_the_class_is_better_kept_with_prior_preservation(measures: dict[str, dict[str, float]]) -> None:
    assert measures[key(WITH_PRIOR)]["pres"] < measures[key(WITHOUT_PRIOR)]["pres"]
