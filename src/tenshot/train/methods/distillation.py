"""Distillation: a LoRA with which a model draws in few steps of Euler, without guidance, what it draws in many with it.

The model is its own teacher: it draws trajectories for its prompts, and the LoRA learns to go along them in long steps
(Luhman and Luhman, arXiv 2101.02388; Meng et al., arXiv 2210.03142). No pictures are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from tenshot import next_commands, pipeline
from tenshot.adapters import usage_hint
from tenshot.core import device, distributed
from tenshot.core.errors import Fault, Refusal, all_or_refuse, refuse_if
from tenshot.core.events import EventGroup, Events
from tenshot.core.results import LikenessToTeacher, Trained
from tenshot.core.size import Size
from tenshot.evaluate import metrics, pocket_judge
from tenshot.export import install
from tenshot.families import validate
from tenshot.families.base import Conditioning
from tenshot.io import hashes, tensors, text_files
from tenshot.model import hub, model
from tenshot.model.model import Model
from tenshot.model.prompts import READING, Prompts
from tenshot.pipeline import Request, SamplingSettings
from tenshot.train import checks, learning_rates, notices, result_export, session
from tenshot.train.data import trajectories
from tenshot.train.data.trajectories import Trajectories
from tenshot.train.distillation_options import TEACHER_STEPS, DistillationOptions, spoken_faults
from tenshot.train.engine import checkpoint, eta, optimizers, run
from tenshot.train.engine.trajectory_loss import TrajectoryLoss
from tenshot.train.methods import lora_weights

NAME = "distillation"
JUDGED = 8  # pictures that are drawn in the end, of seeds that were not learned from
MOST = 100.0  # dB that are told at most: pictures may be equal
SCHEDULERS = ("LCMScheduler", "TCDScheduler")  # that only distilled models are released with


@dataclass(frozen=True)
class Prepared:
    """What the options turned out to mean. place: the model's folder. ways: what is to be drawn, its last JUDGED rows
    not to be learned from."""

    where: torch.device
    place: Path
    prompts: Sequence[str]
    ways: Trajectories
    identity: run.Identity


def train(options: DistillationOptions, events: Events) -> Trained:
    """Train as `options` say; the manifest of the run comes back. Raises Refusal before anything is written."""
    options = hub.fetched(options, events)
    phases = eta.Phases()
    events = EventGroup(events, phases)
    options = learning_rates.settled(NAME, options, events)
    prepared = check(options, events)
    with session.opened(options, prepared.place, prepared.where, prepared.identity, events) as base:
        return {**_train(base, prepared, options, events), "seconds_by_phase": phases.told()}


def check(options: DistillationOptions, events: Events) -> Prepared:
    """Look at all that it would read and where it would write. Raises Refusal with everything wrong."""
    try:
        where, place, prompts, *_ = all_or_refuse(
            lambda: device.pick(options.device),
            lambda: _model_folder(options, events),
            lambda: _prompts(options),
            lambda: refuse_if((*options.faults(), *checks.process_faults(options), *lora_weights.faults(options))),
            lambda: optimizers.check(options, options.device),
            lambda: optimizers.check_compiler(options),
            lambda: install.check(options.export, lora_weights.results(options)),
        )
    except Refusal as refusal:
        raise Refusal(*refusal.faults, *run.folder_faults(options, run.identity(NAME, options))) from None
    inputs = {"files": checks.digests(options), "model": hashes.of_model(place, events=events), "prompts": prompts}
    identity = run.identity(NAME, options, inputs)
    trained = 4 * lora_weights.trained(options, place)
    all_or_refuse(
        lambda: refuse_if(run.folder_faults(options, identity)),
        lambda: run.check_disk(options, trained, trained),
    )
    return Prepared(where, place, prompts, _ways(options, where, place, prompts, identity, events), identity)


def _model_folder(options: DistillationOptions, events: Events) -> Path:
    place = model.find(options.pretrained_model_name_or_path, events, options.vae)
    validate.examine(place)
    schedule = text_files.read_object(place / "scheduler" / "scheduler_config.json")
    if schedule.get("_class_name") in SCHEDULERS or validate.denoiser_config(place).get("time_cond_proj_dim"):
        found = "is distilled already: it draws in few steps and without guidance as it is"
        do = "draw with it: tenshot generate --sampler LCM --steps 8 --guidance_scale 1"
        where = f"--pretrained_model_name_or_path {options.pretrained_model_name_or_path}"
        raise Refusal(Fault(where, found, "a model that draws with guidance", do))
    return place


def _prompts(options: DistillationOptions) -> list[str]:
    """Those that are given, or else those that the model's training recorded. Raises Refusal where there are none."""
    if options.prompt:
        return list(dict.fromkeys(options.prompt))
    name = options.pretrained_model_name_or_path
    found = next_commands.recorded(Path(name))
    if not found:
        told = f"none, and {name} has no manifest of a training that tells what it was taught"
        do = '--prompt "a photo of az cat" "a photo of a cat", or --prompt_file FILE'
        raise Refusal(Fault("--prompt", told, "what is to be drawn fast", do))
    refuse_if(spoken_faults(f"{Path(name) / 'manifest.json'}", found))
    return found


def _ways(
    options: DistillationOptions,
    where: torch.device,
    place: Path,
    prompts: Sequence[str],
    identity: run.Identity,
    events: Events,
) -> Trajectories:
    family, config = validate.family_of(place), validate.denoiser_config(place)
    recipe = trajectories.Recipe(
        str(identity["inputs"]["model"]),
        trajectories.SAMPLERS[family.process.name],
        TEACHER_STEPS,
        options.steps,
        options.guidance_scale,
        options.resolution or int(config.get("sample_size", 64)) * 8,
        device.precision(options.mixed_precision, where),
    )
    count = options.num_trajectories + JUDGED
    seeds = [device.seed_of(options.seed, "trajectory", number) % 2**32 for number in range(count)]
    requests = [Request(prompts[number % len(prompts)], seed) for number, seed in enumerate(seeds)]
    return trajectories.kept(options.output_dir / run.TRAJECTORIES, recipe, requests, events)


def _train(base: Model, prepared: Prepared, options: DistillationOptions, events: Events) -> Trained:
    ways, many = prepared.ways, sum(p.numel() for p in base.denoiser.parameters())
    for line in (*notices.options(options), *learning_rates.far_off(options, NAME, base.family.name, many)):
        events.say(line)
    if distributed.is_main_process():
        tensors.write_json(options.output_dir / run.IDENTITY, prepared.identity)
        if not checkpoint.found(options.output_dir):
            events.say(eta.words(_ahead(base, ways, options, events), "the whole") + "; more exactly once it trains")
    with distributed.main_process_first():
        trajectories.ensure(base, ways, options.sample_batch_size, ways.recipe.precision, events)
    with torch.no_grad():
        said = _said(base, prepared.prompts, Size.square(ways.recipe.side))
    before = _student(base, ways, options, events) if distributed.is_main_process() else []
    torch.manual_seed(device.seed_of(options.seed, "new weights"))
    about = {usage_hint.KEY: options.usage.written()}
    trainable = lora_weights.LoraTrainable(base, options, about)
    task = TrajectoryLoss(trainable, options, ways, said, options.num_trajectories)
    samples = options.train_batch_size * options.gradient_accumulation_steps * distributed.world_size()
    per_epoch = max(1, options.num_trajectories * options.steps // samples)
    trained = sum(p.numel() for part in trainable.parts.values() for p in part.parameters() if p.requires_grad)
    job = run.Job(
        task,
        trainable,
        prepared.identity,
        _plan(prepared, options),
        per_epoch,
        trained,
        given=(),
        saved=4 * trained,
        settings=_settings(options),
        judged=partial(_judged, trainable.model, ways, before, options),
    )
    told = run.train_job(job, options, events)
    if options.export and distributed.is_main_process():
        facts = result_export.about(options, base, 0, prepared.prompts, told["steps"])
        told["exported"] = result_export.export_result(options, lora_weights.results(options), base, facts, events)
    return told


def _settings(options: DistillationOptions) -> SamplingSettings:
    """How the student draws."""
    usage = options.usage
    return SamplingSettings(usage.sampler, usage.steps, usage.guidance, schedule=usage.schedule)


def _said(base: Model, prompts: Sequence[str], size: Size) -> Mapping[str, Conditioning]:
    """What the denoiser is told of each prompt, as when it is drawn."""
    reader = Prompts(base, size, TEACHER_STEPS, READING)
    return {prompt: reader.positive(prompt)[0][1][-1][1] for prompt in prompts}


def _ahead(base: Model, ways: Trajectories, options: DistillationOptions, events: Events) -> dict[str, eta.Part]:
    pace = eta.pace(base, Size.square(ways.recipe.side), events)
    samples = options.train_batch_size * options.gradient_accumulation_steps
    seconds = {
        "trajectories": pace.drawing(len(ways.missing()), ways.recipe.settings),
        "training": pace.training(options.max_train_steps, samples),
        "comparing": pace.drawing(2 * JUDGED, _settings(options)),
    }
    return {name: eta.about(each, eta.GUESSED) for name, each in seconds.items() if each}


def _plan(prepared: Prepared, options: DistillationOptions) -> str:
    """What was understood, in one line."""
    many = len(prepared.prompts)
    prompts = f"{many} prompts" if many > 1 else f"1 prompt, {prepared.prompts[0]!r}"
    teacher = f"{TEACHER_STEPS} steps of {prepared.ways.recipe.sampler} at guidance {options.guidance_scale:g}"
    student = f"{options.steps} steps of {options.usage.sampler} without guidance"
    return f"{options.num_trajectories} trajectories of {prompts}, {teacher}; to be drawn in {student}"


def _student(base: Model, ways: Trajectories, options: DistillationOptions, events: Events) -> list[Image.Image]:
    """The pictures of the seeds that are not learned from, as they are drawn in few steps by now."""
    settings = replace(_settings(options), size=Size.square(ways.recipe.side), batch=options.sample_batch_size)
    with device.autocast(base.device, ways.recipe.precision):
        return pipeline.images(base, ways.requests[-JUDGED:], settings, events, "drawing in few steps")


def _judged(
    base: Model, ways: Trajectories, before: Sequence[Image.Image], options: DistillationOptions, events: Events
) -> Trained:
    """How like the teacher's pictures those of the same seeds are."""
    latents = torch.stack([ways[row][-1].float() for row in range(len(ways) - JUDGED, len(ways))])
    teacher = pipeline.decode(base, latents.to(base.device))
    after = _student(base, ways, options, events)
    found: LikenessToTeacher = {
        "pictures": JUDGED,
        "psnr": _psnr(after, teacher),
        "untrained_psnr": _psnr(before, teacher),
    }
    alike = ""
    if pocket_judge.fits(base.place):
        one, other = _alike(after, teacher), _alike(before, teacher)
        found |= {"likeness": one, "untrained_likeness": other}
        alike = f", likeness {one:.3f} ({other:.3f})"
    told = f"PSNR {found['psnr']:.1f} dB ({found['untrained_psnr']:.1f} without the LoRA){alike}"
    events.say(
        f"{JUDGED} pictures of seeds that were not learned from, in {options.steps} steps without guidance, are like"
        f" those of {TEACHER_STEPS} steps with it by {told}"
    )
    if found["psnr"] <= found["untrained_psnr"]:
        events.say("it is no more like its teacher than without the LoRA: raise --max_train_steps or --learning_rate")
    return {"likeness_to_teacher": found}


def _psnr(pictures: Sequence[Image.Image], others: Sequence[Image.Image]) -> float:
    each = [min(MOST, metrics.psnr(*pair)) for pair in zip(pictures, others, strict=True)]
    return round(sum(each) / len(each), 3)


def _alike(pictures: Sequence[Image.Image], others: Sequence[Image.Image]) -> float:
    """Mean cosine of each picture and its like."""
    seeing = pocket_judge.load()
    return round((seeing.see(pictures) * seeing.see(others)).sum(-1).mean().item(), 4)
