"""The verb that draws: a prompt and a seed in, pictures with infotext out."""

from __future__ import annotations

import re
from itertools import count, groupby
from pathlib import Path

from tenshot import pipeline
from tenshot.core.events import EventGroup, Events
from tenshot.core.results import Generated, Picture
from tenshot.generate import plan, preview
from tenshot.generate.options import GenerateOptions
from tenshot.generate.preview import Preview
from tenshot.io.png import write_picture
from tenshot.pipeline import Request


def generate(options: GenerateOptions, events: Events) -> Generated:
    """Draw and write; for each picture its file, prompt and seed come back.

    Raises Refusal before anything is written; Cancelled, where the pictures drawn so far are kept.
    """
    found = plan.read(options, events)
    opened = found.load(events)
    planned = found.planned(opened, events)
    planned.check_strengths()
    written: list[Picture] = []
    for tags, group in groupby(planned.pictures, lambda each: each.tags):
        planned.set_loras(tags)
        pictures = [*group]
        with Preview(preview.place(options.out, options.names_a_picture), options.preview_every) as shown:
            heard = EventGroup(events, shown)
            drawn = pipeline.stream(opened, [each.request for each in pictures], planned.settings, heard)
            for each, picture in zip(pictures, drawn, strict=True):
                path = options.out if options.names_a_picture else _free(options.out, each.request, options.suffix)
                write_picture(path, *planned.finished(each, picture), options.quality)
                written.append({"file": str(path), "prompt": each.prompt, "seed": each.request.seed})
    return {"pictures": written}


def _free(folder: Path, request: Request, suffix: str) -> Path:
    """A file name in `folder` that is not taken, from the seed and the prompt."""
    words = re.sub(r"\W+", "-", request.prompt).strip("-")[:40]
    names = ("-".join(filter(None, (f"{number:04d}", str(request.seed), words))) for number in count())
    return next(path for name in names if not (path := folder / f"{name}{suffix}").exists())
