"""Validation pictures: the model as it is now draws the same prompt with the same seeds, again and again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from PIL import Image

from tenshot import pipeline
from tenshot.core import device, distributed
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.results import Best
from tenshot.core.size import Size
from tenshot.evaluate import judge
from tenshot.io import tensors, text_files
from tenshot.io.images import open_picture
from tenshot.io.png import infotext, write_png
from tenshot.pipeline import Request, SamplingSettings
from tenshot.train.engine.trainable import Trainable, offload_unused
from tenshot.train.options import FineTuneOptions

SHOWN, BEST, SCORE = "validation", "best", "score.json"
MOST = 32  # given pictures that the judge looks at


class ValidationImages:
    """Draws every `every` steps, into output_dir/validation, and shows each picture to `shown`.

    Where the options ask for it, what was learned is kept under output_dir/best whenever the judge finds the drawn
    pictures more like the given ones than ever before.
    """

    def __init__(
        self, trainable: Trainable, options: FineTuneOptions, every: int, shown: Events, given: Sequence[Path]
    ) -> None:
        self.trainable, self.options, self.every, self.shown, self.given = trainable, options, every, shown, given
        self.settings = SamplingSettings(size=Size.square(options.resolution) if options.resolution else None)

    def due(self, step: int) -> bool:
        return step % self.every == 0

    def done(self, step: int) -> bool:
        return self._file(step, self.options.num_validation_images - 1).is_file()

    def _file(self, step: int, number: int) -> Path:
        return self.options.output_dir / SHOWN / f"step-{step:06d}-{number}.png"

    def validate(self, step: int) -> None:
        if not distributed.is_main_process():
            return
        prompt = self.options.validation_prompt or ""
        requests = [Request(prompt, self.options.seed + n) for n in range(self.options.num_validation_images)]
        base = self.trainable.model
        with device.autocast(base.device, device.precision(self.options.mixed_precision, base.device)):
            drawn = pipeline.latents(base, requests, self.settings, self.shown, "drawing validation pictures")
        try:
            images = pipeline.decode(base, drawn)
        except Refusal as refusal:  # the training goes on: what it makes is looked at elsewhere
            self.shown.say(f"step {step}: no validation pictures: {refusal.faults[0].found}")
            return
        if self.options.keep_best:
            self._keep(step, images)
        sampler = self.settings.sampler_for(base)
        for number, image in enumerate(images):
            facts = {"Steps": self.settings.steps, "Sampler": sampler, "Seed": requests[number].seed}
            write_png(self._file(step, number), image, infotext(prompt, "", facts))
            self.shown.picture(f"validation/{number}", step, image)
        offload_unused(self.trainable)

    def _keep(self, step: int, images: Sequence[Image.Image]) -> None:
        place = self.options.output_dir / BEST
        likeness = self._judge.likeness(images, self._shown_pictures)
        before = score(self.options.output_dir)
        better = before is None or likeness > before["likeness"]
        self.shown.say(f"step {step}: likeness {likeness:.3f}{', the best so far' if better else ''}")
        if better:
            with tensors.replacing_folder(place) as temporary:
                self.trainable.save(temporary)
                tensors.write_json(temporary / SCORE, {"step": step, "likeness": likeness})

    @cached_property
    def _judge(self) -> judge.Judge:
        return judge.load()

    @cached_property
    def _shown_pictures(self) -> list[Image.Image]:
        return [open_picture(path) for path in self.given[:MOST]]


def score(folder: Path) -> Best | None:
    """Step and likeness of what is kept as the best in an output folder; None where nothing whole is."""
    try:
        found = text_files.read_json(folder / BEST / SCORE)
        return {"step": int(found["step"]), "likeness": float(found["likeness"])}
    except (Refusal, ValueError, TypeError, KeyError):
        return None
