"""The same pictures by every method on the pocket model: each learns the subject, and its files work elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tenshot
from tenshot import pipeline
from tenshot.adapters import embedding
from tenshot.core.events import Events
from tenshot.core.options import resolve
from tenshot.core.shipped import ASSETS
from tenshot.evaluate import pocket_judge
from tenshot.io.image_folder import read_folder
from tenshot.io.images import open_picture
from tenshot.model import model
from tenshot.model.model import Model
from tenshot.pipeline import Request, SamplingSettings
from tenshot.train import finetune
from tests.dreambooth_runs import WAYS

pytestmark = pytest.mark.slow

SUBJECT = ASSETS / "subjects" / "koala"
CONTEXTS = ("a 3d emoji of {} on an orange background", "a flat emoji of {} on a green background")
COMMON = {"train_batch_size": 4, "report_to": "none", "device": "cpu", "seed": 0}
NAMED = {"instance_data_dir": SUBJECT, "instance_prompt": "a photo of az bear", **COMMON}


def whole(folder: Path) -> Model:
    return model.load(str(folder))


def with_lora(folder: Path) -> Model:
    opened = tenshot.load("pocket")
    opened.set_loras({folder: 1})
    return opened


def with_word(folder: Path) -> Model:
    return embedding.add(model.load("pocket"), *embedding.read(folder / "az.safetensors"))


METHODS: dict[str, tuple[dict[str, Any], str, Callable[[Path], Model]]] = {
    "dreambooth": (NAMED | {"max_train_steps": 200, "learning_rate": 3e-4}, "az bear", whole),
    "lora": (
        NAMED | {"max_train_steps": 300, "learning_rate": 2e-3, "rank": 8, "layers": "all"},
        "az bear",
        with_lora,
    ),
    "full": (COMMON | {"max_train_steps": 200, "learning_rate": 3e-4}, "az bear", whole),
    "inversion": (
        COMMON
        | {
            "train_data_dir": SUBJECT,
            "placeholder_token": ["<az>"],
            "initializer_token": ["bear"],
            "num_vectors": 4,
            "max_train_steps": 300,
            "learning_rate": 1e-4,
        },
        "<az>",
        with_word,
    ),
}


def likeness(opened: Model, noun: str, seeds: int = 4, steps: int = 20) -> float:
    """Of pictures in contexts that were not given, drawn in so many steps, to those that were."""
    wanted = [Request(context.format(noun), seed) for context in CONTEXTS for seed in range(seeds)]
    drawn = pipeline.images(opened, wanted, SamplingSettings(steps=steps, batch=8))
    given = [open_picture(example.path) for example in read_folder(SUBJECT)]
    return pocket_judge.load().likeness(drawn, given)


@pytest.fixture(scope="module")
def untuned() -> dict[str, float]:
    """By the prompt's noun; a new word begins as its initial word, which is what it has to better."""
    base = model.load("pocket")
    return {"az bear": likeness(base, "az bear"), "<az>": likeness(base, "bear")}


@pytest.mark.parametrize("method", METHODS)
def test_it_learns_the_subject(method: str, untuned: dict[str, float], tmp_path: Path):
    told, noun, opened = METHODS[method]
    if method == "full":
        captioned = shutil.copytree(SUBJECT, tmp_path / "captioned")
        for path in captioned.glob("*.png"):
            path.with_suffix(".txt").write_text("a photo of az bear")
        told = told | {"train_data_dir": captioned}
    way, kind = WAYS[method]
    finetune.train(way, resolve(kind, told | {"output_dir": tmp_path / "out"}), Events())
    learned = likeness(opened(tmp_path / "out"), noun)
    print(f"{method}: likeness {untuned[noun]:.3f} -> {learned:.3f}")
    assert learned > untuned[noun] + (0.03 if method == "inversion" else 0.1)
