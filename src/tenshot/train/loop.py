"""The one training loop. A method states what trains and its loss; the rest is here."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers.optimization import get_scheduler
from torch import nn

from tenshot import device
from tenshot.errors import Cancelled, Fault, Refusal
from tenshot.events import Events
from tenshot.files import tensors
from tenshot.train import checkpoint
from tenshot.train.checkpoint import Checkpoint
from tenshot.train.draws import Draws
from tenshot.train.options import LoopOptions

PATIENCE = 5  # steps in a row whose loss may be non-finite before the run stops


class Method(Protocol):
    """A way of training. `parts` are the modules whose parameters with requires_grad train."""

    @property
    def parts(self) -> Mapping[str, nn.Module]: ...

    def loss(self, draws: Draws) -> torch.Tensor:
        """The mean loss over the batch that `draws` describes: a float32 scalar."""
        ...


@dataclass(frozen=True)
class Fit:
    """step: optimizer steps made in all. ema: averaged parameters by part, where the options asked for them."""

    step: int
    ema: Mapping[str, Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class Forecast:
    """seconds_per_step and peak memory in bytes, measured on one real step."""

    seconds_per_step: float
    peak_bytes: int


def fit(method: Method, options: LoopOptions, events: Events) -> Fit:
    """Train until options.max_train_steps, from the newest checkpoint in options.output_dir if there is one.

    Raises Cancelled after writing a checkpoint when the listener asks to stop, and Refusal when the loss stays
    non-finite.
    """
    run = _Run(method, options)
    folder = options.output_dir
    step = run.resume(folder)
    if run.precision != options.mixed_precision:
        events.say(f"computing in {device.PRECISIONS[run.precision]}: {options.mixed_precision} is slower here")
    events.begin("training", options.max_train_steps, step)
    try:
        while step < options.max_train_steps:
            figures = run.step(step)
            step += 1
            events.step(step, **figures)
            events.advance(step, **figures)
            stop = events.cancelled()
            if stop or step % options.checkpointing_steps == 0 or step == options.max_train_steps:
                checkpoint.write(folder, run.state(step), options.checkpoints_total_limit)
                events.checkpoint(step)
            if stop and step < options.max_train_steps:
                raise Cancelled(f"stopped after step {step}; the same command continues from there")
    finally:
        events.end()
    return Fit(step, run.ema)


def forecast(method: Method, options: LoopOptions) -> Forecast:
    """Make one real step to warm up and one to measure, then put the weights back as they were."""
    device.reset_peak_memory()
    run = _Run(method, options)
    before = [(p, p.detach().clone()) for group in run.named.values() for p in group.values()]
    run.step(0)
    start = time.perf_counter()
    run.step(1)
    seconds = time.perf_counter() - start
    with torch.no_grad():
        for parameter, value in before:
            parameter.copy_(value)
            parameter.grad = None
    return Forecast(seconds, device.peak_memory())


class _Run:
    """The state of a run: parameters, optimizer, learning rate, running average."""

    def __init__(self, method: Method, options: LoopOptions) -> None:
        self.method = method
        self.options = options
        self.named: dict[str, dict[str, torch.Tensor]] = {
            part: {name: p for name, p in module.named_parameters() if p.requires_grad}
            for part, module in method.parts.items()
        }
        self.parameters = [p for group in self.named.values() for p in group.values()]
        self.device = self.parameters[0].device
        self.precision = device.precision(options.mixed_precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=options.learning_rate,
            betas=(options.adam_beta1, options.adam_beta2),
            weight_decay=options.adam_weight_decay,
            eps=options.adam_epsilon,
        )
        self.schedule = get_scheduler(
            options.lr_scheduler,
            self.optimizer,
            num_warmup_steps=options.lr_warmup_steps,
            num_training_steps=options.max_train_steps,
            num_cycles=options.lr_num_cycles,
            power=options.lr_power,
        )
        self.ema: dict[str, dict[str, torch.Tensor]] = {}
        if options.use_ema:
            self.ema = {part: {n: p.detach().clone() for n, p in ps.items()} for part, ps in self.named.items()}
        self.unfinite = 0

    def step(self, step: int) -> dict[str, float]:
        """One optimizer step: `gradient_accumulation_steps` batches, whose figures come back."""
        start = time.perf_counter()
        torch.manual_seed(device.seed_of(self.options.seed, "step", step))  # for nets with dropout
        batch, pieces = self.options.train_batch_size, self.options.gradient_accumulation_steps
        loss = 0.0
        for piece in range(pieces):
            first = (step * pieces + piece) * batch
            draws = Draws(self.options.seed, range(first, first + batch))
            with device.attention(self.device):
                with device.autocast(self.device, self.precision):
                    part = self.method.loss(draws) / pieces
                self.scaler.scale(part).backward()
            loss += part.item()
        rate = self.optimizer.param_groups[0]["lr"]
        norm = self._apply(loss)
        return {"loss": loss, "rate": rate, "norm": norm, "seconds": time.perf_counter() - start}

    def _apply(self, loss: float) -> float:
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.options.max_grad_norm).item()
        if math.isfinite(loss) and (math.isfinite(norm) or self.scaler.is_enabled()):
            self.unfinite = 0
            self.scaler.step(self.optimizer)
            self._average()
        else:
            self.unfinite += 1
        self.scaler.update()
        self.schedule.step()
        self.optimizer.zero_grad()
        if self.unfinite >= PATIENCE:
            raise Refusal(_diverged(self.options, loss))
        return norm

    @torch.no_grad()
    def _average(self) -> None:
        for part, shadow in self.ema.items():
            live = [self.named[part][name] for name in shadow]
            torch._foreach_lerp_(list(shadow.values()), live, 1 - self.options.ema_decay)

    def resume(self, folder: Path) -> int:
        """Load the newest checkpoint of `folder`; the number of steps it holds, 0 without one."""
        tensors.sweep(folder)
        places = checkpoint.found(folder)
        if not places:
            return 0
        saved = checkpoint.read(places[-1])
        self._load(saved)
        return saved.step

    def state(self, step: int) -> Checkpoint:
        optimizer = self.optimizer.state_dict()
        groups: dict[str, dict[str, torch.Tensor]] = {part: dict(named) for part, named in self.named.items()}
        groups |= {f"{part}.ema": dict(named) for part, named in self.ema.items()}
        groups["optimizer"] = {
            f"{index}.{name}": value for index, state in optimizer["state"].items() for name, value in state.items()
        }
        facts = {"schedule": self.schedule.state_dict(), "scaler": self.scaler.state_dict(), "unfinite": self.unfinite}
        return Checkpoint(step, groups, {name: _plain(value) for name, value in facts.items()})

    @torch.no_grad()
    def _load(self, saved: Checkpoint) -> None:
        for part, named in self.named.items():
            for name, parameter in named.items():
                parameter.copy_(saved.groups[part][name])
        for part, named in self.ema.items():
            for name, shadow in named.items():
                shadow.copy_(saved.groups[f"{part}.ema"][name])
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in saved.groups["optimizer"].items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        self.schedule.load_state_dict({**self.schedule.state_dict(), **saved.facts["schedule"]})
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        for group, rate in zip(self.optimizer.param_groups, self.schedule.get_last_lr(), strict=True):
            group["lr"] = rate
        self.scaler.load_state_dict(dict(saved.facts["scaler"]))
        self.unfinite = saved.facts["unfinite"]


def _plain(value: Any) -> Any:
    """`value` without what JSON cannot hold (the schedule's lambdas, which follow from the options)."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items() if not callable(v) and k != "lr_lambdas"}
    return value


def _diverged(options: LoopOptions, loss: float) -> Fault:
    return Fault(
        str(options.output_dir),
        f"the loss was {loss} for {PATIENCE} steps in a row; the last checkpoint is untouched",
        "a finite loss",
        f"lower --learning_rate (now {options.learning_rate:g}), or use --mixed_precision bf16 or no",
    )
