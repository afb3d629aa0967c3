"""Validation pictures: the model as it is now draws the same prompt with the same seeds, again and again."""

from __future__ import annotations

from tenshot import sampling
from tenshot.events import Events
from tenshot.files.images import infotext, write_png
from tenshot.model import Model
from tenshot.sampling import Request, Settings
from tenshot.train.options import FineTuneOptions


class Previews:
    """Draws every `every` steps, into output_dir/validation, and shows each picture to `shown`."""

    def __init__(self, model: Model, options: FineTuneOptions, every: int, shown: Events) -> None:
        self.model, self.options, self.every, self.shown = model, options, every, shown
        self.settings = Settings(size=(options.resolution, options.resolution) if options.resolution else None)

    def due(self, step: int) -> bool:
        return step % self.every == 0 or step == self.options.max_train_steps

    def look(self, step: int) -> None:
        prompt = self.options.validation_prompt or ""
        requests = [Request(prompt, self.options.seed + n) for n in range(self.options.num_validation_images)]
        for number, image in enumerate(sampling.pictures(self.model, requests, self.settings)):
            facts = {"Steps": self.settings.steps, "Sampler": self.settings.sampler, "Seed": requests[number].seed}
            path = self.options.output_dir / "validation" / f"step-{step:06d}-{number}.png"
            write_png(path, image, infotext(prompt, "", facts))
            self.shown.picture(f"validation/{number}", step, image)
