"""`tenshot evaluate`: the measures of DreamBooth's paper for any model, LoRA or learned word, beside real pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from tenshot import pipeline
from tenshot.adapters import requested
from tenshot.adapters.requested import RequestedAdapters
from tenshot.core import device, hub_names
from tenshot.core.errors import all_or_refuse, refuse_if
from tenshot.core.events import Events
from tenshot.core.json_types import key
from tenshot.core.results import Evaluated
from tenshot.evaluate import dino_clip, measures, pocket_judge, prompts, subject
from tenshot.evaluate.judge import Judge
from tenshot.evaluate.measures import Figures, Subject
from tenshot.evaluate.options import EvaluateOptions
from tenshot.evaluate.prompts import EvaluationPrompt
from tenshot.io import png
from tenshot.io.image_folder import read_folder
from tenshot.io.images import open_picture
from tenshot.io.png import contact_sheet
from tenshot.model import hub
from tenshot.pipeline import Request, SamplingSettings
from tenshot.runtime import compiled_model
from tenshot.runtime.compiled_model import CompiledModel

REAL = "real"
CLASSES = 2  # pictures of the class for each seed


Row = tuple[str, CompiledModel]


def evaluate(options: EvaluateOptions, events: Events) -> Evaluated:
    """Draw with every model, and measure. Raises Refusal before anything is drawn."""
    options = hub.fetched(options, events)
    judge, of, given, adapters, places, *_ = all_or_refuse(
        lambda: _judge(options),
        lambda: _subject(options),
        lambda: options.prompts and prompts.read(options.prompts, options.called, options.subject, "--prompts"),
        lambda: requested.read(options.lora, options.embedding),
        lambda: [_place(each, events) for each in options.model],
        lambda: refuse_if(options.obstacles()),
    )
    asked = given or _usual(options, of)
    rows: dict[str, Figures] = {REAL: measures.of_real(judge, of)}
    sheets: list[list[Image.Image]] = []
    for name, opened in _rows(options, places, adapters, events):
        drawn, classes = _draw(options, opened, of, asked, name, events)
        rows[name] = measures.of_drawn(judge, of, asked, drawn, classes)
        sheets += [*drawn.values(), classes[: options.seeds]]
    if options.out:
        texts = [*(each.prompt for each in asked), of.class_prompt]
        labels = [f"{name}: {text}" for name in [*rows][1:] for text in texts]
        png.write_picture(options.out, contact_sheet(sheets, labels, [""] * options.seeds), "")
    told = {row: {key(name): value for name, value in of.items()} for row, of in rows.items()}
    return {"judge": judge.name, "measures": told, "drawn": str(options.out) if options.out else None}


def _judge(options: EvaluateOptions) -> Judge:
    return dino_clip.load(options.clip, options.dino) if options.clip else pocket_judge.load()


def _subject(options: EvaluateOptions) -> Subject:
    beside = sorted(each for each in options.others.iterdir() if each.is_dir()) if options.others else []
    own = [each.resolve() for each in (options.pictures, options.unseen) if each]
    folders = [each for each in beside if each.resolve() not in own]
    shown, unseen, *found = all_or_refuse(
        lambda: _pictures(options.pictures, "--pictures"),
        lambda: _pictures(options.unseen, "--unseen") if options.unseen else [],
        *(partial(_pictures, each, "--others") for each in folders),
    )
    others = dict(zip([each.name for each in folders], found, strict=True))
    return Subject(options.subject, shown, unseen, others or subject.shipped_besides(options.pictures))


def _pictures(folder: Path, option: str) -> list[Image.Image]:
    return [open_picture(each.path) for each in read_folder(folder, option=option)]


def _place(name: str, events: Events) -> Path:
    found = compiled_model.find(name, events)
    compiled_model.examine(found)
    return found


def _usual(options: EvaluateOptions, of: Subject) -> list[EvaluationPrompt]:
    """The judge that ships knows the backgrounds and styles of the pocket model's world; CLIP knows any."""
    if options.clip:
        return prompts.of_places(options.called, options.subject)
    return prompts.of_contexts(of.shown, options.called, options.subject)


def _rows(
    options: EvaluateOptions, places: Sequence[Path], adapters: RequestedAdapters, events: Events
) -> Iterator[Row]:
    """Every model, and then with all adapters, if there are any."""
    more = [hub_names.spelled(str(each)) for each in (*options.lora, *options.embedding)]
    for given, place in zip(options.model, places, strict=True):
        name, opened = (
            hub_names.spelled(given),
            compiled_model.load(place, device=device.pick(options.device), events=events),
        )
        yield name, opened
        if more:
            for word in adapters.words:
                opened = opened.with_word(word.word, word.rows)
            opened.set_loras(adapters.strengths(()))
            yield " + ".join((name, *more)), opened


def _draw(
    options: EvaluateOptions,
    opened: CompiledModel,
    of: Subject,
    asked: Sequence[EvaluationPrompt],
    name: str,
    events: Events,
) -> tuple[dict[str, list[Image.Image]], list[Image.Image]]:
    """Prompt -> its pictures; and pictures of the class prompt."""
    seeds = range(options.seed, options.seed + options.seeds)
    wanted = [Request(each.prompt, seed) for each in asked for seed in seeds]
    classes = [Request(of.class_prompt, options.seed + number) for number in range(CLASSES * options.seeds)]
    settings = SamplingSettings(steps=options.steps, batch=options.batch_size)
    images = pipeline.images(opened, wanted + classes, settings, events, f"drawing, {name}")
    drawn = {each.prompt: images[n * len(seeds) : (n + 1) * len(seeds)] for n, each in enumerate(asked)}
    return drawn, images[len(wanted) :]
