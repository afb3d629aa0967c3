"""The verb that draws: a prompt and a seed in, pictures with infotext out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count, groupby
from pathlib import Path

from PIL import Image

from tenshot import pipeline
from tenshot.core.errors import Fault, Refusal, all_or_refuse, refuse_if
from tenshot.core.events import EventGroup, Events
from tenshot.core.results import Generated, Picture
from tenshot.families.components import Net
from tenshot.generate import matrix, plan, preview, prompt_options
from tenshot.generate.matrix import Cell
from tenshot.generate.options import GenerateOptions
from tenshot.generate.plan import Plan, Read
from tenshot.generate.preview import Preview
from tenshot.generate.sheets import Board, Grid
from tenshot.io.png import write_picture
from tenshot.model import hub
from tenshot.pipeline import Request

Group = Sequence[tuple[Cell, Read]]  #: of one model


def generate(options: GenerateOptions, events: Events) -> Generated:
    """Draw and write; for each picture its file, prompt and seed come back, and the files of the sheets.

    Raises Refusal before anything is written; Cancelled, where the pictures drawn so far are kept.
    """
    axes = matrix.axes(GenerateOptions, options.matrix)
    cells = matrix.cells(options, axes) if axes else [Cell((), each) for each in _apart(options)]
    heard = _Once(events) if len(cells) > 1 else events
    if len(cells) > 1:
        hub.check([each.options for each in cells])
    found = all_or_refuse(*(partial(plan.read, each.options, heard) for each in cells))
    board, grid = Board(axes), Grid(sum(len(each.options.prompt) * each.options.num_images for each in cells))
    pictures: list[Picture] = []
    sheets: list[str] = []
    pairs = sorted(zip(cells, found, strict=True), key=lambda pair: _net(pair[1]))
    groups = [[*group] for _, group in groupby(pairs, lambda pair: _net(pair[1]))]
    plans = _first(groups, heard)
    try:
        for group in groups:
            plans = plans or _plans(group, heard)
            for cell, planned in zip(group, plans, strict=True):
                for number, (picture, image, text) in enumerate(_drawn(planned, events)):
                    pictures.append(picture)
                    if axes:
                        board.add(cell[0].at, number, image, text)
                    elif options.grid:
                        grid.add(image, text)
            plans = []
            del planned  # its model goes before the next one comes
    finally:
        sheets = [*board.write(options.out), *grid.write(options.out)]
    return {"pictures": pictures, "sheets": sheets} if axes or options.grid else {"pictures": pictures}


def _apart(options: GenerateOptions) -> list[GenerateOptions]:
    """As they are, or apart for prompts that have their own."""
    if not options.prompt_options:
        return [options]
    return prompt_options.split(options, options.prompt, options.prompt_options)


class _Once(EventGroup):
    """Hears each sentence once, however many cells say it."""

    def __init__(self, *listeners: Events) -> None:
        super().__init__(*listeners)
        self.said: set[str] = set()

    def say(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            super().say(text)


def _net(found: Read) -> tuple[str, ...]:
    """What makes a model another one: cells of which it is the same share one in memory."""
    options, words = found.options, found.given.words if found.given else ()
    return (
        *(str(each) for each in (found.place, options.vae, found.where, options.precision, options.fallback)),
        *(str(each.file) for each in words),
    )


def _first(groups: Sequence[Group], events: Events) -> list[Plan]:
    """The plans of the first model, which is loaded. All the others were before it, one at a time.

    Raises Refusal with the faults of all.
    """
    plans: list[Plan] = []
    faults: list[Fault] = []
    for group in reversed(groups):
        plans = []  # its model goes before the next one comes
        try:
            plans = _plans(group, events)
        except Refusal as refusal:
            faults = [*refusal.faults, *faults]
    refuse_if(faults)
    return plans


def _plans(group: Group, events: Events) -> list[Plan]:
    """Of one model, which is loaded; all of them are checked. Raises Refusal."""
    opened = group[0][1].load(events)
    nets: dict[str, Net] = {}
    plans: list[Plan] = all_or_refuse(*(partial(each.planned, opened, events, nets) for _, each in group))
    all_or_refuse(*(partial(each.check_strengths, len(plans) > 1) for each in plans))
    return plans


def _drawn(planned: Plan, events: Events) -> Iterator[tuple[Picture, Image.Image, str]]:
    """Each picture once it is written, and its infotext."""
    options = planned.found.options
    for tags, group in groupby(planned.pictures, lambda each: each.tags):
        planned.set_loras(tags)
        pictures = [*group]
        with Preview(preview.place(options.out, options.names_a_picture), options.preview_every) as shown:
            heard = EventGroup(events, shown)
            drawn = pipeline.stream(planned.opened, [each.request for each in pictures], planned.settings, heard)
            for each, picture in zip(pictures, drawn, strict=True):
                path = options.out if options.names_a_picture else _free(options.out, each.request, options.suffix)
                image, text = planned.finished(each, picture)
                write_picture(path, image, text, options.quality)
                yield {"file": str(path), "prompt": each.prompt, "seed": each.request.seed}, image, text


def _free(folder: Path, request: Request, suffix: str) -> Path:
    """A file name in `folder` that is not taken, from the seed and the prompt."""
    words = re.sub(r"\W+", "-", request.prompt).strip("-")[:40]
    names = ("-".join(filter(None, (f"{number:04d}", str(request.seed), words))) for number in count())
    return next(path for name in names if not (path := folder / f"{name}{suffix}").exists())
