"""The learning rate where none is given, and what is said of one that is far from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tenshot.core.options import resolve
from tenshot.families.registry import FAMILIES
from tenshot.train import learning_rates
from tenshot.train.methods import distillation
from tenshot.train.options import DreamBoothOptions, FullOptions, LoraOptions, TextualInversionOptions
from tests.dreambooth_runs import WAYS, Ear

NEEDED = {
    "instance_data_dir": ".",
    "instance_prompt": "az",
    "train_data_dir": ".",
    "placeholder_token": ["<az>"],
    "initializer_token": ["a"],
}


@pytest.mark.parametrize(("kind", "method", "family", "million", "usual"), [
    (DreamBoothOptions, "dreambooth", "sd1", 860, 5e-6),
    (DreamBoothOptions, "dreambooth", "sd3", 2000, 1e-4),
    (DreamBoothOptions, "dreambooth", "sd1", 12, 3e-4),
    (LoraOptions, "lora", "sdxl", 2600, 1e-4),
    (LoraOptions, "lora", "sd3", 2000, 4e-4),
    (LoraOptions, "lora", "sd1", 12, 2e-3),
    (FullOptions, "full", "sd2", 860, 1e-5),
    (TextualInversionOptions, "textual-inversion", "sd1", 860, 5e-3),
    (TextualInversionOptions, "textual-inversion", "sd1", 12, 1e-3),
])  # fmt: skip
def test_rates_that_are_an_order_off(kind: Any, method: str, family: str, million: int, usual: float):
    def said(factor: float, **given: Any) -> list[str]:
        given |= {name: each for name, each in NEEDED.items() if name in kind.model_fields}
        options = resolve(kind, given | {"learning_rate": usual * factor})
        return list(learning_rates.far_off(options, method, family, million * 1_000_000))

    assert said(1) == said(0.11) == said(9) == []
    (low,), (high,) = said(1 / 30), said(30)
    assert "may learn nothing: 30 times below" in low and f"{usual:g}, usual for {method} of a {family} model" in low
    assert "may spoil it: 30 times above" in high
    assert "below 1," in said(1, optimizer="prodigy")[0] and said(1 / usual, optimizer="prodigy") == []


def test_methods_have_the_names_that_rates_go_by():
    assert {*(method.name for method, _ in WAYS.values()), distillation.NAME} == set(learning_rates.SMALL_RATES)
    assert set(learning_rates.FAMILY_RATES) <= {family.name for family in FAMILIES}


def test_where_none_is_given_the_model_decides(sd1: Path, tmp_path: Path):
    def rate(ear: Ear, model: str, **given: Any) -> float:
        own = {"instance_data_dir": tmp_path, "instance_prompt": "az", "pretrained_model_name_or_path": model}
        options = resolve(LoraOptions, own | given)
        return learning_rates.settled("lora", options, ear).learning_rate

    ear, quiet = Ear(), Ear()
    assert rate(ear, str(sd1)) == 2e-3 and ear.said == [
        "--learning_rate 0.002, usual for lora of such a model; none was given"
    ]
    assert rate(quiet, str(sd1), learning_rate=1e-4) == 1e-4
    assert rate(quiet, str(tmp_path)) == 1e-4  # no model: whoever looks at it will say so
    assert quiet.said == []
