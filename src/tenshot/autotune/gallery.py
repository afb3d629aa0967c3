"""Pictures that are drawn once and kept, so that whoever comes again finds them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from PIL import Image

from tenshot import pipeline
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.io import tensors
from tenshot.io.images import open_picture
from tenshot.model.model import Model
from tenshot.pipeline import Request, SamplingSettings


def drawn(
    folder: Path, model: Model, requests: Sequence[Request], settings: SamplingSettings, events: Events, job: str
) -> Iterator[Image.Image]:
    """A picture for each request, in their order; each is kept in `folder`, by its number, as soon as it is there."""
    files = [folder / f"{number:04d}.png" for number in range(len(requests))]
    kept = [_kept(file) for file in files]
    missing = [request for request, image in zip(requests, kept, strict=True) if image is None]
    with closing(pipeline.stream(model, missing, settings, events, job)) as drawing:
        for file, image in zip(files, kept, strict=True):
            if image is None:
                image = next(drawing)
                with tensors.replacing(file, lasting=False) as temporary:
                    image.save(temporary, format="PNG")
            yield image


def _kept(file: Path) -> Image.Image | None:
    try:
        return open_picture(file) if file.is_file() else None
    except Refusal:
        return None
