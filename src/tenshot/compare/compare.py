"""`tenshot compare`: every method on the same pictures, from the same seeds, measured alike; then a recommendation."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tenshot.compare import methods, page
from tenshot.compare.cells import Cell, Examination
from tenshot.compare.options import CompareOptions, Method
from tenshot.compare.table import tabulated
from tenshot.core.errors import Refusal, all_or_refuse, refuse_if, renamed
from tenshot.core.events import Events
from tenshot.core.json_types import key
from tenshot.core.results import Compared
from tenshot.evaluate import dino_clip, measures, pocket_judge, subject
from tenshot.evaluate.judge import Judge
from tenshot.evaluate.measures import Subject
from tenshot.families import validate
from tenshot.io import tensors
from tenshot.io.image_folder import Example, read_folder
from tenshot.io.images import open_picture
from tenshot.model import hub, model
from tenshot.report.record import UNTUNED
from tenshot.train import checks

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
    try:
        judge, of, place, examples, *_ = all_or_refuse(
            lambda: _judge(options),
            lambda: _subject(options),
            lambda: model.find(options.model, events),
            lambda: read_folder(options.pictures, option="--pictures"),
            lambda: refuse_if(options.obstacles()),
        )
        cells = _cells(options, place)
        all_or_refuse(*(partial(_check, each, events) for each in cells if each.method != "full"))
        if "full" in options.methods:
            _captioned(options, examples)
            all_or_refuse(*(partial(_check, each, events) for each in cells if each.method == "full"))
    except Refusal as refusal:
        raise renamed(refusal, ASKED) from None
    examination = Examination(options, judge, of)
    outcomes = [examination.outcome(each, place, events) for each in [Cell(UNTUNED), *cells]]
    table = tabulated(outcomes, measures.of_real(judge, of), judge)
    events.say(table.advice)
    written = page.write(options, table, outcomes, judge, of)
    return {
        "page": str(written),
        "judge": judge.name,
        "measures": {row: {key(name): each for name, each in of.items()} for row, of in table.measures.items()},
        "costs": table.costs,
        "recommended": table.recommended,
        "why": table.advice,
    }


def _judge(options: CompareOptions) -> Judge:
    return dino_clip.load(options.clip, options.dino) if options.clip else pocket_judge.load()


def _subject(options: CompareOptions) -> Subject:
    shown = [open_picture(each.path) for each in read_folder(options.pictures, option="--pictures")]
    given = read_folder(options.unseen, option="--unseen") if options.unseen else []
    unseen = [open_picture(each.path) for each in given]
    return Subject(options.subject, shown, unseen, subject.shipped_besides(options.pictures))


def _cells(options: CompareOptions, place: Path) -> list[Cell]:
    numbers = validate.numbers(place / validate.family_of(place).denoiser)
    seeds = range(options.seed, options.seed + options.trainings)
    pairs: Sequence[tuple[Method, int]] = [(method, seed) for seed in seeds for method in options.methods]
    return [
        Cell(f"{method}-{seed}", method, methods.training(options, method, seed, numbers)) for method, seed in pairs
    ]


def _check(cell: Cell, events: Events) -> None:
    assert cell.method is not None and cell.training is not None
    checks.check(methods.WAYS[cell.method].method, cell.training, events)


def _captioned(options: CompareOptions, examples: Sequence[Example]) -> None:
    """The pictures, each with the subject's prompt as its caption, for the method that wants captions."""
    with tensors.replacing_folder(options.out / "captioned") as temporary:
        for each in examples:
            shutil.copyfile(each.path, temporary / each.path.name)
            (temporary / each.path.with_suffix(".txt").name).write_text(f"a photo of {options.noun}", encoding="utf-8")
