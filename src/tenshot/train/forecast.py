"""What a training will take here, by real steps of it in this process; nothing of it is kept but caches."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import psutil
import torch

from tenshot.core import device
from tenshot.core.errors import Fault, refuse_if
from tenshot.core.events import Events
from tenshot.core.size import Size
from tenshot.families import validate
from tenshot.model import hub, model
from tenshot.model.model import Model
from tenshot.pipeline import SamplingSettings
from tenshot.train import finetune, learning_rates
from tenshot.train.checks import Prepared, check
from tenshot.train.data import image_latents
from tenshot.train.engine import eta, run
from tenshot.train.engine.denoising import Latents
from tenshot.train.engine.eta import GUESSED, MEASURED
from tenshot.train.engine.memory import ROOM
from tenshot.train.options import FineTuneOptions
from tenshot.train.training_method import Options, TrainingMethod

SMALLEST = 16  # bytes for a number that trains: itself, its gradient, two moments of the optimizer


@dataclass(frozen=True)
class Foretold:
    """parts: seconds of each phase, at least and at most, from the command's start on. peak_bytes: of memory, in
    whichever phase takes the most. disk_bytes: at most at once. file_bytes: of the result."""

    parts: Mapping[str, eta.Part]
    peak_bytes: int
    disk_bytes: int
    file_bytes: int

    @property
    def seconds(self) -> eta.Part:
        return eta.total(list(self.parts.values()))


def forecast(method: TrainingMethod[Options], options: Options, events: Events) -> Foretold:
    """In a process of its own, as its peak memory counts. Raises Refusal where `train` would, before it begins."""
    options = learning_rates.settled(method.name, hub.fetched(options, events), events)
    prepared = check(method, options, events)
    refuse_if(_too_large(method, options, prepared))
    device.reset_max_memory_allocated()
    base = model.load(str(prepared.place), device=prepared.where, events=events)
    parts = _class_pictures(base, prepared, options, events)
    peak = device.max_memory_allocated()  # what follows counts anew
    job = finetune.job_of(method, base, prepared, options, lambda: _stand_ins(base, options), events)
    fitted, expected, more = run.measured(job, options, events)
    ready = time.time() - psutil.Process().create_time()  # a training does all of this, too, before its first step
    kept = run.checkpoint_bytes(fitted, 4 * job.trained)
    limit = options.checkpoints_total_limit
    checkpoints = min(run.checkpoints_written(job, options), limit + 1 if limit else options.max_train_steps)
    return Foretold(
        {"getting ready": eta.about(ready, GUESSED), **parts, **more},
        max(peak, expected.peak_bytes, device.max_memory_allocated()),
        checkpoints * kept + job.saved,
        job.saved,
    )


def _class_pictures(base: Model, prepared: Prepared, options: FineTuneOptions, events: Events) -> dict[str, eta.Part]:
    """Seconds that those will take which are not there yet, by a few steps of a whole batch."""
    missing = finetune.missing_classes(prepared, options)
    if not prepared.prior or not missing:
        return {}
    recipe, batch = prepared.prior[1], min(missing, options.sample_batch_size)
    pace = eta.pace(base, Size.square(recipe.side), events, batch)
    seconds = pace.drawing(missing, SamplingSettings(recipe.sampler, recipe.steps, recipe.guidance))
    return {"class pictures": eta.about(seconds, MEASURED)}


def _stand_ins(base: Model, options: FineTuneOptions) -> Latents:
    """Noise in the place of class pictures: a step takes as long with it."""
    side = (options.resolution or base.resolution) // base.vae_scale_factor
    shape = (options.num_class_images, base.latent_channels, side, side)
    return image_latents.exact(torch.randn(shape), base.vae_scale_factor)


def _too_large(method: TrainingMethod[Options], options: Options, prepared: Prepared) -> Iterator[Fault]:
    """What cannot fit by its numbers alone is not tried: the system might end other programs for it."""
    trained = method.trained(options, prepared.place)
    family = validate.family_of(prepared.place)
    still = 2 * max(0, validate.numbers(prepared.place / family.denoiser) - trained)  # in half precision at the least
    least, limit = SMALLEST * trained + still, ROOM * device.memory_limit(prepared.where)
    if options.optimizer == "adamw" and not options.use_8bit_adam and least > limit:
        found = f"{limit / 1e9:.1f} GB for it here"
        fits = f"{least / 1e9:.1f} GB for weights, gradients and the optimizer alone"
        yield Fault("memory", found, fits, "another method, or a machine with more")
