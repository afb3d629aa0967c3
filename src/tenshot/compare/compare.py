"""`tenshot compare`: every method on the same pictures, from the same seeds, measured alike; then a recommendation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tenshot.compare import few_steps, page
from tenshot.compare.cells import Cell, Examination
from tenshot.compare.options import CompareOptions, JudgedOptions
from tenshot.compare.table import tabulated
from tenshot.core.errors import Refusal, all_or_refuse, refuse_if, renamed
from tenshot.core.events import Events
from tenshot.core.json_types import key
from tenshot.core.results import Compared
from tenshot.evaluate import dino_clip, measures, pocket_judge, subject
from tenshot.evaluate.judge import Judge
from tenshot.evaluate.measures import Subject
from tenshot.io.image_folder import Example, read_folder
from tenshot.io.images import open_picture
from tenshot.model import hub, model
from tenshot.report.record import UNTUNED
from tenshot.train import checks, ways
from tenshot.train.subject_options import Method
from tenshot.train.ways import Places

ASKED = {  # the trainings' options -> what a comparison calls them
    "--instance_data_dir": "--pictures",
    "--train_data_dir": "--pictures",
    "--pretrained_model_name_or_path": "--model",
    "--output_dir": "--out",
    "--class_data_dir": "--out",
}


def compare(options: CompareOptions, events: Events) -> Compared:
    """Train, draw, measure; the page. What is there already is not done again. Raises Refusal before anything is."""
    options = hub.fetched(options, events)
    examination, place, examples = prepared(options, events)
    cells = _cells(options, place)
    check(options, cells, examples, events)
    judge, of = examination.judge, examination.of
    outcomes = [examination.outcome(each, place, events) for each in [Cell(UNTUNED), *cells]]
    table = tabulated(outcomes, measures.of_real(judge, of), judge)
    if options.few_steps and (cell := few_steps.cell(options, cells, table.recommended, examination, place, events)):
        outcomes.append(examination.outcome(cell, place, events))
        table = tabulated(outcomes, measures.of_real(judge, of), judge)
    events.say(table.advice)
    written = page.write(options, table, outcomes, judge, of)
    return {
        "page": str(written),
        "judge": judge.name,
        "measures": {row: {key(name): each for name, each in of.items()} for row, of in table.measures.items()},
        "costs": table.costs,
        "likeness_by_step": page.curves(outcomes),
        "recommended": table.recommended,
        "why": table.advice,
    }


def prepared(options: JudgedOptions, events: Events) -> tuple[Examination, Path, list[Example]]:
    """What cells are put to, the model's folder, the pictures. Raises Refusal with all that is wrong."""
    judge, of, place, examples, *_ = all_or_refuse(
        lambda: _judge(options),
        lambda: _subject(options),
        lambda: model.find(options.model, events),
        lambda: read_folder(options.pictures, option="--pictures"),
        lambda: refuse_if(options.obstacles()),
    )
    return Examination(options, judge, of), place, examples


def check(options: JudgedOptions, cells: Sequence[Cell], examples: Sequence[Example], events: Events) -> None:
    """Raises Refusal, in the words of `options`, with all that is wrong with the trainings."""
    try:
        all_or_refuse(*(partial(_check, each, events) for each in cells if each.method != "full"))
        if "full" in options.methods:
            ways.captioned(options.out / "captioned", f"a photo of {options.noun}", examples)
            all_or_refuse(*(partial(_check, each, events) for each in cells if each.method == "full"))
    except Refusal as refusal:
        raise renamed(refusal, ASKED) from None


def _judge(options: JudgedOptions) -> Judge:
    return dino_clip.load(options.clip, options.dino) if options.clip else pocket_judge.load()


def _subject(options: JudgedOptions) -> Subject:
    shown = [open_picture(each.path) for each in read_folder(options.pictures, option="--pictures")]
    given = read_folder(options.unseen, option="--unseen") if options.unseen else []
    unseen = [open_picture(each.path) for each in given]
    return Subject(options.subject, shown, unseen, subject.shipped_besides(options.pictures))


def _cells(options: CompareOptions, place: Path) -> list[Cell]:
    seeds = range(options.seed, options.seed + options.trainings)
    pairs: Sequence[tuple[Method, int]] = [(method, seed) for seed in seeds for method in options.methods]
    return [
        Cell(f"{method}-{seed}", method, ways.training(options, method, seed, place, _places(options, method, seed)))
        for method, seed in pairs
    ]


def _places(options: JudgedOptions, method: Method, seed: int) -> Places:
    out = options.out
    return Places(out / "runs" / f"{method}-{seed}", out / "captioned", out / "class")


def _check(cell: Cell, events: Events) -> None:
    assert cell.method is not None and cell.training is not None
    checks.check(ways.WAYS[cell.method].method, cell.training, events)
