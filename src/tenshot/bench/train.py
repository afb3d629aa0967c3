"""How fast training is here: the straightforward recipe and ours, the same work, in one run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypedDict

import torch

from tenshot.bench import plain, sizes
from tenshot.bench.options import BenchTrainOptions
from tenshot.cli.output import in_one_line
from tenshot.core import device
from tenshot.core.alone import alone
from tenshot.core.events import Events, track
from tenshot.core.options import resolve
from tenshot.core.shipped import ASSETS
from tenshot.io.image_folder import read_folder
from tenshot.model import model
from tenshot.train.data import image_latents
from tenshot.train.data.captions import Captions
from tenshot.train.engine import loop
from tenshot.train.engine.diffusion_loss import DiffusionLoss
from tenshot.train.methods.dreambooth import METHOD as DREAMBOOTH
from tenshot.train.methods.lora import METHOD as LORA
from tenshot.train.options import DreamBoothOptions, LoraOptions

PICTURES, CLASSES = ASSETS / "subjects" / "koala", ASSETS / "subjects" / "sloth"
PLAIN, OURS = "straightforward", "tenshot"


class Round(TypedDict):
    """Of each step the loss, and seconds by the clock and of the processor; memory in bytes."""

    losses: list[float]
    seconds: list[float]
    work: list[float]
    peak: int
    libraries: int


class Row(TypedDict):
    method: str
    recipe: str
    seconds_per_step: float
    steps_per_second: float
    cpu_seconds_per_step: float
    peak_memory_bytes: int
    peak_memory_bytes_without_libraries: int
    losses: list[float]


class Ratio(TypedDict):
    """speedup: the straightforward recipe's time by ours. memory_ratio: our memory by that recipe's."""

    method: str
    speedup: float
    speedup_by_cpu_seconds: float
    memory_ratio: float
    memory_ratio_without_libraries: float
    largest_loss_difference: float


class Figures(TypedDict):
    """All that a bench of training tells."""

    model: str
    precision: str
    machine: Mapping[str, object]
    rows: list[Row]
    ratios: list[Ratio]


def bench(options: BenchTrainOptions, events: Events) -> Figures:
    """Every recipe in a process of its own, in turns; for each method the figures and ours as a ratio to the usual."""
    device.pick(options.device)
    turns = [(method, recipe) for method in options.method for _ in range(options.rounds) for recipe in (PLAIN, OURS)]
    found: dict[tuple[str, str], list[Round]] = {}
    for method, recipe in track(turns, "measuring", len(turns), events):
        found.setdefault((method, recipe), []).append(alone(_turn, options, method, recipe, what=f"{recipe}, {method}"))
    rows = [_row(method, recipe, rounds) for (method, recipe), rounds in found.items()]
    for row in rows:
        events.say(in_one_line({name: value for name, value in row.items() if name != "losses"}))
    ratios = [_ratio(method, rows) for method in options.method]
    for ratio in ratios:
        events.say(in_one_line(ratio))
    return {
        "model": options.model,
        "precision": _precision(options),
        "machine": device.describe(),
        "rows": rows,
        "ratios": ratios,
    }


def _row(method: str, recipe: str, rounds: Sequence[Round]) -> Row:
    seconds = median(second for each in rounds for second in each["seconds"])
    work = median(second for each in rounds for second in each["work"])
    return {
        "method": method,
        "recipe": recipe,
        "seconds_per_step": round(seconds, 4),
        "steps_per_second": round(1 / seconds, 3),
        "cpu_seconds_per_step": round(work, 4),
        "peak_memory_bytes": max(each["peak"] for each in rounds),
        "peak_memory_bytes_without_libraries": max(each["peak"] - each["libraries"] for each in rounds),
        "losses": rounds[0]["losses"],
    }


def _ratio(method: str, rows: Sequence[Row]) -> Ratio:
    one, other = (next(r for r in rows if (r["method"], r["recipe"]) == (method, name)) for name in (PLAIN, OURS))
    bare = [each["peak_memory_bytes_without_libraries"] for each in (one, other)]
    apart = max(abs(a - b) / abs(a) for a, b in zip(one["losses"], other["losses"], strict=True))
    return {
        "method": method,
        "speedup": round(one["seconds_per_step"] / other["seconds_per_step"], 2),
        "speedup_by_cpu_seconds": round(one["cpu_seconds_per_step"] / other["cpu_seconds_per_step"], 2),
        "memory_ratio": round(other["peak_memory_bytes"] / one["peak_memory_bytes"], 2),
        "memory_ratio_without_libraries": round(bare[1] / bare[0], 2),
        "largest_loss_difference": float(f"{apart:.1e}"),
    }


def _turn(options: BenchTrainOptions, method: str, recipe: str) -> Round:
    """One round, alone in its process. work: the processor's own seconds."""
    libraries = device.memory_allocated()
    losses, seconds, work = [], [], []
    turns = _recipe(options, method, recipe)
    losses.append(next(turns))
    device.reset_max_memory_allocated()
    for _ in range(options.steps):
        start, began = time.perf_counter(), time.process_time()
        losses.append(next(turns))
        seconds.append(time.perf_counter() - start)
        work.append(time.process_time() - began)
    return {
        "losses": losses,
        "seconds": seconds,
        "work": work,
        "peak": device.max_memory_allocated(),
        "libraries": libraries,
    }


def _recipe(options: BenchTrainOptions, method: str, recipe: str) -> Iterator[float]:
    """The losses of a recipe, step by step."""
    where = device.pick(options.device)
    base = model.load("pocket", device=where) if options.model == "pocket" else sizes.random_model(options.model, where)
    told = _told(options, method)
    torch.manual_seed(0)
    if recipe == PLAIN:
        paths = [sorted(folder.glob("*.png")) for folder in (PICTURES, CLASSES)]
        return plain.steps(base, told, *paths)
    side = told.resolution or base.resolution
    folders = (PICTURES, CLASSES) if told.with_prior_preservation else (PICTURES,)
    pictures, *beside = (
        image_latents.encode(base, read_folder(each), image_latents.squares(side), Events())[0] for each in folders
    )
    way: Any = LORA if method == "lora" else DREAMBOOTH
    captions = Captions([told.instance_prompt or ""] * len(pictures))
    work = DiffusionLoss(way.trainable(base, told), told, pictures, captions, beside[0] if beside else None)
    work.prepare(Events())
    return (figures["loss"] for figures in loop.steps(work, told))


def _told(options: BenchTrainOptions, method: str) -> Any:
    given = {
        "instance_data_dir": PICTURES,
        "instance_prompt": "a photo of az bear",
        "train_batch_size": options.train_batch_size,
        "resolution": options.resolution,
        "mixed_precision": _precision(options),
        "output_dir": Path("unused"),
        "device": options.device,
    }
    if method == "lora":
        return resolve(LoraOptions, given)
    return resolve(DreamBoothOptions, given | {"with_prior_preservation": True, "class_prompt": "a photo of a bear"})


def _precision(options: BenchTrainOptions) -> str:
    if options.precision != "auto":
        return options.precision
    return "bf16" if options.model != "pocket" and device.bf16_is_native() else "no"
