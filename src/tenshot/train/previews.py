"""Validation pictures: the model as it is now draws the same prompt with the same seeds, again and again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from tenshot import device, judge, processes, sampling
from tenshot.errors import Refusal
from tenshot.events import Events
from tenshot.files import tensors
from tenshot.files.images import infotext, write_png
from tenshot.files.pictures import open_picture
from tenshot.sampling import Request, Settings
from tenshot.train.learner import Learner, put_away_idle
from tenshot.train.options import FineTuneOptions

SHOWN, BEST, SCORE = "validation", "best", "score.json"
MOST = 32  # given pictures that the judge looks at


class Previews:
    """Draws every `every` steps, into output_dir/validation, and shows each picture to `shown`.

    Where the options ask for it, what was learned is kept under output_dir/best whenever the judge finds the drawn
    pictures more like the given ones than ever before.
    """

    def __init__(
        self, learner: Learner, options: FineTuneOptions, every: int, shown: Events, given: Sequence[Path]
    ) -> None:
        self.learner, self.options, self.every, self.shown, self.given = learner, options, every, shown, given
        self.settings = Settings(size=(options.resolution, options.resolution) if options.resolution else None)

    def due(self, step: int) -> bool:
        return step % self.every == 0

    def looked(self, step: int) -> bool:
        return self._file(step, self.options.num_validation_images - 1).is_file()

    def _file(self, step: int, number: int) -> Path:
        return self.options.output_dir / SHOWN / f"step-{step:06d}-{number}.png"

    def look(self, step: int) -> None:
        if not processes.first():
            return
        prompt = self.options.validation_prompt or ""
        requests = [Request(prompt, self.options.seed + n) for n in range(self.options.num_validation_images)]
        base = self.learner.model
        with device.autocast(base.device, device.precision(self.options.mixed_precision, base.device)):
            drawn = sampling.latents(base, requests, self.settings, self.shown, "drawing validation pictures")
        images = sampling.decode(base, drawn)
        if self.options.keep_best:
            self._keep(step, images)
        sampler = self.settings.sampler_for(base)
        for number, image in enumerate(images):
            facts = {"Steps": self.settings.steps, "Sampler": sampler, "Seed": requests[number].seed}
            write_png(self._file(step, number), image, infotext(prompt, "", facts))
            self.shown.picture(f"validation/{number}", step, image)
        put_away_idle(self.learner)

    def _keep(self, step: int, images: Sequence[Image.Image]) -> None:
        place = self.options.output_dir / BEST
        likeness = self._judge.likeness(images, self._shown_pictures)
        before = score(self.options.output_dir)
        better = before is None or likeness > before["likeness"]
        self.shown.say(f"step {step}: likeness {likeness:.3f}{', the best so far' if better else ''}")
        if better:
            with tensors.replacing_folder(place) as temporary:
                self.learner.save(temporary)
                tensors.write_json(temporary / SCORE, {"step": step, "likeness": likeness})

    @cached_property
    def _judge(self) -> judge.Judge:
        return judge.load()

    @cached_property
    def _shown_pictures(self) -> list[Image.Image]:
        return [open_picture(path) for path in self.given[:MOST]]


def score(folder: Path) -> dict[str, Any] | None:
    """Step and likeness of what is kept as the best in an output folder; None where nothing whole is."""
    try:
        found = tensors.read_json(folder / BEST / SCORE)
        return {"step": int(found["step"]), "likeness": float(found["likeness"])}
    except (Refusal, ValueError, TypeError, KeyError):
        return None
