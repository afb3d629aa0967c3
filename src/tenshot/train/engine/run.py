"""What surrounds the loop in every run: the output folder's owner, forecast, trackers, manifest, and the proof."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import NotRequired, TypedDict

from filelock import FileLock, Timeout

from tenshot import __version__
from tenshot.core import device, distributed
from tenshot.core.errors import Cancelled, Fault, Refusal, refuse_if
from tenshot.core.events import EventGroup, Events, track
from tenshot.core.recipes import as_recipe
from tenshot.core.results import Forecast, Trained
from tenshot.core.size import Size
from tenshot.io import tensors, text_files
from tenshot.pipeline import SamplingSettings
from tenshot.train.engine import checkpoint, eta, loop, memory
from tenshot.train.engine.eta import GUESSED, MEASURED
from tenshot.train.engine.memory import MemorySaver
from tenshot.train.engine.trackers import LossLog, Service, TensorBoard
from tenshot.train.engine.trainable import Trainable, offload_unused
from tenshot.train.engine.validation import BEST, SHOWN, ValidationImages, likenesses, score, summary
from tenshot.train.options import LoopOptions, TrainOptions

IDENTITY, MANIFEST, RECIPE, LOG, LOGS = "run.json", "manifest.json", "recipe.yaml", "loss.jsonl", "logs"
LOCK = "run.lock"
TRAJECTORIES = "trajectories"  # a folder with what was drawn to learn from
PLACES = {
    "output_dir",
    "instance_data_dir",
    "train_data_dir",
    "class_data_dir",
    "mask_dir",
    "pretrained_model_name_or_path",
    "vae",
}  # digests speak for them
FILES = {"start_from", "embeddings"}  # so do theirs
FREE = {
    "checkpointing_steps",
    "checkpoints_total_limit",
    "report_to",
    "tracker_project_name",
    "device",
    "num_processes",
    "fsdp",
    "export",
}  # options that may change between the two halves of a run without changing its result
DRAWINGS = {
    name for name in TrainOptions.model_fields if "validation" in name
}  # so may these, if no one judges by them
LASTING = (LOG, TRAJECTORIES)  # where one of them is, a run has begun
OURS = (".part", ".log", ".lock")  # suffixes of what a run may leave before it has claimed its folder
LIBRARIES = ("torch", "diffusers", "transformers", "safetensors")


class Identity(TypedDict):
    """What makes a run this run. inputs: digests of what it reads, by what it is."""

    method: str
    options: dict[str, object]
    inputs: NotRequired[dict[str, object]]


def identity(task: str, options: LoopOptions, inputs: Mapping[str, object] | None = None) -> Identity:
    """What makes a run this run: its method, the options its result depends on, and digests of what it reads.

    inputs None: these are not known.
    """
    left_out = FREE | PLACES | FILES | (set() if getattr(options, "judges", False) else DRAWINGS)
    chosen = {name: value for name, value in options.model_dump(mode="json").items() if name not in left_out}
    chosen["gradient_accumulation_steps"] *= distributed.world_size()  # who makes which batch changes nothing
    if getattr(options, "lr_scheduler", "") in ("constant", "constant_with_warmup"):
        chosen.pop("max_train_steps")
    known: Identity = {"method": task, "options": chosen}
    return known if inputs is None else {**known, "inputs": dict(inputs)}


def folder_faults(options: LoopOptions, wanted: Mapping[str, object]) -> Iterator[Fault]:
    """An output folder that holds something else than the run of identity `wanted`, or more of it than asked for."""
    folder, steps = options.output_dir, options.max_train_steps
    where, do = f"--output_dir {folder}", "name another folder, or remove this one"
    if hurdles := list(options.obstacles()):
        yield from hurdles
    elif (folder / IDENTITY).exists():
        found = _claimed(folder / IDENTITY)
        if found is None:
            fits = "what a training wrote there, or a new folder"
            yield Fault(where, f"{IDENTITY} in it is damaged, or was not written by a training", fits, do)
            return
        yield from _obstacles(folder, where)
        made = [checkpoint.steps(place) for place in checkpoint.found(folder)]
        if not made and not (folder / MANIFEST).is_file():
            return  # it was refused or stopped before the first checkpoint: nothing is lost
        other = list(_differences({name: found.get(name) for name in wanted}, wanted))
        if other:
            yield Fault(where, "holds another run: " + "; ".join(other), "a new folder, or the same options", do)
        if any(step > steps for step in made):
            yield Fault("--max_train_steps", f"{steps}, but {folder} is at step {made[-1]}", f"{made[-1]} or more", do)
    elif folder.is_dir():
        strange = sorted(path.name for path in folder.iterdir() if path.suffix not in OURS)
        if strange:
            yield Fault(where, f"holds other files: {', '.join(strange[:4])}", "a new or empty folder", do)


def _claimed(file: Path) -> dict[str, object] | None:
    """The identity of the run that owns a folder; None where the file says none."""
    try:
        found = text_files.read_json(file)
    except Refusal:
        return None
    return found if isinstance(found, dict) and found.keys() == {"method", "options", "inputs"} else None


def _obstacles(folder: Path, where: str) -> Iterator[Fault]:
    """Files where the run would put folders, and folders where it would put files."""
    folders = [folder / name for name in (SHOWN, BEST, LOGS, TRAJECTORIES)]
    folders += [path for path in folder.glob(f"{checkpoint.PREFIX}*") if checkpoint.is_step(path)]
    wrong = [path for path in folders if path.exists() and not path.is_dir()]
    wrong += [path for path in (folder / name for name in (LOG, RECIPE, MANIFEST, memory.FITTED)) if path.is_dir()]
    for path in wrong:
        found, fits = ("folder", "file") if path.is_dir() else ("file", "folder")
        yield Fault(where, f"{path.name} in it is a {found}", f"a {fits}, or nothing", "move it away")
    for path in folders:
        if path.is_dir() and path.name.startswith(checkpoint.PREFIX) and not (path / checkpoint.FACTS).is_file():
            found = f"{path.name} in it is no checkpoint: it has no {checkpoint.FACTS}"
            yield Fault(where, found, "checkpoints as they were written", "move it away")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold `folder`, made if it is not there, for this training; several processes of one launch are one.

    The system lets go of it when the process ends, however it ends. Raises Refusal where another training holds it.
    """
    if not distributed.is_main_process():
        yield
        return
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        found, fits = "another training is writing into it now", "a folder for this training alone"
        raise Refusal(Fault(f"--output_dir {folder}", found, fits, "wait for it, or name another folder")) from None
    new = not (folder / IDENTITY).exists()
    try:
        yield
    except Exception as error:
        if new and not isinstance(error, Cancelled) and not any((folder / name).exists() for name in LASTING):
            (folder / IDENTITY).unlink(missing_ok=True)  # it ended before the first step
        raise
    finally:
        with suppress(OSError):  # on Windows it stays
            (folder / LOCK).unlink()
        lock.release()
        with suppress(OSError):  # a refusal leaves nothing
            for each in made:
                each.rmdir()


def _differences(found: Mapping[str, object], wanted: Mapping[str, object], path: str = "") -> Iterator[str]:
    for name in sorted({*found, *wanted}):
        a, b = found.get(name), wanted.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from _differences(a, b, f"{path}{name}.")
        elif a != b:
            yield f"{path.removeprefix('options.')}{name} was {a!r}, now {b!r}"


def checkpoint_bytes(options: LoopOptions, trained_bytes: int) -> int:
    """Of a checkpoint: weights, two moments of the optimizer, and the running average where there is one."""
    return (4 if options.use_ema else 3) * trained_bytes


def free_disk(folder: Path) -> int:
    """Bytes on the disk where `folder` is or will be."""
    place = next(each for each in (folder.absolute(), *folder.absolute().parents) if os.path.isdir(each))
    return shutil.disk_usage(place).free


def check_disk(options: LoopOptions, trained_bytes: int, model_bytes: int) -> None:
    """Refuse when the checkpoints and the result cannot fit on the disk."""
    kept = 1 + (options.checkpoints_total_limit or math.ceil(options.max_train_steps / options.checkpointing_steps))
    need = kept * checkpoint_bytes(options, trained_bytes) + model_bytes
    folder, free = options.output_dir, free_disk(options.output_dir)
    if free < need:
        refuse_if(
            [
                Fault(
                    f"--output_dir {folder}",
                    f"{free / 1e9:.1f} GB free on its disk",
                    f"{need / 1e9:.1f} GB: the result and {kept} checkpoints",
                    "free some space, choose another disk, or lower --checkpoints_total_limit",
                )
            ]
        )


@dataclass(frozen=True)
class Job:
    """trainable: what the method trains. identity: who owns the folder. per_epoch: steps in a round of the data.

    trained: how many numbers train. given: the pictures to learn from. saved: bytes of the result. settings: how
    validation pictures are drawn, but for their size. judged: what is measured on the result in the end.
    captions: what is said of what is learned.
    """

    task: MemorySaver
    trainable: Trainable
    identity: Identity
    plan: str
    per_epoch: int
    trained: int
    given: Sequence[Path]
    saved: int
    settings: SamplingSettings = field(default_factory=SamplingSettings)
    judged: Callable[[Events], Trained] | None = None
    captions: Sequence[str] = ()

    def drawn(self, options: TrainOptions) -> SamplingSettings:
        return replace(self.settings, size=Size.square(options.resolution) if options.resolution else None)


def train_job(job: Job, options: TrainOptions, events: Events) -> Trained:
    """Forecast, train, save to options.output_dir, prove. What came of it is returned; the manifest says the rest."""
    folder = options.output_dir
    if distributed.is_main_process():
        tensors.write_json(folder / IDENTITY, job.identity)
    events.say(job.plan)
    options, expected, whole = _forecast(job, options, events)
    if distributed.is_main_process():
        tensors.write_text(folder / RECIPE, as_recipe(options))
    started = time.perf_counter()
    every = _every(job, options) if options.validation_prompt else None
    if whole:
        after = 2 * job.saved / eta.DISK
        events = EventGroup(events, eta.Revised(events, options.max_train_steps, whole, every, after))
    trackers = EventGroup(*_trackers(options), events) if distributed.is_main_process() else events
    drawings = None
    if every:
        drawings = ValidationImages(job.trainable, options, every, trackers, job.given, job.drawn(options))
    fit = loop.fit(job.task, options, trackers, drawings)
    seconds = time.perf_counter() - started
    job.task.gather()
    if distributed.is_main_process():
        for part in track((job.trainable.check, job.trainable.save, job.trainable.verify), "saving", 3, events):
            part(folder)
    distributed.wait_for_everyone()
    best, seen = score(folder), likenesses(folder) if options.judges else {}
    if max(seen, default=0):
        events.say(summary(seen))
    result: Trained = {
        "result": str(folder),
        "steps": fit.step,
        "seconds": round(seconds, 2),
        "peak_bytes": device.max_memory_allocated(),
        "plan": job.plan,
        "forecast": _told(expected) if expected else None,
        **({"best": best} if best else {}),
        **({"likeness_by_step": {str(step): each for step, each in seen.items()}} if seen else {}),
        **(job.judged(events) if job.judged and distributed.is_main_process() else {}),
    }
    about = {
        "machine": device.describe(),
        "versions": {"tenshot": __version__, **{name: metadata.version(name) for name in LIBRARIES}},
        "arguments": options.model_dump(mode="json"),
    }
    if distributed.is_main_process():
        tensors.write_json(folder / MANIFEST, {**result, **job.identity, **about})
    return result


def _told(expected: loop.Forecast) -> Forecast:
    return {
        "seconds_per_step": expected.seconds_per_step,
        "peak_bytes": expected.peak_bytes,
        "seconds_at_least": expected.seconds_at_least,
        "seconds_at_most": expected.seconds_at_most,
    }


def _forecast(
    job: Job, options: TrainOptions, events: Events
) -> tuple[TrainOptions, loop.Forecast | None, eta.Part | None]:
    """The options to train with, what was measured on real steps, and what all will take, which was said aloud.

    A run that continues knows neither.
    """
    done = checkpoint.found(options.output_dir)
    if done:
        options = memory.again(options)
        if options.gradient_checkpointing:
            job.task.checkpoint_gradients()
        events.say(f"continuing from {done[-1].name}")
        return options, None, None
    options, expected, parts = measured(job, options, events)
    kept = checkpoint_bytes(options, 4 * job.trained)
    sizes = f"{_bytes(expected.peak_bytes)} of memory at the peak, {_bytes(kept)} on disk for a checkpoint"
    events.say(f"{eta.words(parts, 'the training')}; {sizes}")
    return options, expected, eta.total(list(parts.values()))


def measured(
    job: Job, options: TrainOptions, events: Events
) -> tuple[TrainOptions, loop.Forecast, dict[str, eta.Part]]:
    """By real steps: the options that fit into memory, a step's time and peak, and the seconds of each phase."""
    if options.fit_memory:
        options, expected = memory.fit_memory(job.task, options, events)
    else:
        pieces = options.gradient_accumulation_steps * distributed.world_size()
        heaviest = job.task.heaviest_step(options.train_batch_size, pieces)
        expected = loop.forecast(job.task, options, heaviest, events)
    return options, expected, _parts(job, options, expected, events)


def _parts(job: Job, options: TrainOptions, expected: loop.Forecast, events: Events) -> dict[str, eta.Part]:
    """Seconds that each phase from now on will take."""
    steps, low, high = options.max_train_steps, expected.seconds_at_least, expected.seconds_at_most
    parts = {"training steps": (MEASURED[0] * steps * low, MEASURED[1] * steps * high)}
    if options.validation_prompt and distributed.is_main_process():
        drawn = job.drawn(options)
        one = eta.pace(job.trainable.model, drawn.size, events).drawing(options.num_validation_images, drawn)
        offload_unused(job.trainable)
        parts["validation pictures"] = eta.about(_looks(job, options) * one, MEASURED)
    written = 2 * job.saved + checkpoints_written(job, options) * checkpoint_bytes(options, 4 * job.trained)
    parts["saving"] = eta.about(written / eta.DISK, GUESSED)
    return parts


def checkpoints_written(job: Job, options: TrainOptions) -> int:
    """Now and then, in the end, and before validation pictures."""
    return -(-options.max_train_steps // options.checkpointing_steps) + _looks(job, options)


def _looks(job: Job, options: TrainOptions) -> int:
    """How often validation pictures are drawn."""
    return options.judges + -(-options.max_train_steps // _every(job, options)) if options.validation_prompt else 0


def _every(job: Job, options: TrainOptions) -> int:
    """Steps between validation pictures."""
    return options.validation_steps or options.validation_epochs * job.per_epoch


def _bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _trackers(options: TrainOptions) -> Iterator[Events]:
    yield LossLog(options.output_dir / LOG)
    if options.tracker == "tensorboard":
        yield TensorBoard(options.output_dir / LOGS)
    elif options.tracker != "none":
        yield Service(options.tracker, options.tracker_project_name, options.model_dump(mode="json"))
