"""The verb that draws: a prompt and a seed in, PNGs with infotext out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import count, groupby
from os.path import exists
from pathlib import Path

from tenshot import pipeline
from tenshot.core.errors import Fault, Refusal, refuse_if
from tenshot.core.events import Events
from tenshot.core.results import Generated, Picture
from tenshot.generate import plan
from tenshot.generate.options import GenerateOptions
from tenshot.io.png import read_infotext, write_png
from tenshot.model import hub
from tenshot.pipeline import Request


def generate(options: GenerateOptions, events: Events) -> Generated:
    """Draw and write; for each picture its file, prompt and seed come back.

    Raises Refusal before anything is written; Cancelled, where the pictures drawn so far are kept.
    """
    options = hub.fetched(options, events)
    found = plan.read(options, events, lambda: refuse_if(_faults(options)))
    opened = found.load(events)
    planned = found.planned(opened, events)
    written: list[Picture] = []
    for tags, group in groupby(planned.pictures, lambda each: each.tags):
        if found.given:
            opened.set_loras(planned.strengths(tags))
        pictures = [*group]
        drawn = pipeline.stream(opened, [each.request for each in pictures], planned.settings, events)
        for each, picture in zip(pictures, drawn, strict=True):
            path = options.out if options.names_a_png else _free(options.out, each.request)
            write_png(path, *planned.finished(each, picture))
            written.append({"file": str(path), "prompt": each.prompt, "seed": each.request.seed})
    return {"pictures": written}


def _faults(options: GenerateOptions) -> Iterator[Fault]:
    yield from options.faults()
    yield from options.obstacles()
    if options.names_a_png and exists(options.out) and not _drawn_here(options.out):
        fits = "a new name, or a picture that Tenshot drew, which is drawn anew"
        yield Fault("--out", f"{options.out} is not one of Tenshot's pictures", fits, "choose another name")


def _drawn_here(file: Path) -> bool:
    with suppress(Refusal):
        return "Version: tenshot" in (read_infotext(file) or "")
    return False


def _free(folder: Path, request: Request) -> Path:
    """A file name in `folder` that is not taken, from the seed and the prompt."""
    words = re.sub(r"\W+", "-", request.prompt).strip("-")[:40]
    names = ("-".join(filter(None, (f"{number:04d}", str(request.seed), words))) for number in count())
    return next(path for name in names if not (path := folder / f"{name}.png").exists())
