"""`tenshot plan`: the pictures looked at, every method measured by a few real steps, and one recommended."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from tenshot.core import device
from tenshot.core.alone import alone
from tenshot.core.errors import Refusal, all_or_refuse, refuse_if, renamed
from tenshot.core.events import Events, track
from tenshot.core.option_text import command
from tenshot.core.options import as_words
from tenshot.core.results import Planned, PlannedTraining
from tenshot.families import validate
from tenshot.io import dataset
from tenshot.io.image_folder import Example
from tenshot.model import hub, model
from tenshot.plan import advice, page, pictures
from tenshot.plan.advice import Room
from tenshot.plan.options import PlanOptions
from tenshot.plan.pictures import Seen
from tenshot.train import finetune, forecast, ways
from tenshot.train.engine import run
from tenshot.train.engine.memory import ROOM
from tenshot.train.forecast import Foretold
from tenshot.train.options import FineTuneOptions
from tenshot.train.subject_options import Method
from tenshot.train.ways import WAYS, Places

ASKED = {
    "--instance_data_dir": "--pictures",
    "--train_data_dir": "--pictures",
    "--pretrained_model_name_or_path": "--model",
}  # the trainings' options -> what a plan calls them
RESULTS = Path("out")  # where the commands put what they make
CAPTIONED = "CAPTIONED"  # a folder for the reader to fill in


def plan(options: PlanOptions, events: Events) -> Planned:
    """Nothing is trained, and nothing written but caches and --out. Raises Refusal with all that is wrong."""
    options = hub.fetched(options, events)
    try:
        examples, place, where, *_ = all_or_refuse(
            lambda: dataset.read(options.pictures, option="--pictures", say=events.say),
            lambda: model.find(options.model, events),
            lambda: device.pick(options.device),
            lambda: refuse_if(options.obstacles()),
        )
        validate.examine(place)
    except Refusal as refusal:
        raise renamed(refusal, ASKED) from None
    with ExitStack() as stack:
        captioned = _captioned(options, examples, stack)
        trainings = _trainings(options, place, captioned)
        seen = _seen(trainings[options.methods[0]], place, examples, events)
        jobs = track(trainings.items(), "measuring methods", len(trainings), events)
        found = {method: _measured(method, training) for method, training in jobs}
    room = Room(ROOM * device.memory_limit(where), run.free_disk(RESULTS))
    chosen, why = advice.recommended(found, room)
    events.say(why)
    commands: dict[str, str] = {method: _command(options, method, each) for method, each in trainings.items()}
    told: Planned = {
        "pictures": {each.example.path.name: _told(each) for each in seen},
        "methods": {method: _row(each, room) for method, each in found.items()},
        "memory_bytes": round(room.memory),
        "disk_bytes": round(room.disk),
        "recommended": chosen,
        "why": why,
        "commands": commands,
        "page": str(options.out / "index.html") if options.out else None,
        "next": [commands[chosen]] if chosen else [],
    }
    if options.out:
        page.write(options, told, seen, found)
    return told


def _captioned(options: PlanOptions, examples: Sequence[Example], stack: ExitStack) -> Path:
    """A folder in which every picture has a caption: theirs, or one in --out, or one that will be gone."""
    if "full" not in options.methods or all(each.caption for each in examples):
        return options.pictures
    above = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tenshot-")))
    ways.captioned(above / "captioned", f"a photo of {options.noun}", examples)
    return above / "captioned"


def _trainings(options: PlanOptions, place: Path, captioned: Path) -> dict[Method, FineTuneOptions]:
    return {
        method: ways.training(
            options, method, options.seed, place, Places(_free(f"{options.identifier}-{method}"), captioned)
        )
        for method in options.methods
    }


def _free(name: str) -> Path:
    """A folder for a result that is not there yet."""
    number = 1
    while (place := RESULTS / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return place


def _seen(training: FineTuneOptions, place: Path, examples: Sequence[Example], events: Events) -> list[Seen]:
    side = training.resolution or int(validate.denoiser_config(place).get("sample_size", 64)) * 8
    seen = pictures.look(examples, finetune.views(training, side))
    for each in seen:
        if each.faults:
            events.say(f"{each.example.path.name}: {'; '.join(each.faults)}")
    for note in pictures.notes(seen):
        events.say(note)
    return seen


def _measured(method: Method, training: FineTuneOptions) -> Foretold | str:
    """In a process of its own; in words, why nothing could be measured."""
    try:
        return alone(_forecast, method, training, what=f"measuring {method}")
    except Refusal as refusal:
        return "; ".join(f"{fault.where}: {fault.found}; it needs {fault.fits}" for fault in refusal.faults)
    except RuntimeError as error:
        return str(error)


def _forecast(method: Method, training: FineTuneOptions) -> Foretold:
    return forecast.forecast(WAYS[method].method, training, Events())


def _command(options: PlanOptions, method: Method, training: FineTuneOptions) -> str:
    """With which it is done. A folder that will be gone is left to the reader."""
    told = training
    if method == "full" and not options.out and training.train_data_dir != options.pictures:  # type: ignore[attr-defined]
        told = training.model_copy(update={"train_data_dir": Path(CAPTIONED)})
    return command("train", WAYS[method].verb, *as_words(told))


def _told(seen: Seen) -> Mapping[str, object]:
    size = seen.example.size
    return {
        "size": f"{size.width}x{size.height}",
        "views": len(seen.views),
        "caption": seen.example.caption,
        "faults": [*seen.faults],
    }


def _row(found: Foretold | str, room: Room) -> PlannedTraining:
    why = advice.hurdle(found, room)
    if isinstance(found, str):
        return {"seconds": None, "peak_bytes": None, "disk_bytes": None, "file_bytes": None, "fits": False, "why": why}
    return {
        "seconds": [round(each, 1) for each in found.seconds],
        "peak_bytes": found.peak_bytes,
        "disk_bytes": found.disk_bytes,
        "file_bytes": found.file_bytes,
        "fits": not why,
        "why": why,
    }
