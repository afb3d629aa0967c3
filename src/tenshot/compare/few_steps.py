"""The recommended result made to draw in few steps: by a LoRA that it makes itself (`train distillation`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tenshot.compare.cells import FEW_STEPS, Cell, Examination
from tenshot.compare.options import CompareOptions
from tenshot.core import device
from tenshot.core.events import Events
from tenshot.core.options import resolve
from tenshot.families import validate
from tenshot.merge.merge import merge
from tenshot.merge.options import MergeOptions
from tenshot.train.distillation_options import DistillationOptions
from tenshot.train.learning_rates import SMALL, usual
from tenshot.train.subject_options import Method
from tenshot.train.ways import called

QUICK = {"num_trajectories": 128, "max_train_steps": 150}  # for a small model


def cell(
    options: CompareOptions,
    cells: Sequence[Cell],
    chosen: Method | None,
    examination: Examination,
    place: Path,
    events: Events,
) -> Cell | None:
    """What makes the first training of method `chosen` fast; None where that cannot be, which is said."""
    best = next((each for each in cells if each.method == chosen), None)
    if best is None or best.method is None or best.training is None:
        events.say("no few steps: no method is recommended")
        return None
    if best.made.kind == "embedding":
        events.say("no few steps: a learned word makes no model that could be its own teacher")
        return None
    teacher = best.made.path if best.made.kind == "checkpoint" else _merged(options, best, place, events)
    asked = [each.prompt for each in examination.asked(called(options, best.method))]
    family = validate.family_of(place)
    numbers = validate.numbers(place / family.denoiser)
    told = {
        "pretrained_model_name_or_path": str(teacher),
        "prompt": [*asked, examination.of.class_prompt],
        "output_dir": options.out / "runs" / FEW_STEPS,
        "seed": options.seed,
        "checkpoints_total_limit": 1,
        "device": options.device,
        "learning_rate": usual(DistillationOptions, "distillation", family.name, numbers),
        **(QUICK if numbers < SMALL else {"mixed_precision": "bf16" if device.bf16_is_native() else "no"}),
    }
    return Cell(FEW_STEPS, best.method, best.training, resolve(DistillationOptions, told))


def _merged(options: CompareOptions, best: Cell, place: Path, events: Events) -> Path:
    """The LoRA in a model of its own, made once."""
    folder = options.out / "runs" / f"{best.name}-merged"
    if not folder.exists():
        merge(resolve(MergeOptions, {"sd_model": place, "models": [best.made.path], "save_to": folder}), events)
    return folder
