"""What ways to draw are put to: pictures of prompts, held against those of the same seeds that torch draws."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tenshot import pipeline
from tenshot.autotune import certificate, gallery, ladder
from tenshot.autotune.certificate import Certificate
from tenshot.core.events import Events
from tenshot.core.size import Size
from tenshot.evaluate.judge import Images, Judge
from tenshot.model.model import Model
from tenshot.option_types import PresetKind
from tenshot.pipeline import Request
from tenshot.preset import Preset

LEAST = 4  # pictures before a way is given up
LIMIT_STEPS = 60  # of the pictures that the converging samplers approach


class Spent(Exception):
    """The budget is."""


class _Quiet(Events):
    """Hears nothing, and stops when the other stops."""

    def __init__(self, outer: Events) -> None:
        self.cancelled = outer.cancelled  # type: ignore[method-assign]


@dataclass(frozen=True)
class Examination:
    """search, proof: what is drawn to look for ways, and to prove the one that was found, which never saw the first.

    plain: the same weights as `opened`, all run by torch in float32: that draws what ways are held against.
    folder: where those pictures are kept. end: by time.monotonic.
    """

    kind: PresetKind
    opened: Model
    plain: Model
    search: Sequence[Request]
    proof: Sequence[Request]
    size: Size
    batch: int
    guidance: float
    min_psnr: float
    judge: Judge | None
    shots: Images
    folder: Path
    end: float

    @property
    def reference(self) -> Preset:
        if self.kind == "same":
            return ladder.limit(self.guidance, LIMIT_STEPS)
        return ladder.usual(self.plain, self.guidance)

    def wanted(self, requests: Sequence[Request], events: Events) -> list[Image.Image]:
        """The reference's pictures, drawn once. Raises Spent."""
        place = self.folder / ("search" if requests is self.search else "proof")
        settings = self.reference.settings(self.size, self.batch)
        found = []
        for image in gallery.drawn(place, self.plain, requests, settings, events, f"drawing {self.reference}"):
            self.check()
            found.append(image)
        return found

    def sat(self, preset: Preset, requests: Sequence[Request], events: Events) -> tuple[Certificate, int]:
        """The certificate of a way, and of how many pictures: it ends early where there is no hope. Raises Spent."""
        wanted = self.wanted(requests, events)
        settings = preset.settings(self.size, self.batch)
        parts: list[Certificate] = []
        for start in range(0, len(requests), self.batch):
            self.check()
            some = slice(start, start + self.batch)
            images = pipeline.images(self.opened, requests[some], settings, _Quiet(events))
            parts.append(self._measured(images, wanted[some], requests[some]))
            found, count = certificate.joined(parts), start + len(images)
            if count >= LEAST and found.hopeless:
                break
        return found, count

    def check(self) -> None:
        if time.monotonic() > self.end:
            raise Spent

    def _measured(self, images: Images, wanted: Images, requests: Sequence[Request]) -> Certificate:
        if self.judge is None:
            return certificate.same(images, wanted, self.min_psnr)
        texts = [each.prompt for each in requests]
        found, reference = (certificate.graded(self.judge, each, texts, self.shots) for each in (images, wanted))
        return certificate.good(found, reference)
