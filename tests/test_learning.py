"""The pocket model learns a subject it never saw, keeps its prompts, and with prior preservation keeps its class."""

from __future__ import annotations

from pathlib import Path

import pytest

from tenshot.demo import DemoOptions, demo
from tenshot.events import Events
from tenshot.report.record import UNTUNED, WITH_PRIOR, WITHOUT_PRIOR

STEPS = 300


@pytest.fixture(scope="module")
def measures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    folder = tmp_path_factory.mktemp("demo")
    options = DemoOptions(out=folder / "out", max_train_steps=STEPS, seeds=2)
    found = demo(options, Events())
    assert Path(found["page"]).is_file()
    return found["measures"]


def test_subject_likeness_rises_clearly(measures: dict[str, dict[str, float]]) -> None:
    assert measures[WITH_PRIOR]["subject likeness"] > measures[UNTUNED]["subject likeness"] + 0.1


def test_prompt_likeness_stays_within_a_tenth(measures: dict[str, dict[str, float]]) -> None:
    before = measures[UNTUNED]["prompt likeness"]
    assert abs(measures[WITH_PRIOR]["prompt likeness"] - before) <= 0.1 * abs(before)


def test_the_class_is_better_kept_with_prior_preservation(measures: dict[str, dict[str, float]]) -> None:
    assert measures[WITH_PRIOR]["PRES"] < measures[WITHOUT_PRIOR]["PRES"]
