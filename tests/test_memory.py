"""What does not fit into memory is made to fit, step by step, and goes on as it was settled."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from tenshot.core import device
from tenshot.core.errors import Refusal
from tenshot.core.recipes import read_recipe
from tenshot.train.engine import loop, memory
from tests.dreambooth_runs import Bench, Ear, losses, same_weights

GB = 10**9


def test_every_rung_but_the_last_learns_the_same(bench: Bench):
    found = list(memory.measures(bench.options("out", train_batch_size="6"), gpu=False))
    products = {rung.train_batch_size * rung.gradient_accumulation_steps for _, rung in found}
    assert products == {6}
    assert [rung.train_batch_size for _, rung in found] == [6, 6, 3, 1, 1]
    assert [rung.optimizer for _, rung in found] == ["adamw"] * 4 + ["adafactor"]


def _peaks(monkeypatch: pytest.MonkeyPatch, limit: int, *peaks: int | None) -> list[str]:
    """One step after the other is said to take so much; None: memory is out."""
    tried = []

    def forecast(method: object, options: object, step: int, *_: object) -> loop.Forecast:
        peak = peaks[min(len(tried), len(peaks) - 1)]
        tried.append(f"{options.train_batch_size}x{options.gradient_accumulation_steps}")  # type: ignore[attr-defined]
        if peak is None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loop.Forecast(0.1, peak)

    monkeypatch.setattr(loop, "forecast", forecast)
    monkeypatch.setattr(device, "memory_limit", lambda _: limit)
    return tried


def test_it_climbs_until_it_fits_says_so_and_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    plain = bench.run("plain", train_batch_size="4")
    tried = _peaks(monkeypatch, 2 * GB, None, 5 * GB, GB)
    ear = Ear()
    folder = bench.run("out", ear, train_batch_size="4", fit_memory=True)
    assert tried == ["4x1", "4x1", "2x2"]
    assert "it does not fit; trying in batches of 2, 2 accumulated: 1.0 GB at the peak" in ear.said
    assert losses(folder) == pytest.approx(losses(plain), rel=1e-4)
    assert read_recipe(folder / "recipe.yaml")["train_batch_size"] == 2
    shutil.copytree(folder, bench.folder / "more")
    whole = bench.run("whole", max_train_steps="5", train_batch_size="2", gradient_accumulation_steps="2",
                      gradient_checkpointing=True)  # fmt: skip
    more = bench.run("more", max_train_steps="5", train_batch_size="4", fit_memory=True)
    assert same_weights(more, whole)


def test_an_earlier_start_that_had_to_climb_is_forgotten(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    _peaks(monkeypatch, 2 * GB, 5 * GB, GB)
    folder = bench.run("out", fit_memory=True)
    shutil.rmtree(folder / "checkpoint-3")
    (folder / "manifest.json").unlink()
    _peaks(monkeypatch, 2 * GB, GB)
    bench.run("out", fit_memory=True)
    assert json.loads((folder / memory.FITTED).read_text()) == {}


def test_what_never_fits_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    _peaks(monkeypatch, GB, *[9 * GB] * 3)
    with pytest.raises(Refusal, match=r"9\.0 GB"):
        bench.run("out", fit_memory=True)


def test_the_forecast_is_made_on_the_largest_shape(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    from PIL import Image

    own = bench.folder / "own"
    own.mkdir()
    for number in range(5):
        Image.new("RGB", (64, 40), (number * 9, 0, 0)).save(own / f"{number}.png")
    Image.new("RGB", (64, 64)).save(own / "square.png")
    steps = []
    before = loop.forecast
    monkeypatch.setattr(loop, "forecast", lambda m, o, s, *e: (steps.append((m, s)), before(m, o, s, *e))[1])
    folder = bench.run("out", instance_data_dir=str(own), aspect_ratio_buckets=True, bucket_step="8")
    ((method, step),) = steps
    from tenshot.train.engine.rng import CounterRNG

    row = method.pictures.pick(CounterRNG(0, [step]), "picture")[0]
    sizes = method.pictures.sizes
    assert sizes[row] == max(sizes, key=lambda size: size[0] * size[1])
    assert json.loads((folder / "manifest.json").read_text())["forecast"]["peak_bytes"] > 0
