"""One training and what it came to. It is kept: a comparison that was stopped goes on where it was."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from tenshot import pipeline
from tenshot.adapters import embedding
from tenshot.compare.options import JudgedOptions
from tenshot.core import device
from tenshot.core.errors import Cancelled, Fault, Refusal
from tenshot.core.events import Events
from tenshot.core.json_types import Config
from tenshot.core.recipes import as_recipe
from tenshot.evaluate import measures, prompts
from tenshot.evaluate.judge import Judge
from tenshot.evaluate.measures import Figures, Subject
from tenshot.evaluate.prompts import EvaluationPrompt
from tenshot.export.install import Result
from tenshot.io import tensors, text_files
from tenshot.io.images import open_picture
from tenshot.pipeline import Request, SamplingSettings
from tenshot.report.record import UNTUNED
from tenshot.runtime import compiled_model
from tenshot.runtime.compiled_model import CompiledModel, Strength
from tenshot.train.distillation_options import DistillationOptions
from tenshot.train.engine import validation
from tenshot.train.methods import lora_weights
from tenshot.train.options import FineTuneOptions
from tenshot.train.subject_options import Method
from tenshot.train.ways import WAYS, called

STOPPED = 130  # the exit code of a command that was asked to stop
LOOK = 2.0  # seconds between two looks at a training
Hopeless = Callable[[Mapping[int, float]], bool]
FEW_STEPS = "few-steps"
CLASSES = 2  # pictures of the class for each seed


class GaveUp(Exception):
    """The training was found hopeless, and stopped."""


@dataclass(frozen=True)
class Cell:
    """name: of its folder. training: None for the model as it is. few_steps: makes a few-step LoRA for what `training`
    made."""

    name: str
    method: Method | None = None
    training: FineTuneOptions | None = None
    few_steps: DistillationOptions | None = None

    @property
    def row(self) -> str:
        """Of the table."""
        return FEW_STEPS if self.few_steps else self.method or UNTUNED

    @property
    def made(self) -> Result:
        """What comes out."""
        if self.few_steps:
            return lora_weights.results(self.few_steps)[0]
        assert self.method and self.training
        (result,) = WAYS[self.method].method.results(self.training)
        return result


@dataclass(frozen=True)
class Outcome:
    """costs: seconds, seconds_per_step, peak_bytes, file_bytes, of a training. drawn: prompt -> pictures, the class
    prompt last. likeness: of validation pictures, by step."""

    cell: Cell
    figures: Figures
    costs: Mapping[str, float]
    drawn: Mapping[str, Sequence[Image.Image]]
    likeness: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Examination:
    """What every cell is put to."""

    options: JudgedOptions
    judge: Judge
    of: Subject

    def asked(self, name: str) -> list[EvaluationPrompt]:
        if self.options.clip:
            return prompts.of_places(name, self.options.subject)
        return prompts.of_contexts(self.of.shown, name, self.options.subject)

    def outcome(self, cell: Cell, place: Path, events: Events, hopeless: Hopeless | None = None) -> Outcome:
        """Trained, drawn and measured, or as it is kept. place: the untuned model's.

        hopeless: asked with likeness by step so far, while it trains, whether to give up. Raises Refusal, Cancelled,
        and GaveUp.
        """
        folder, told = self.options.out / "cells" / cell.name, self._told(cell)
        if (kept := _kept(cell, folder, told)) is None:
            costs = _train(cell, folder, events, self._watch(cell, hopeless))
            figures, drawn, before = self._examined(cell, place, events)
            kept = Outcome(cell, figures, costs, drawn, self._likeness(cell, before))
            _keep(folder, told, kept)
        return kept

    def _watch(self, cell: Cell, hopeless: Hopeless | None) -> Callable[[], bool]:
        """Asks `hopeless` where something new was drawn since it was asked last."""
        seen = 0

        def watch() -> bool:
            nonlocal seen
            before, seen = seen, len(self._drawn(cell))
            return hopeless is not None and seen > before and hopeless(self._likeness(cell, []))

        return watch

    def _drawn(self, cell: Cell) -> dict[int, list[Path]]:
        """Validation pictures of each step at which all are there."""
        if not cell.training or cell.few_steps:
            return {}
        found, whole = validation.drawn(cell.training.output_dir), cell.training.num_validation_images
        return {step: paths for step, paths in found.items() if len(paths) >= whole}

    def _likeness(self, cell: Cell, before: Sequence[Image.Image]) -> dict[int, float]:
        """Of what was drawn during the training, by step; of `before` at step 0."""
        found = {step: [open_picture(path) for path in paths] for step, paths in self._drawn(cell).items()}
        found |= {0: [*before]} if before else {}
        return {step: self.judge.likeness(images, self.of.unseen or self.of.shown) for step, images in found.items()}

    def _told(self, cell: Cell) -> Config:
        """What the outcome depends on."""
        options = self.options
        drawing = {
            "judge": self.judge.name,
            "seed": options.seed,
            "seeds": options.seeds,
            "unseen": len(self.of.unseen),
            "before": 0 if cell.method else options.num_validation_images,
        }
        trainings = {"training": cell.training, "few_steps": cell.few_steps}
        return {**drawing, **{name: each.model_dump(mode="json") for name, each in trainings.items() if each}}

    def _examined(
        self, cell: Cell, place: Path, events: Events
    ) -> tuple[Figures, dict[str, list[Image.Image]], list[Image.Image]]:
        """Its figures and pictures; of the untuned model also what it draws where trainings draw to validate."""
        options, count = self.options, self.options.seeds
        asked = self.asked(called(options, cell.method) if cell.method else options.noun)
        wanted = [Request(each.prompt, options.seed + n) for each in asked for n in range(count)]
        wanted += [Request(self.of.class_prompt, options.seed + n) for n in range(CLASSES * count)]
        before = 0 if cell.method else options.num_validation_images
        wanted += [Request(f"a photo of {options.noun}", options.seed + n) for n in range(before)]
        opened = _opened(cell, place, options.device, events)
        images = pipeline.images(opened, wanted, _settings(cell), events, f"drawing, {cell.name}")
        drawn = {each.prompt: images[n * count : (n + 1) * count] for n, each in enumerate(asked)}
        classes = images[len(asked) * count : len(images) - before]
        figures = measures.of_drawn(self.judge, self.of, asked, drawn, classes)
        return figures, {**drawn, self.of.class_prompt: classes}, images[len(images) - before :]


def _settings(cell: Cell) -> SamplingSettings:
    if not cell.few_steps:
        return SamplingSettings(batch=8)
    usage = cell.few_steps.usage
    return SamplingSettings(usage.sampler, usage.steps, usage.guidance, batch=8, schedule=usage.schedule)


def _opened(cell: Cell, place: Path, on: str, events: Events) -> CompiledModel:
    where = device.pick(on)
    made = replace(cell, few_steps=None).made if cell.training else None
    few: dict[str | Path, Strength] = {cell.made.path: 1.0} if cell.few_steps else {}
    whole = made.path if made and made.kind == "checkpoint" else place
    opened = compiled_model.load(whole, device=where, events=events)
    if made and made.kind == "embedding":
        return opened.with_word(*embedding.read(made.path))
    if loras := ({made.path: 1.0} if made and made.kind == "lora" else {}) | few:
        opened.set_loras(loras)
    return opened


def _train(cell: Cell, folder: Path, events: Events, hopeless: Callable[[], bool]) -> dict[str, float]:
    """In a process of its own, so that its peak memory is its own; it says itself how far it is. Raises GaveUp."""
    training = cell.few_steps or cell.training
    if cell.method is None or training is None:
        return {}
    events.say(f"training {cell.name}")
    verb = "distillation" if cell.few_steps else WAYS[cell.method].verb
    recipe = folder / "recipe.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    tensors.write_text(recipe, as_recipe(training))
    command = [sys.executable, "-m", "tenshot", "train", verb, "--recipe", str(recipe), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    written, gave_up = None, False
    while written is None:
        try:
            written, _ = process.communicate(timeout=LOOK)
        except subprocess.TimeoutExpired:
            if not gave_up and hopeless():
                process.terminate()  # it stops after the step under way
                gave_up = True
    if gave_up and process.returncode:
        raise GaveUp
    if process.returncode == STOPPED or events.cancelled():
        raise Cancelled
    told = _answer(written)
    if process.returncode:
        faults = [Fault(**each) for each in told.get("faults", [])]
        found = f"training ended with {process.returncode}: {told.get('message', 'no word')}"
        do = f"see {training.output_dir / 'tenshot.log'}; the same command goes on where it was"
        raise Refusal(*faults or [Fault(cell.name, found, do=do)])
    return {
        "seconds": told["seconds"],
        "seconds_per_step": told["seconds"] / told["steps"],
        "peak_bytes": told["peak_bytes"],
        "file_bytes": _size(cell.made.path),
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


def _keep(folder: Path, told: Config, kept: Outcome) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for row, images in enumerate(kept.drawn.values()):
        for number, image in enumerate(images):
            with tensors.replacing(folder / f"{row:02d}-{number:02d}.png") as temporary:
                image.save(temporary, format="PNG")
    counts = {prompt: len(images) for prompt, images in kept.drawn.items()}
    likeness = {str(step): each for step, each in kept.likeness.items()}
    record = {"told": told, "figures": kept.figures, "costs": kept.costs, "drawn": counts, "likeness": likeness}
    tensors.write_json(folder / "cell.json", record)


def _kept(cell: Cell, folder: Path, told: Config) -> Outcome | None:
    """What is there of a cell, if it is whole and was made as `told`."""
    try:
        found = text_files.read_object(folder / "cell.json")
        if found["told"] != text_files.parsed(json.dumps(told)):
            return None
        drawn = {
            prompt: [open_picture(folder / f"{row:02d}-{number:02d}.png") for number in range(count)]
            for row, (prompt, count) in enumerate(found["drawn"].items())
        }
        likeness = {int(step): each for step, each in found["likeness"].items()}
    except (Refusal, KeyError, OSError):
        return None
    return Outcome(cell, found["figures"], found["costs"], drawn, likeness)
