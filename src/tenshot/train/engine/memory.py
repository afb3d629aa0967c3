"""Make a run fit into memory: one thrifty measure after the other, each measured on a real step and said aloud."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Protocol

from tenshot.core import device
from tenshot.core.errors import Fault, Refusal
from tenshot.core.events import Events
from tenshot.io import tensors, text_files
from tenshot.train.engine import loop
from tenshot.train.options import TrainOptions

FITTED = "fitted.json"  # what was changed, for the run to go on with
ROOM = 0.95  # share of the memory that a run may take


class MemorySaver(loop.TrainingTask, Protocol):
    """A method that can be told to save memory."""

    def checkpoint_gradients(self) -> None: ...

    def gather(self) -> None:
        """In the end: what was split over the processes is whole again."""
        ...

    def heaviest_step(self, batch: int, pieces: int) -> int:
        """The step whose batch takes the most memory."""
        ...


def measures(options: TrainOptions, gpu: bool) -> Iterator[tuple[str, TrainOptions]]:
    """What to say and the options of each rung, the asked ones first. Only the last changes what is learned."""
    yield "", options
    if not options.gradient_checkpointing:
        options = options.model_copy(update={"gradient_checkpointing": True})
        yield "with gradient checkpointing", options
    while options.train_batch_size > 1:
        parts = 2 if options.train_batch_size % 2 == 0 else options.train_batch_size
        batch, pieces = options.train_batch_size // parts, options.gradient_accumulation_steps * parts
        options = options.model_copy(update={"train_batch_size": batch, "gradient_accumulation_steps": pieces})
        yield f"in batches of {batch}, {pieces} accumulated", options
    if options.optimizer == "adamw" and not options.use_8bit_adam:
        name = "adamw8bit" if gpu and find_spec("bitsandbytes") else "adafactor"
        yield f"with --optimizer {name}", options.model_copy(update={"optimizer": name})


def fit_memory(task: MemorySaver, options: TrainOptions, events: Events) -> tuple[TrainOptions, loop.Forecast]:
    """The first rung that fits, and its forecast. Raises Refusal where none does."""
    where = device.pick(options.device)
    limit = ROOM * device.memory_limit(where)
    found = ""
    for said, rung in measures(options, where.type == "cuda"):
        if rung.gradient_checkpointing and not options.gradient_checkpointing:
            task.checkpoint_gradients()
        expected = _measured(task, rung, events)
        found = f"{expected.peak_bytes / 1e9:.1f} GB at the peak" if expected else "more than there is"
        if said:
            events.say(f"it does not fit; trying {said}: {found}")
        if expected and expected.peak_bytes <= limit:
            changed = {name: value for name, value in rung if value != getattr(options, name)}
            tensors.write_json(options.output_dir / FITTED, changed)
            return rung, expected
    fits = f"{limit / 1e9:.1f} GB"
    raise Refusal(Fault("memory", found, fits, "lower --resolution, or train a LoRA with --mixed_precision bf16"))


def again(options: TrainOptions) -> TrainOptions:
    """The options of the rung that an earlier start of this run settled on. Raises Refusal where they are damaged."""
    file = options.output_dir / FITTED
    if not file.is_file():
        return options
    found = text_files.read_json(file)
    try:
        return type(options).model_validate({**dict(options), **found})
    except (TypeError, ValueError):
        fits, do = "what was settled for this run", "name another folder, or remove this one"
        raise Refusal(Fault(str(file), "is damaged", fits, do)) from None


def _measured(task: MemorySaver, options: TrainOptions, events: Events) -> loop.Forecast | None:
    """None where memory did not suffice for one step."""
    step = task.heaviest_step(options.train_batch_size, options.gradient_accumulation_steps)
    try:
        return loop.forecast(task, options, step, events)
    except (RuntimeError, MemoryError) as error:
        if not device.out_of_memory(error):
            raise
        device.empty_cache()
        return None
