"""The one training loop. A method states what trains and its loss; the rest is here."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Protocol

import torch
from diffusers.optimization import get_scheduler
from torch import nn

from tenshot.core import device, distributed
from tenshot.core.errors import Cancelled, Fault, Refusal
from tenshot.core.events import Events
from tenshot.io import tensors
from tenshot.train.engine import checkpoint, early_stopping, optimizers, sharding
from tenshot.train.engine.checkpoint import Checkpoint
from tenshot.train.engine.data_parallel import AveragedLoss
from tenshot.train.engine.early_stopping import Sight
from tenshot.train.engine.rng import CounterRNG
from tenshot.train.options import LoopOptions

MEASURED = 3  # steps for a forecast
PATIENCE = 5  # steps in a row whose loss may be non-finite before the run stops


class TrainingTask(Protocol):
    """A way of training. `parts` are the modules whose parameters with requires_grad train."""

    @property
    def parts(self) -> Mapping[str, nn.Module]: ...

    def loss(self, rng: CounterRNG) -> torch.Tensor:
        """The mean loss over the batch that `draws` describes: a float32 scalar."""
        ...

    def lr_multiplier(self, part: str, name: str) -> float:
        """A factor on the learning rate of one parameter."""
        return 1.0


@dataclass(frozen=True)
class FitResult:
    """step: optimizer steps made in all. ema: averaged parameters by part, where the options asked for them."""

    step: int
    ema: Mapping[str, Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class Forecast:
    """Of a step and peak memory in bytes, measured on a few real steps; seconds_per_step: their mean."""

    seconds_per_step: float
    peak_bytes: int
    seconds_at_least: float = 0.0
    seconds_at_most: float = 0.0


class Validator(Protocol):
    """Looks at the weights now and then, as they would be saved. Step 0 is before the first; the last is always due."""

    def due(self, step: int) -> bool: ...

    def done(self, step: int) -> bool:
        """Has it been done, by an earlier start of the run?"""
        ...

    def validate(self, step: int) -> None: ...

    def sight(self, step: int) -> Sight | None:
        """What was seen in what was drawn after this step; None where nobody looks for it."""
        ...


def fit(task: TrainingTask, options: LoopOptions, events: Events, validator: Validator | None = None) -> FitResult:
    """Train until options.max_train_steps, from the newest checkpoint in options.output_dir if there is one.

    Afterwards the parameters are those to save: the running average, where the options ask for one.

    Raises Cancelled after writing a checkpoint when the listener asks to stop, and Refusal when the loss stays
    non-finite.
    """
    run = _Trainer(task, options, validator)
    step = run.resume(options.output_dir, events)
    run.tell_precision(events)
    events.begin("training", options.max_train_steps, step)
    try:
        if run.look_due(step):
            run.look(step, events)
        while not run.finished(step):
            figures = run.step(step)
            step += 1
            events.step(step, **figures)
            events.advance(step, **figures)
            run.record_fixed_loss(step)
            stop = distributed.mean(events.cancelled(), run.device) > 0 and not run.finished(step)  # whoever wants to
            look = run.look_due(step)
            if stop or look or run.finished(step) or step % options.checkpointing_steps == 0:
                run.save_checkpoint(step, events)
                events.checkpoint(step)
            if stop:
                raise Cancelled(f"stopped after step {step}; the same command continues from there")
            if look:
                run.look(step, events)
        if options.stop_when_learned:
            events.say(run.stopping.why(step, options.max_train_steps, bool(validator)))
    finally:
        events.end()
    run.end()
    return FitResult(step, run.ema)


def steps(task: TrainingTask, options: LoopOptions) -> Iterator[dict[str, float]]:
    """The figures of one optimizer step after the other, without end and without anything written."""
    run = _Trainer(task, options)
    for step in count():
        yield run.step(step)


def forecast(task: TrainingTask, options: LoopOptions, step: int, events: Events) -> Forecast:
    """Make real steps from number `step` on, the first once more to warm up; then the weights are as they were."""
    device.reset_max_memory_allocated()
    run = _Trainer(task, options)
    own = [sharding.own(p.detach()) for p in run.parameters]
    before = [(values, values.to("cpu", copy=True)) for values in own]
    events.begin("measuring training steps", count := min(MEASURED, options.max_train_steps))
    try:
        run.step(step)
        seconds: list[float] = []
        for n in range(count):
            seconds.append(run.step(step + n)["seconds"])
            events.advance(n + 1)
        return Forecast(sum(seconds) / len(seconds), device.max_memory_allocated(), min(seconds), max(seconds))
    finally:
        events.end()
        with torch.no_grad():
            for values, value in before:
                values.copy_(value)
        for parameter in run.parameters:
            parameter.grad = None


class _Trainer:
    """The state of a run: parameters, optimizer, learning rate, running average."""

    def __init__(self, task: TrainingTask, options: LoopOptions, validator: Validator | None = None) -> None:
        self.task, self.options, self.validator = task, options, validator
        self.named: dict[str, dict[str, torch.Tensor]] = {
            part: {name: p for name, p in module.named_parameters() if p.requires_grad}
            for part, module in task.parts.items()
        }
        self.parameters = [p for group in self.named.values() for p in group.values()]
        self.device = self.parameters[0].device
        self.precision = device.precision(options.mixed_precision, self.device)
        self.tf32 = device.allow_tf32(self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.optimizer = optimizers.make(options, self._groups())
        self.lr_scheduler = get_scheduler(
            optimizers.schedule(options),
            self.optimizer,
            num_warmup_steps=options.lr_warmup_steps,
            num_training_steps=options.max_train_steps,
            num_cycles=options.lr_num_cycles,
            power=options.lr_power,
        )
        self.averages = optimizers.KINDS[optimizers.chosen(options)].averages
        if self.averages:
            self.optimizer.train()
        self.ema: dict[str, dict[str, torch.Tensor]] = {}
        if options.use_ema:
            self.ema = {part: {n: p.detach().clone() for n, p in ps.items()} for part, ps in self.named.items()}
        self.loss = AveragedLoss(task.loss, self.parameters)
        self.nonfinite = 0
        self.stopping = early_stopping.EarlyStopping(options.stop_when_learned)

    def _groups(self) -> list[dict[str, object]]:
        """The parameters by their learning rates."""
        found: dict[float, list[torch.Tensor]] = {}
        for part, named in self.named.items():
            for name, parameter in named.items():
                found.setdefault(self.task.lr_multiplier(part, name), []).append(parameter)
        return [{"params": each, "lr": self.options.learning_rate * factor} for factor, each in found.items()]

    def step(self, step: int) -> dict[str, float]:
        """One optimizer step: `gradient_accumulation_steps` batches in each process. Figures come back."""
        start = time.perf_counter()
        torch.manual_seed(device.seed_of(self.options.seed, "step", step))  # for nets with dropout
        batch = self.options.train_batch_size
        pieces = self.options.gradient_accumulation_steps * distributed.world_size()
        own = range(distributed.rank(), pieces, distributed.world_size())
        loss = 0.0
        for piece in own:
            first = (step * pieces + piece) * batch
            rng = CounterRNG(self.options.seed, range(first, first + batch))
            with self.loss.accumulating(more=piece != own[-1]):
                with device.autocast(self.device, self.precision):
                    part = self.loss(rng) / len(own)
                self.scaler.scale(part).backward()
            loss += part.item()
        loss = distributed.mean(loss, self.device)
        rate = self.optimizer.param_groups[0]["lr"]
        norm = self._apply(step, loss)
        return {"loss": loss, "rate": rate, "norm": norm, "seconds": time.perf_counter() - start}

    def _apply(self, step: int, loss: float) -> float:
        self.scaler.unscale_(self.optimizer)
        norm = sharding.whole(nn.utils.clip_grad_norm_(self.parameters, self.options.max_grad_norm)).item()
        scaling = self.scaler.is_enabled() and self.scaler.get_scale() >= 1  # it looks for its scale by overflowing
        if math.isfinite(loss) and math.isfinite(norm):
            self.nonfinite = 0
            self.scaler.step(self.optimizer)
            self._average(step)
        elif not (math.isfinite(loss) and scaling):
            self.nonfinite += 1
        self.scaler.update()
        self.lr_scheduler.step()
        self.optimizer.zero_grad()
        if self.nonfinite >= PATIENCE:
            found = f"the loss was {loss} for {PATIENCE} steps in a row; the last checkpoint is untouched"
            raise Refusal(_diverged(self.options, found, "a finite loss"))
        return norm

    @torch.no_grad()
    def _average(self, step: int) -> None:
        """The average forgets faster in the beginning: else a short run would hardly leave where it began."""
        decay = min(self.options.ema_decay, (1 + step) / (10 + step))
        for part, shadow in self.ema.items():
            live = [sharding.own(self.named[part][name]) for name in shadow]
            torch._foreach_lerp_([sharding.own(each) for each in shadow.values()], live, 1 - decay)

    @torch.no_grad()
    def record_fixed_loss(self, step: int) -> None:
        """Where the options ask for it, note the loss on inputs that are the same each time."""
        if self.options.stop_when_learned and step % early_stopping.EVERY == 0:
            fixed = CounterRNG(device.seed_of(self.options.seed, "fixed inputs"), range(early_stopping.SAMPLES))
            with device.autocast(self.device, self.precision):
                self.stopping.losses.append(distributed.mean(self.task.loss(fixed).item(), self.device))

    def tell_precision(self, events: Events) -> None:
        """Say what is computed in where that is not what was asked for, or not what fp32 was once."""
        asked, used = self.options.mixed_precision, device.PRECISIONS[self.precision]
        if asked and asked != self.precision:
            events.say(f"computing in {used}: {asked} is slower here")
        elif self.tf32:
            chosen = "" if asked else ", chosen for this GPU (--mixed_precision no: fp32)"
            events.say(f"computing in {used}{chosen}; products that stay in fp32 are rounded to TF32")

    def finished(self, step: int) -> bool:
        return step >= self.options.max_train_steps or self.stopping.learned(step, bool(self.validator))

    def look_due(self, step: int) -> bool:
        """Is it time for the validator: by its own count, at the end, or because the loss has come to lie still?"""
        last = step >= self.options.max_train_steps
        return self.validator is not None and (last or self.validator.due(step) or self.stopping.settles(step))

    @contextmanager
    def as_saved(self) -> Iterator[None]:
        """For a while, the parameters as they would be saved now."""
        live = [p.detach().clone() for p in self.parameters] if self.ema or self.averages else []
        self.end()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.parameters, live, strict=False):
                    parameter.copy_(value)
            for group in self.optimizer.param_groups if self.averages else ():
                group["train_mode"] = True

    @torch.no_grad()
    def end(self) -> None:
        """Put the running average, where there is one, in place of the parameters."""
        if self.averages:
            self.optimizer.eval()
        for part, shadow in self.ema.items():
            for name, value in shadow.items():
                self.named[part][name].copy_(value)

    def look(self, step: int, events: Events) -> None:
        """Let the validator look at the parameters as they would be saved now, if it has not yet."""
        assert self.validator
        try:
            if not self.validator.done(step):
                with self.as_saved():
                    self.validator.validate(step)
        except Cancelled:
            if distributed.world_size() == 1:
                raise Cancelled(f"stopped after step {step}; the same command continues from there") from None
            # else the others are at the next step already; all stop after it
        if self.options.stop_when_learned:
            sight = self.validator.sight(step) if distributed.is_main_process() else None
            seen = distributed.mean(float(sight is not None and sight.recognised), self.device) > 0
            self.stopping.sight, self.stopping.recognised = sight, step if seen else None
            if self.stopping.settles(step) and not seen and not self.finished(step):
                events.say(f"it goes on: {self.stopping.why(step, self.options.max_train_steps, seen=True)}")

    def resume(self, folder: Path, events: Events) -> int:
        """Load the newest whole checkpoint of `folder`; the number of steps it holds, 0 without one."""
        if distributed.is_main_process():
            tensors.sweep(folder)
            checkpoint.heal(folder, events)
        distributed.wait_for_everyone()
        places = checkpoint.found(folder)
        if not places:
            return 0
        saved = checkpoint.read(places[-1])
        self._load(saved, places[-1])
        return saved.step

    def save_checkpoint(self, step: int, events: Events) -> None:
        """Write a checkpoint. Raises Refusal where what it would hold is of no use."""
        state = self.state(step)
        if wrong := state.nonfinite():
            found = f"after step {step} {len(wrong)} tensors hold numbers that are not finite, as {wrong[0]} does"
            raise Refusal(_diverged(self.options, f"{found}; nothing was kept of them", "finite numbers"))
        if self.finished(step) and not self.optimizer.state:
            raise Refusal(_diverged(self.options, "no step had a finite loss: nothing was learned", "finite losses"))
        if distributed.is_main_process():
            events.begin("writing a checkpoint", 1)
            checkpoint.write(self.options.output_dir, state, self.options.checkpoints_total_limit)
            events.advance(1)
            events.end()
        distributed.wait_for_everyone()

    def state(self, step: int) -> Checkpoint:
        optimizer = self.optimizer.state_dict()
        for state in optimizer["state"].values():  # bitsandbytes keeps its tensors one deeper
            state |= state.pop("__bnb_optimizer_quant_state__", {})
        groups: dict[str, dict[str, torch.Tensor]] = {part: dict(named) for part, named in self.named.items()}
        groups |= {f"{part}.ema": dict(named) for part, named in self.ema.items()}
        values = {f"{i}.{name}": value for i, state in optimizer["state"].items() for name, value in state.items()}
        groups["optimizer"] = {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
        groups = {group: {n: sharding.whole(t) for n, t in named.items()} for group, named in groups.items()}
        kept = {
            "state": {name: value for name, value in values.items() if name not in groups["optimizer"]},
            "groups": [{k: v for k, v in g.items() if isinstance(v, int | float)} for g in optimizer["param_groups"]],
        }
        facts = {
            "schedule": self.lr_scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "optimizer": kept,
            "unfinite": self.nonfinite,
            "looks": self.stopping.losses,
        }
        return Checkpoint(step, groups, {name: _plain(value) for name, value in facts.items()})

    @torch.no_grad()
    def _load(self, saved: Checkpoint, place: Path) -> None:
        wanted = {part: _shapes(named) for part, named in self.named.items()}
        wanted |= {f"{part}.ema": _shapes(named) for part, named in self.ema.items()}
        found = {part: _shapes(named) for part, named in saved.groups.items() if part != "optimizer"}
        if found != wanted:
            told = "holds other tensors than those that train now"
            raise Refusal(Fault(str(place), told, "a checkpoint of this run", "name another --output_dir"))
        for part, named in self.named.items():
            for name, parameter in named.items():
                parameter.copy_(sharding.like(parameter, saved.groups[part][name]))
        for part, named in self.ema.items():
            for name, shadow in named.items():
                shadow.copy_(sharding.like(shadow, saved.groups[f"{part}.ema"][name]))
        ordered = [p for group in self.optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, object]] = {}
        for key, value in {**saved.groups["optimizer"], **saved.facts["optimizer"]["state"]}.items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = sharding.like(ordered[int(index)], value)
        self.lr_scheduler.load_state_dict({**self.lr_scheduler.state_dict(), **saved.facts["schedule"]})
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        for group, values in zip(self.optimizer.param_groups, saved.facts["optimizer"]["groups"], strict=True):
            group |= values
        for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
        if saved.facts["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(dict(saved.facts["scaler"]))
        self.nonfinite = saved.facts["unfinite"]
        self.stopping.losses = list(saved.facts["looks"])


def _shapes(named: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in named.items()}


def _plain(value: object) -> object:
    """`value` without what JSON cannot hold (the schedule's lambdas, which follow from the options)."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items() if not callable(v) and k != "lr_lambdas"}
    return value


def _diverged(options: LoopOptions, found: str, fits: str) -> Fault:
    do = f"lower --learning_rate (now {options.learning_rate:g}), or use --mixed_precision bf16 or no"
    return Fault(f"--output_dir {options.output_dir}", found, fits, do)
