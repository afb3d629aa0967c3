"""Fine-tuning a model on pictures, by any method, from its options to the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from tenshot.core import device, distributed
from tenshot.core.events import EventGroup, Events
from tenshot.core.results import Trained
from tenshot.core.size import Size
from tenshot.families import validate
from tenshot.io import tensors
from tenshot.io.cache import root
from tenshot.io.image_folder import Example
from tenshot.model import hub
from tenshot.model.model import Model
from tenshot.pipeline import SamplingSettings
from tenshot.train import learning_rates, notices, result_export, session
from tenshot.train.checks import Prepared, check
from tenshot.train.data import image_latents, prior_images, text_embeddings
from tenshot.train.data.captions import Captions
from tenshot.train.data.latents_cache import TensorCache
from tenshot.train.data.text_embeddings import TextEmbeddingCache
from tenshot.train.engine import eta, run
from tenshot.train.engine.denoising import Latents
from tenshot.train.engine.diffusion_loss import DiffusionLoss
from tenshot.train.options import FineTuneOptions, TrainOptions
from tenshot.train.training_method import Options, TrainingMethod


def train(method: TrainingMethod[Options], options: Options, events: Events, *, foretold: bool = False) -> Trained:
    """Train as `options` say; the manifest of the run comes back. Raises Refusal before anything is written."""
    options = hub.fetched(options, events)
    phases = eta.Phases()
    events = EventGroup(events, phases)
    options = learning_rates.settled(method.name, options, events)
    prepared = replace(check(method, options, events), foretold=foretold)
    with session.opened(options, prepared.place, prepared.where, prepared.identity, events) as base:
        told = _train(method, base, prepared, options, events)
        return {**told, "seconds_by_phase": phases.told()}


def _train(
    method: TrainingMethod[Options], base: Model, prepared: Prepared, options: Options, events: Events
) -> Trained:
    examples, identity = prepared.examples, prepared.identity
    side = options.resolution or base.resolution
    if side != base.resolution:
        events.say(f"this model was trained for {base.resolution} pixels, not {side}")
    prompt = method.source(options).prompt or ""
    for line in (
        *notices.options(options),
        *learning_rates.far_off(
            options, method.name, base.family.name, sum(p.numel() for p in base.denoiser.parameters())
        ),
        *notices.words(options),
        *(notices.still(options, base.family) if method.saves_model else ()),
        *notices.captions(options, prompt, examples, base),
        *notices.pictures(options, examples, side),
    ):
        events.say(line)
    if distributed.is_main_process():
        tensors.write_json(options.output_dir / run.IDENTITY, identity)
        if ahead := _ahead(base, prepared, options, side, events):
            events.say(eta.words(ahead, "the whole") + "; more exactly once it trains")
    classes = partial(_classes, base, prepared, options, events)
    job = job_of(method, base, prepared, options, classes, events)
    told = run.train_job(job, options, events)
    if options.export and distributed.is_main_process():
        about = result_export.about(options, base, len(examples), job.captions, told["steps"])
        told["exported"] = result_export.export_result(options, method.results(options), base, about, events)
    return told


def job_of(
    method: TrainingMethod[Options],
    base: Model,
    prepared: Prepared,
    options: Options,
    classes: Callable[[], Latents],
    events: Events,
) -> run.Job:
    """What is to be trained, on what. classes: makes the class pictures, once the model's own are encoded."""
    examples, prompt = prepared.examples, method.source(options).prompt or ""
    side = options.resolution or base.resolution
    pictures, shown = image_latents.encode(base, examples, views(options, side), events, TensorCache(events=events))
    own = [examples[number].caption or prompt for number in shown]
    captions = Captions(own, options.proportion_empty_prompts, options.shuffle_tags, options.keep_tags)
    kept = classes() if prepared.prior else None
    torch.manual_seed(device.seed_of(options.seed, "new weights"))
    learner = base
    if options.rescale_betas_zero_snr:
        changes = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        learner = replace(base, scheduler_config={**base.scheduler_config, **changes})
    trainable = method.trainable(learner, options)
    said = method.texts(options, captions) if method.texts else captions
    states = TextEmbeddingCache(trainable.model, TensorCache(root() / "texts", text_embeddings.LIMIT, events))
    task = DiffusionLoss(trainable, options, pictures, said, kept, states)
    task.prepare(events)
    per_epoch = max(1, pictures.epoch // _samples(options))
    trained = sum(p.numel() for part in trainable.parts.values() for p in part.parameters() if p.requires_grad)
    given = [each.path for each in examples]
    saved = 4 * (
        sum(validate.numbers(prepared.place / part) for part in base.family.nets) if method.saves_model else trained
    )
    told = plan(examples, pictures, kept, options)
    return run.Job(task, trainable, prepared.identity, told, per_epoch, trained, given, saved, captions=captions.texts)


def _classes(base: Model, prepared: Prepared, options: FineTuneOptions, events: Events) -> Latents:
    assert prepared.prior
    count, batch = options.num_class_images, options.sample_batch_size
    with distributed.main_process_first():
        return prior_images.ensure(base, *prepared.prior, count, options.seed, batch, events)[0]


def missing_classes(prepared: Prepared, options: FineTuneOptions) -> int:
    """How many class pictures are still to be drawn."""
    if not prepared.prior:
        return 0
    count = options.num_class_images
    return max(0, count - len(prior_images.present(prepared.prior[0], count)))


def _ahead(base: Model, prepared: Prepared, options: FineTuneOptions, side: int, events: Events) -> dict[str, eta.Part]:
    """Seconds that each phase will take, by the pace of drawing; none without class pictures, or if it was said."""
    missing = 0 if prepared.foretold else missing_classes(prepared, options)
    if not prepared.prior or not missing:
        return {}
    recipe = prepared.prior[1]
    pace = eta.pace(base, Size.square(side), events)
    drawing = pace.drawing(missing, SamplingSettings(recipe.sampler, recipe.steps, recipe.guidance))
    seconds = {
        "class pictures": drawing,
        "encoding pictures": pace.decode * sum(len(views(options, side)(each.size)) for each in prepared.examples),
        "training": pace.training(options.max_train_steps, 2 * _samples(options)),
    }
    if options.validation_prompt:
        epoch = sum(each.repeats for each in prepared.examples) // _samples(options)
        every = options.validation_steps or options.validation_epochs * max(1, epoch)
        looks = options.judges + -(-options.max_train_steps // every)
        seconds["validation pictures"] = looks * pace.drawing(options.num_validation_images, SamplingSettings())
    return {name: eta.about(each, eta.GUESSED) for name, each in seconds.items()}


def views(options: FineTuneOptions, side: int) -> image_latents.Views:
    """In which ways each picture is learned."""
    if options.aspect_ratio_buckets:
        step = options.bucket_step or max(8, min(64, side // 64 * 8))
        return image_latents.buckets(side, min(step, side), options.random_flip)
    return image_latents.squares(side, options.center_crop, options.random_flip)


def plan(examples: Sequence[Example], pictures: Latents, kept: Latents | None, options: FineTuneOptions) -> str:
    """What was understood, in one line."""
    own, masks = (
        sum(bool(each) for each in some) for some in zip(*((e.caption, e.mask) for e in examples), strict=True)
    )
    masked = f", {masks} with a mask" if masks else ""
    words = f"{len(examples)} instance pictures ({len(pictures)} views, {own} with a caption of their own{masked})"
    shapes = f", {len(pictures.buckets)} shapes" if len(pictures.buckets) > 1 else ""
    classes = f"{len(kept)} class pictures" if kept is not None else "no class pictures"
    seen = options.max_train_steps * _samples(options)
    rounds = f"{pictures.epoch} pairs an epoch" if kept is not None else f"{pictures.epoch} an epoch"
    epochs, steps = seen / pictures.epoch, options.max_train_steps
    many = f"{epochs:.0f}" if epochs >= 100 else f"{epochs:.3g}"
    long = f"{many} {'epoch' if epochs == 1 else 'epochs'} in {steps} {'step' if steps == 1 else 'steps'}"
    return f"{words}{shapes}, {classes}, {rounds}, {long}"


def _samples(options: FineTuneOptions) -> int:
    """Pictures in an optimizer step."""
    return options.train_batch_size * options.gradient_accumulation_steps * distributed.world_size()


def parts(options: TrainOptions, place: Path) -> tuple[str, ...]:
    """The parts of the model in folder `place` that train or get additions."""
    family = validate.family_of(place)
    return (family.denoiser, *(family.encoders if options.text_encoder_learns else ()))
