"""Validation pictures: the model as it is now draws the same prompt with the same seeds, again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from PIL import Image

from tenshot import pipeline
from tenshot.core import device, distributed
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.results import Best
from tenshot.evaluate import judge, pocket_judge
from tenshot.io import infotext, tensors, text_files
from tenshot.io.images import open_picture
from tenshot.io.png import write_picture
from tenshot.pipeline import Request, SamplingSettings
from tenshot.train.engine.early_stopping import Sight
from tenshot.train.engine.trainable import Trainable, offload_unused
from tenshot.train.options import TrainOptions

SHOWN, BEST, SCORE = "validation", "best", "score.json"
LIKENESS = "likeness.json"  # beside the pictures: step -> likeness
OTHERS = 12  # likenesses that a summary names beside the best
MOST = 32  # given pictures that the judge looks at


class ValidationImages:
    """Draws every `every` steps, into output_dir/validation, and shows each picture to `shown`.

    Where the options ask for it, a judge says how like the drawn pictures are to the given ones, those before the first
    step too; and what was learned is kept under output_dir/best whenever they are more like them than ever before.
    """

    def __init__(
        self,
        trainable: Trainable,
        options: TrainOptions,
        every: int,
        shown: Events,
        given: Sequence[Path],
        settings: SamplingSettings,
    ) -> None:
        self.trainable, self.options, self.every, self.shown, self.given = trainable, options, every, shown, given
        self.settings = settings

    def due(self, step: int) -> bool:
        return step % self.every == 0 and (step > 0 or self.options.judges)

    def done(self, step: int) -> bool:
        drawn = self._file(step, self.options.num_validation_images - 1).is_file()
        return drawn and (not self.options.judges or step in likenesses(self.options.output_dir))

    def sight(self, step: int) -> Sight | None:
        found = likenesses(self.options.output_dir)
        if step not in found or 0 not in found:
            return None
        among = self._judge.likeness_within(self._shown_pictures) if len(self._shown_pictures) > 1 else 1.0
        return Sight(found[step], found[0], among)

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
        sampler = self.settings.sampler_for(base)
        for number, image in enumerate(images):
            facts = {"Steps": self.settings.steps, "Sampler": sampler, "Seed": requests[number].seed}
            write_picture(self._file(step, number), image, infotext.written(prompt, "", facts))
            self.shown.picture(f"validation/{number}", step, image)
        if self.options.judges:
            self._look(step, images)
        offload_unused(self.trainable)

    def _look(self, step: int, images: Sequence[Image.Image]) -> None:
        folder = self.options.output_dir
        likeness = self._judge.likeness(images, self._shown_pictures)
        found = likenesses(folder)
        better = step > 0 and all(likeness > each for at, each in found.items() if 0 < at != step)
        when = "" if step else " before training"
        self.shown.say(f"step {step}: likeness {likeness:.3f}{when}{', the best so far' if better else ''}")
        if better and self.options.keeps_best:
            with tensors.replacing_folder(folder / BEST) as temporary:
                self.trainable.save(temporary)
                tensors.write_json(temporary / SCORE, {"step": step, "likeness": likeness})
        known = sorted({**found, step: likeness}.items())
        tensors.write_json(folder / SHOWN / LIKENESS, {str(at): each for at, each in known})
        if self.options.stop_when_learned and step == 0 and (sight := self.sight(0)):
            self.shown.say(sight.ahead())

    @cached_property
    def _judge(self) -> judge.Judge:
        return pocket_judge.load()

    @cached_property
    def _shown_pictures(self) -> list[Image.Image]:
        return [open_picture(path) for path in self.given[:MOST]]


def drawn(folder: Path) -> dict[int, list[Path]]:
    """By step, the validation pictures in an output folder."""
    found: dict[int, list[Path]] = {}
    for path in sorted((folder / SHOWN).glob("step-*-*.png")):
        found.setdefault(int(path.stem.split("-")[1]), []).append(path)
    return found


def likenesses(folder: Path) -> dict[int, float]:
    """By step, how like the given pictures the drawn ones were found, in an output folder."""
    try:
        found = text_files.read_object(folder / SHOWN / LIKENESS)
        return {int(step): float(str(likeness)) for step, likeness in found.items()}
    except (Refusal, ValueError):
        return {}


def summary(found: Mapping[int, float]) -> str:
    """Which step won, and by what against which others."""
    best = max((step for step in found if step), key=lambda step: found[step])
    others = [f"step {step} {each:.3f}" if step else f"before training {each:.3f}" for step, each in found.items()]
    del others[list(found).index(best)]
    few = others if len(others) <= OTHERS else [others[0], "...", *others[2 - OTHERS :]]
    beaten = "" if found[best] > found.get(0, -1) else ", no more so than what was drawn before training"
    return (
        f"most like your pictures: step {best} of {max(found)}, likeness {found[best]:.3f}{beaten} ({', '.join(few)})"
    )


def score(folder: Path) -> Best | None:
    """Step and likeness of what is kept as the best in an output folder; None where nothing whole is."""
    try:
        found = text_files.read_json(folder / BEST / SCORE)
        return {"step": int(found["step"]), "likeness": float(found["likeness"])}
    except (Refusal, ValueError, TypeError, KeyError):
        return None
