"""The demo: 5-10 pictures of a subject in; the tuned model, and a page that shows and measures what it learned, out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from tenshot import pipeline
from tenshot.core import device, hub_names
from tenshot.core.errors import Fault, Refusal, all_or_refuse, refuse_if, renamed
from tenshot.core.events import Events
from tenshot.core.json_types import key
from tenshot.core.option_text import command
from tenshot.core.options import as_words, resolve
from tenshot.core.results import Demonstrated, Trained
from tenshot.demo.options import DemoOptions
from tenshot.evaluate import measures, pocket_judge, prompts, subject
from tenshot.evaluate.judge import Judge
from tenshot.evaluate.measures import Figures, Subject
from tenshot.evaluate.prompts import EvaluationPrompt
from tenshot.evaluate.protocol import article
from tenshot.evaluate.subject import SUBJECTS, UNSEEN
from tenshot.io.image_folder import read_folder
from tenshot.io.images import open_picture
from tenshot.model import hub, model
from tenshot.pipeline import Request, SamplingSettings
from tenshot.report.record import REAL, UNTUNED, WITH_PRIOR, WITHOUT_PRIOR, Report, Row
from tenshot.report.verdict import verdict
from tenshot.report.write import write
from tenshot.train.data import prior_images
from tenshot.train.engine import eta, trackers
from tenshot.train.engine.run import IDENTITY, OURS
from tenshot.train.methods import dreambooth
from tenshot.train.options import DreamBoothOptions

FOLDERS, CLASS = {WITH_PRIOR: "with-prior", WITHOUT_PRIOR: "without-prior"}, "class"
ASKED = {  # the trainings' options -> what the demo calls them
    "--instance_data_dir": "--pictures",
    "--pretrained_model_name_or_path": "--model",
    "--output_dir": "--out",
    "--class_data_dir": "--out",
}


@dataclass(frozen=True)
class Ways:
    """How a kind of model is best taught."""

    steps: int
    rate: float
    batch: int


POCKET, FULL_SIZE = Ways(steps=300, rate=3e-4, batch=4), Ways(steps=400, rate=5e-6, batch=1)


def demo(options: DemoOptions, events: Events) -> Demonstrated:
    """Before pictures, two trainings (with and without prior preservation), after pictures, measures, the page."""
    options = hub.fetched(options, events)
    started = time.perf_counter()
    folder = options.pictures or SUBJECTS / "koala"
    ways = POCKET if options.model == "pocket" else FULL_SIZE
    trainings = {row: _training(options, ways, folder, prior=row == WITH_PRIOR) for row in (WITH_PRIOR, WITHOUT_PRIOR)}
    given = _check(options, folder, list(trainings.values()), events)
    events.say(f"looked at {len(given)} pictures in {folder.name}: {_sizes(given)}")
    asked = _asked(options, given)
    if new := not (trainings[WITH_PRIOR].output_dir / IDENTITY).is_file():
        events.say(eta.words(_ahead(options, asked, trainings, events), "the demo"))
    runs = {row: _train(row, training, events, foretold=new) for row, training in trainings.items()}
    places = {
        UNTUNED: str(model.find(options.model, events, options.vae)),
        **{row: run["result"] for row, run in runs.items()},
    }
    drawn = {row: _draw(options, asked, place, row, events) for row, place in places.items()}
    eye = pocket_judge.load()
    figures = _measure(eye, _subject(options, given), asked, drawn)
    made = Report(
        title=f"{len(given)} pictures of {_noun(options)}",
        subject=_noun(options),
        class_noun=options.subject,
        instance_prompt=_instance(options),
        class_prompt=_class(options),
        model=hub_names.spelled(options.model),
        given=given,
        class_pictures=_class_pictures(options, runs[WITH_PRIOR])[:12],
        contexts=_contexts(asked, drawn),
        class_word=_class_row(options, drawn),
        losses={
            row: [(int(line["step"]), line["loss"]) for line in trackers.read(Path(run["result"]) / "loss.jsonl")]
            for row, run in runs.items()
        },
        measures=figures,
        measure_help=measures.help_of(eye),
        forecast=_forecast(runs),
        facts=_facts(options, ways, runs, time.perf_counter() - started),
    )
    page = write(made, options.out)
    for sentence in verdict(made):
        events.say(sentence)
    told = {key(row): {key(name): value for name, value in of.items()} for row, of in figures.items()}
    return {"page": str(page), "measures": told, "tuned": runs[WITH_PRIOR]["result"]}


def _asked(options: DemoOptions, given: Sequence[Image.Image]) -> list[EvaluationPrompt]:
    if options.model == "pocket":
        return prompts.of_contexts(given, _noun(options), options.subject)
    return prompts.of_places(_noun(options), options.subject)


def _ahead(
    options: DemoOptions, asked: Sequence[EvaluationPrompt], trainings: Mapping[str, DreamBoothOptions], events: Events
) -> dict[str, eta.Part]:
    """Seconds that each phase will take, reckoned from the pace of drawing here."""
    place = str(model.find(options.model, events, options.vae))
    base = model.load(place, device=device.pick(options.device), events=events)
    pace, settings = eta.pace(base, None, events), prior_images.SETTINGS
    samples = sum(each.train_batch_size * (1 + each.with_prior_preservation) for each in trainings.values())
    drawn = (len(asked) + 4) * options.seeds * (1 + len(trainings))
    seconds = {
        "class pictures": pace.drawing(options.num_class_images, settings),
        "training": pace.training(trainings[WITH_PRIOR].max_train_steps, samples),
        "pictures before and after": pace.drawing(drawn, SamplingSettings()),
    }
    return {name: eta.about(each, eta.GUESSED) for name, each in seconds.items()}


def _check(
    options: DemoOptions, folder: Path, trainings: Sequence[DreamBoothOptions], events: Events
) -> list[Image.Image]:
    """The pictures in `folder`. Raises Refusal with all that is wrong with them, the model and --out."""
    try:
        examples, *_ = all_or_refuse(
            lambda: read_folder(folder, option="--pictures"),
            lambda: refuse_if(_place_faults(options.out, folder)),
            *(partial(dreambooth.check, training, events) for training in trainings),
        )
    except Refusal as refusal:
        raise renamed(refusal, ASKED) from None
    return [open_picture(example.path) for example in examples]


def _place_faults(out: Path, pictures: Path) -> Iterator[Fault]:
    """What is ours is replaced; anything else must not be."""
    where, do = f"--out {out}", "name another folder"
    begun = (out / FOLDERS[WITH_PRIOR] / IDENTITY).is_file()
    names = [path.name for path in sorted(out.iterdir()) if path.suffix not in OURS] if out.is_dir() else []
    strange = [name for name in names if name not in {*FOLDERS.values(), CLASS}]
    if strange and not begun:
        found = f"holds other files: {', '.join(strange[:4])}"
        yield Fault(where, found, "a new or empty folder, or that of an earlier demo", do)
    if pictures.resolve().is_relative_to(out.resolve()):
        yield Fault(where, "holds --pictures, too", "a folder for the results alone", do)


def _train(row: str, training: DreamBoothOptions, events: Events, *, foretold: bool) -> Trained:
    events.say(f"training {row}")
    return dreambooth.train(training, events, foretold=foretold)


def _training(options: DemoOptions, ways: Ways, pictures: Path, *, prior: bool) -> DreamBoothOptions:
    given: dict[str, object] = {
        "pretrained_model_name_or_path": options.model,
        "vae": options.vae,
        "instance_data_dir": pictures,
        "instance_prompt": _instance(options),
        "output_dir": options.out / FOLDERS[WITH_PRIOR if prior else WITHOUT_PRIOR],
        "seed": options.seed,
        "max_train_steps": options.max_train_steps or ways.steps,
        "learning_rate": options.learning_rate or ways.rate,
        "train_batch_size": ways.batch,
        "checkpoints_total_limit": 1,
        "mixed_precision": "bf16" if device.bf16_is_native() else "no",
        "device": options.device,
    }
    if prior:
        given |= {
            "with_prior_preservation": True,
            "class_prompt": _class(options),
            "class_data_dir": options.out / CLASS,
            "num_class_images": options.num_class_images,
        }
    return resolve(DreamBoothOptions, given)


@dataclass(frozen=True)
class Drawn:
    """contexts: prompt -> pictures. word: pictures of the class word alone."""

    contexts: Mapping[str, list[Image.Image]]
    word: list[Image.Image]


def _draw(options: DemoOptions, asked: Sequence[EvaluationPrompt], place: str, row: str, events: Events) -> Drawn:
    opened = model.load(place, device=device.pick(options.device), events=events)
    wanted = [Request(each.prompt, options.seed + n) for each in asked for n in range(options.seeds)]
    word = [Request(_class(options), options.seed + n) for n in range(4 * options.seeds)]
    images = pipeline.images(opened, wanted + word, SamplingSettings(batch=8), events, f"drawing, {row}")
    groups = {each.prompt: images[n * options.seeds : (n + 1) * options.seeds] for n, each in enumerate(asked)}
    return Drawn(groups, images[len(wanted) :])


def _subject(options: DemoOptions, given: Sequence[Image.Image]) -> Subject:
    """A subject that ships has pictures that are never shown."""
    folder = options.pictures or SUBJECTS / "koala"
    ships = folder.resolve().parent == SUBJECTS.resolve()
    unseen = subject.pictures(UNSEEN / folder.resolve().name) if ships else []
    return Subject(options.subject, given, unseen, subject.shipped_besides(folder))


def _measure(
    judge: Judge, of: Subject, asked: Sequence[EvaluationPrompt], drawn: Mapping[str, Drawn]
) -> dict[str, Figures]:
    """The table: likeness to the subject in the contexts, to the prompts' words, and what became of the class."""
    rows = {row: measures.of_drawn(judge, of, asked, each.contexts, each.word) for row, each in drawn.items()}
    return {REAL: measures.of_real(judge, of), **rows}


def _noun(options: DemoOptions) -> str:
    return f"{options.identifier} {options.subject}"


def _instance(options: DemoOptions) -> str:
    return f"a photo of {_noun(options)}"


def _class(options: DemoOptions) -> str:
    return f"a photo of {article(options.subject)}"


def _contexts(asked: Sequence[EvaluationPrompt], drawn: Mapping[str, Drawn]) -> list[Row]:
    shown = {"before": drawn[UNTUNED].contexts, "after": drawn[WITH_PRIOR].contexts}
    return [Row(each.prompt, each.new, {name: of[each.prompt] for name, of in shown.items()}) for each in asked]


def _class_row(options: DemoOptions, drawn: Mapping[str, Drawn]) -> Row:
    names = {UNTUNED: "before", WITH_PRIOR: f"after, {WITH_PRIOR}", WITHOUT_PRIOR: f"after, {WITHOUT_PRIOR}"}
    pictures = {name: drawn[row].word[: options.seeds] for row, name in names.items()}
    return Row(_class(options), "the class word alone, without the identifier", pictures)


def _class_pictures(options: DemoOptions, run: Trained) -> list[Image.Image]:
    folder = options.out / CLASS
    return [open_picture(example.path) for example in read_folder(folder, option=prior_images.OPTION)]


def _forecast(runs: Mapping[str, Trained]) -> dict[str, float]:
    measured = {row: forecast for row, run in runs.items() if (forecast := run["forecast"])}
    times = {f"training {row}, s": each["seconds_per_step"] * runs[row]["steps"] for row, each in measured.items()}
    peaks = [each["peak_bytes"] / 1e9 for each in measured.values()]
    return times | ({"peak memory in training, GB": max(peaks)} if peaks else {})


def _facts(options: DemoOptions, ways: Ways, runs: Mapping[str, Trained], seconds: float) -> dict[str, str | float]:
    machine = device.describe()
    return {
        "time in all, s": round(seconds),
        **{f"training {row}, s": run["seconds"] for row, run in runs.items()},
        "peak memory in training, GB": max(run["peak_bytes"] for run in runs.values()) / 1e9,
        "steps": runs[WITH_PRIOR]["steps"],
        "learning rate": options.learning_rate or ways.rate,
        "batch": ways.batch,
        "seeds": f"{options.seed} to {options.seed + options.seeds - 1}",
        "plan": runs[WITH_PRIOR]["plan"],
        "machine": f"{machine['device']}, {machine['threads']} threads",
        "torch": str(machine["torch"]),
        **{f"next, {number}": each for number, each in enumerate(options.next_commands(), 1)},
        "command": command("demo", *as_words(options)),
    }


def _sizes(images: Sequence[Image.Image]) -> str:
    sizes = sorted({image.size for image in images})
    return ", ".join(f"{width}x{height}" for width, height in sizes[:5]) + (" ..." if len(sizes) > 5 else "")
