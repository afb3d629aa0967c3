"""`tenshot sweep`: one method trained with many settings, hopeless ones stopped early; the best one's command.

Optuna chooses (a grid, at random, or TPE) and prunes (the median of the trials before). Nothing of its own is kept: a
sweep that was stopped asks it the same questions again, and finds the answers in the cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from tenshot.compare import compare, page
from tenshot.compare.cells import Cell, Examination, GaveUp, Outcome
from tenshot.compare.options import SweepOptions
from tenshot.compare.table import score
from tenshot.core.errors import Refusal
from tenshot.core.events import Events, track
from tenshot.core.json_types import Config
from tenshot.core.option_text import command
from tenshot.core.options import as_words
from tenshot.core.results import Swept, Trial
from tenshot.io import hashes, tensors, text_files
from tenshot.model import hub
from tenshot.report.record import UNTUNED
from tenshot.train import ways
from tenshot.train.options import FineTuneOptions
from tenshot.train.ways import WAYS, Places

if TYPE_CHECKING:
    import optuna

AROUND = (0.3, 1.0, 3.0)  # times the usual learning rate
SHARES = (0.5, 1.0)  # of the usual number of steps
BEFORE = 3  # trials that are finished before any is found hopeless
Settings = dict[str, float | int | str]


def sweep(options: SweepOptions, events: Events) -> Swept:
    """Raises Refusal before anything is trained, Cancelled with what is done kept."""
    import optuna

    options = hub.fetched(options, events)
    examination, place, examples = compare.prepared(options, events)
    usual = _training(options, place, {})
    space = spaces(options, usual)
    first = {name: values[0] for name, values in space.items()}
    compare.check(options, [_cell(options, place, first)], examples, events)
    before = examination.outcome(Cell(UNTUNED), place, events)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _study(options, space)
    trials: dict[str, Trial] = {}
    found: list[tuple[float, Outcome]] = []
    for _ in track(range(count(options, space)), "trying settings", count(options, space), events):
        trial = study.ask()
        cell = _cell(options, place, asked(options, space, trial))
        outcome = _tried(examination, cell, place, trial, events)
        value = score(outcome.figures, before.figures, examination.judge) if outcome else None
        study.tell(trial, value, None if outcome else optuna.trial.TrialState.PRUNED)
        trials[cell.name] = _told(trial, cell, outcome, value, examination)
        if outcome and value is not None:
            found.append((value, outcome))
            events.say(f"{cell.name}: score {value:.3f}")
    return _answer(options, trials, found)


def spaces(options: SweepOptions, usual: FineTuneOptions) -> dict[str, Sequence[float | int | str]]:
    """What is tried, by the trainings' options; what has one value is not searched."""
    steps = usual.max_train_steps
    return {
        **({"rank": options.rank} if options.methods == ["lora"] else {}),
        "learning_rate": options.learning_rate or [float(f"{usual.learning_rate * each:.2g}") for each in AROUND],
        "max_train_steps": options.train_steps or [max(1, round(steps * each)) for each in SHARES],
        "optimizer": options.optimizer,
    }


def count(options: SweepOptions, space: Mapping[str, Sequence[object]]) -> int:
    """A grid ends where all was tried."""
    whole = 1
    for values in space.values():
        whole *= len(values)
    return min(options.trials, whole) if options.search == "grid" else options.trials


def asked(options: SweepOptions, space: Mapping[str, Sequence[float | int | str]], trial: optuna.Trial) -> Settings:
    """What the sampler wants to know: one of the values, or a learning rate between them."""
    found: Settings = {}
    for name, values in space.items():
        if name == "learning_rate" and options.search != "grid" and len({*values}) > 1:
            rates = [float(each) for each in values]
            found[name] = float(f"{trial.suggest_float(name, min(rates), max(rates), log=True):.3g}")
        else:
            chosen = trial.suggest_categorical(name, [*dict.fromkeys(values)])
            assert chosen is not None
            found[name] = chosen
    return found


def _study(options: SweepOptions, space: Mapping[str, Sequence[float | int | str]]) -> optuna.Study:
    import optuna

    kind = optuna.samplers.TPESampler if options.search == "optuna" else optuna.samplers.RandomSampler
    study = optuna.create_study(direction="maximize", sampler=kind(seed=options.seed % 2**32), pruner=_pruner(options))
    if options.search == "grid":
        for values in product(*(dict.fromkeys(each) for each in space.values())):
            study.enqueue_trial(dict(zip(space, values, strict=True)))
    return study


def _pruner(options: SweepOptions) -> optuna.pruners.BasePruner:
    from optuna.pruners import MedianPruner, NopPruner

    return MedianPruner(n_startup_trials=BEFORE, n_warmup_steps=1) if options.prune else NopPruner()


def _training(options: SweepOptions, place: Path, settings: Settings) -> FineTuneOptions:
    (method,) = options.methods
    name = hashes.of_json([method, options.seed, settings])[:8]
    places = Places(options.out / "runs" / name, options.out / "captioned", options.out / "class")
    usual = ways.training(options, method, options.seed, place, places)
    steps = int(settings.get("max_train_steps", usual.max_train_steps))
    looks = {"validation_steps": max(1, -(-steps // ways.LOOKS))} if options.num_validation_images else {}
    changed = {**settings, **looks}
    return type(usual).model_validate({**dict(usual), **(changed if settings else {})})


def _cell(options: SweepOptions, place: Path, settings: Settings) -> Cell:
    training = _training(options, place, settings)
    return Cell(training.output_dir.name, options.methods[0], training)


def _tried(examination: Examination, cell: Cell, place: Path, trial: optuna.Trial, events: Events) -> Outcome | None:
    """None where it was hopeless, now or in an earlier start of the sweep."""
    record = examination.options.out / "cells" / cell.name / "hopeless.json"
    reported: set[int] = set()

    def hopeless(likeness: Mapping[int, float]) -> bool:
        for number, step in enumerate(sorted(likeness), 1):
            if number not in reported:
                reported.add(number)
                trial.report(likeness[step], number)
        return bool(trial.should_prune())

    if (kept := _gave_up(record, cell)) is not None:
        hopeless(kept)
        return None
    last: dict[int, float] = {}

    def watched(likeness: Mapping[int, float]) -> bool:
        last.update(likeness)
        return hopeless(likeness)

    try:
        outcome = examination.outcome(cell, place, events, watched)
    except GaveUp:
        tensors.write_json(record, {"training": _plain(cell), "likeness": {str(step): last[step] for step in last}})
        events.say(f"{cell.name}: behind most others after step {max(last)}, stopped")
        return None
    hopeless(outcome.likeness)
    return outcome


def _gave_up(record: Path, cell: Cell) -> dict[int, float] | None:
    try:
        found = text_files.read_object(record)
        return (
            {int(step): each for step, each in found["likeness"].items()} if found["training"] == _plain(cell) else None
        )
    except (Refusal, KeyError):
        return None


def _plain(cell: Cell) -> Config:
    assert cell.training
    return cell.training.model_dump(mode="json")


def _told(
    trial: optuna.Trial, cell: Cell, outcome: Outcome | None, value: float | None, examination: Examination
) -> Trial:
    assert cell.training
    return {
        "rank": getattr(cell.training, "rank", None),
        "learning_rate": cell.training.learning_rate,
        "max_train_steps": cell.training.max_train_steps,
        "optimizer": cell.training.optimizer,
        "likeness": outcome.figures[examination.judge.subject_measure] if outcome else None,
        "score": value,
        "seconds": outcome.costs["seconds"] if outcome else None,
        "stopped_early": outcome is None,
    }


def _answer(options: SweepOptions, trials: Mapping[str, Trial], found: Sequence[tuple[float, Outcome]]) -> Swept:
    _, best = max(found, key=lambda each: each[0])
    assert best.cell.training and best.cell.method
    words = command("train", WAYS[best.cell.method].verb, *as_words(best.cell.training))
    told: Swept = {
        "trials": trials,
        "best": best.cell.name,
        "page": str(options.out / "index.html"),
        "next": [words],
    }
    tensors.write_json(options.out / "sweep.json", dict(told))
    outcomes = [each for _, each in sorted(found, key=lambda each: -each[0])]
    tensors.write_text(options.out / "index.html", page.of_sweep(options, told, outcomes))
    return told
