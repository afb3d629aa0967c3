"""One training and what it came to. It is kept: a comparison that was stopped goes on where it was."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tenshot import pipeline
from tenshot.adapters import embedding
from tenshot.compare.options import CompareOptions
from tenshot.core import device
from tenshot.core.errors import Cancelled, Fault, Refusal
from tenshot.core.events import Events
from tenshot.core.json_types import Config
from tenshot.core.recipes import as_recipe
from tenshot.evaluate import measures, prompts
from tenshot.evaluate.judge import Judge
from tenshot.evaluate.measures import Figures, Subject
from tenshot.evaluate.prompts import EvaluationPrompt
from tenshot.io import tensors, text_files
from tenshot.io.images import open_picture
from tenshot.pipeline import Request, SamplingSettings
from tenshot.runtime import compiled_model
from tenshot.runtime.compiled_model import CompiledModel
from tenshot.train.options import FineTuneOptions
from tenshot.train.subject_options import Method
from tenshot.train.ways import WAYS, called

CLASSES = 2  # pictures of the class for each seed


@dataclass(frozen=True)
class Cell:
    """name: of its folder. training: None for the model as it is."""

    name: str
    method: Method | None = None
    training: FineTuneOptions | None = None


@dataclass(frozen=True)
class Outcome:
    """costs: seconds, seconds_per_step, peak_bytes, file_bytes, of a training. drawn: prompt -> pictures, the class
    prompt last."""

    cell: Cell
    figures: Figures
    costs: Mapping[str, float]
    drawn: Mapping[str, Sequence[Image.Image]]


@dataclass(frozen=True)
class Examination:
    """What every cell is put to."""

    options: CompareOptions
    judge: Judge
    of: Subject

    def asked(self, name: str) -> list[EvaluationPrompt]:
        if self.options.clip:
            return prompts.of_places(name, self.options.subject)
        return prompts.of_contexts(self.of.shown, name, self.options.subject)

    def outcome(self, cell: Cell, place: Path, events: Events) -> Outcome:
        """Trained, drawn and measured, or as it is kept. place: the untuned model's. Raises Refusal, Cancelled."""
        folder, told = self.options.out / "cells" / cell.name, self._told(cell)
        if (kept := _kept(folder, told)) is None:
            costs = _train(cell, folder, events)
            figures, drawn = self._examined(cell, place, events)
            _keep(folder, told, figures, costs, drawn)
            return Outcome(cell, figures, costs, drawn)
        figures, costs, drawn = kept
        return Outcome(cell, figures, costs, drawn)

    def _told(self, cell: Cell) -> Config:
        """What the outcome depends on."""
        options = self.options
        drawing = {
            "judge": self.judge.name,
            "seed": options.seed,
            "seeds": options.seeds,
            "unseen": len(self.of.unseen),
        }
        return {**drawing, "training": cell.training.model_dump(mode="json") if cell.training else None}

    def _examined(self, cell: Cell, place: Path, events: Events) -> tuple[Figures, dict[str, list[Image.Image]]]:
        options, count = self.options, self.options.seeds
        asked = self.asked(called(options, cell.method) if cell.method else options.noun)
        wanted = [Request(each.prompt, options.seed + n) for each in asked for n in range(count)]
        wanted += [Request(self.of.class_prompt, options.seed + n) for n in range(CLASSES * count)]
        opened = _opened(cell, place, options.device, events)
        images = pipeline.images(opened, wanted, SamplingSettings(batch=8), events, f"drawing, {cell.name}")
        drawn = {each.prompt: images[n * count : (n + 1) * count] for n, each in enumerate(asked)}
        classes = images[len(asked) * count :]
        return measures.of_drawn(self.judge, self.of, asked, drawn, classes), {**drawn, self.of.class_prompt: classes}


def _opened(cell: Cell, place: Path, on: str, events: Events) -> CompiledModel:
    where = device.pick(on)
    if cell.method is None or cell.training is None:
        return compiled_model.load(place, device=where, events=events)
    (made,) = WAYS[cell.method].method.results(cell.training)
    if made.kind == "checkpoint":
        return compiled_model.load(made.path, device=where, events=events)
    base = compiled_model.load(place, device=where, events=events)
    if made.kind == "lora":
        base.set_loras({made.path: 1.0})
        return base
    word, rows = embedding.read(made.path)
    return base.with_word(word, rows)


def _train(cell: Cell, folder: Path, events: Events) -> dict[str, float]:
    """In a process of its own, so that its peak memory is its own; it says itself how far it is."""
    if cell.method is None or cell.training is None:
        return {}
    events.say(f"training {cell.name}")
    way = WAYS[cell.method]
    recipe = folder / "recipe.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    tensors.write_text(recipe, as_recipe(cell.training))
    command = [sys.executable, "-m", "tenshot", "train", way.verb, "--recipe", str(recipe), "--json"]
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if ended.returncode == 130 or events.cancelled():
        raise Cancelled
    told = _answer(ended.stdout)
    if ended.returncode:
        faults = [Fault(**each) for each in told.get("faults", [])]
        found = f"training ended with {ended.returncode}: {told.get('message', 'no word')}"
        do = f"see {cell.training.output_dir / 'tenshot.log'}; the same command goes on where it was"
        raise Refusal(*faults or [Fault(cell.name, found, do=do)])
    made = [each.path for each in way.method.results(cell.training)]
    return {
        "seconds": told["seconds"],
        "seconds_per_step": told["seconds"] / told["steps"],
        "peak_bytes": told["peak_bytes"],
        "file_bytes": sum(_size(each) for each in made),
    }


def _answer(written: bytes) -> Config:
    try:
        found = text_files.parsed(written)
    except ValueError:  # it was killed before it said anything
        return {}
    return found if isinstance(found, dict) else {}


def _size(path: Path) -> int:
    """Of a file, or of the weights in a model folder."""
    files = [path] if path.is_file() else [f for f in path.rglob("*.safetensors") if "checkpoint-" not in str(f)]
    return sum(file.stat().st_size for file in files)


def _keep(
    folder: Path,
    told: Config,
    figures: Figures,
    costs: Mapping[str, float],
    drawn: Mapping[str, Sequence[Image.Image]],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for row, images in enumerate(drawn.values()):
        for number, image in enumerate(images):
            with tensors.replacing(folder / f"{row:02d}-{number:02d}.png") as temporary:
                image.save(temporary, format="PNG")
    counts = {prompt: len(images) for prompt, images in drawn.items()}
    tensors.write_json(folder / "cell.json", {"told": told, "figures": figures, "costs": costs, "drawn": counts})


def _kept(folder: Path, told: Config) -> tuple[Figures, dict[str, float], dict[str, list[Image.Image]]] | None:
    """What is there of a cell, if it is whole and was made as `told`."""
    try:
        found = text_files.read_object(folder / "cell.json")
        if found["told"] != text_files.parsed(json.dumps(told)):
            return None
        drawn = {
            prompt: [open_picture(folder / f"{row:02d}-{number:02d}.png") for number in range(count)]
            for row, (prompt, count) in enumerate(found["drawn"].items())
        }
    except (Refusal, KeyError, OSError):
        return None
    return found["figures"], found["costs"], drawn
