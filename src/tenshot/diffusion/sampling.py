"""A sampler at work: a solver, the amounts of noise that it visits, and how the denoiser is asked."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from tenshot.core.errors import Fault, Refusal
from tenshot.core.json_types import Config
from tenshot.diffusion import samplers, schedules, solvers
from tenshot.diffusion.process import DDPM, Process

#: Yields what the denoiser is shown and the time, is sent its answer, and returns clean latents.
Sampling: TypeAlias = Generator[tuple[torch.Tensor, float], torch.Tensor, torch.Tensor]
Generators: TypeAlias = Sequence[torch.Generator]
NEARLY_ALL = 0.999  # of the way, as WebUI counts


@dataclass(frozen=True)
class Start:
    """Latents to begin with, [batch, ...]. may_change: what is to be drawn: 1, else 0, [batch, 1, h, w]; None: all."""

    latents: torch.Tensor
    may_change: torch.Tensor | None = None

    def kept(self, clean: torch.Tensor) -> torch.Tensor:
        """`clean` with what must not change as it was."""
        if self.may_change is None:
            return clean
        return torch.where(self.may_change > 0, clean, self.latents)


@dataclass(frozen=True)
class Sampler:
    """One way from noise to latents.

    evaluations: how often it asks the denoiser. each: how often a step. run: (noise, generators, start) -> a Sampling.
    Noise is of variance 1, [batch, ...]. generators: for each row, where its further noise comes from. start: None for
    noise alone.
    """

    evaluations: int
    each: int
    run: Callable[[torch.Tensor, Generators, Start | None], Sampling]


def sampler(
    name: str | None,
    steps: int,
    config: Config,
    process: type[Process],
    schedule: samplers.Schedule = samplers.AUTOMATIC,
    aligned: Sequence[float] = (),
    skipped: int = 0,
) -> Sampler:
    """Sampler `name` with `steps` steps, for a model whose scheduler's configuration is `config`.

    name: None for the usual one of its process. aligned: the family's sigmas of ten steps. skipped: how many steps are
    left out at the beginning. Raises Refusal as `check` in samplers.py.
    """
    samplers.check(name, schedule, process, aligned)
    found = samplers.SAMPLERS[name or samplers.names(process.name)[0]][process.name]
    if isinstance(found, samplers.Scheduled):
        return _scheduled(name, found, steps, config, process, skipped)
    made = process.from_config(config)
    sigmas = _sigmas(found, steps, made, schedule, aligned)[skipped:]

    def run(noise: torch.Tensor, generators: Generators, start: Start | None = None) -> Sampling:
        return _solving(found, made, sigmas, noise, generators, start)

    asked = _asked(getattr(solvers, found.solver), sigmas)
    return Sampler(asked, round(asked / (len(sigmas) - 1)), run)


def skipped(steps: int, strength: float) -> int:
    """How many of `steps` are left out where `strength` of the way is gone; as in WebUI, .5 of 20 are the last 11."""
    return steps - 1 - int(min(strength, NEARLY_ALL) * steps) if strength < 1 else 0


def stretched(steps: int, strength: float) -> int:
    """The steps of the whole way where `steps` are the last `strength` of it, as in WebUI's second pass."""
    return int(steps / min(strength, NEARLY_ALL))


def _sigmas(
    found: samplers.Solved, steps: int, process: Process, schedule: samplers.Schedule, aligned: Sequence[float]
) -> list[float]:
    if found.automatic is None:
        assert isinstance(process, DDPM)
        return schedules.leading(process, steps)
    chosen, count = found.automatic if schedule == samplers.AUTOMATIC else schedule, steps + found.discards
    table = chosen == samplers.ALIGN
    sigmas = schedules.align_your_steps(aligned, count) if table else schedules.SCHEDULES[chosen](process, count)
    return [*(sigmas[:-1] if found.discards else sigmas), 0.0]


def _solving(
    found: samplers.Solved,
    process: Process,
    sigmas: Sequence[float],
    noise: torch.Tensor,
    generators: Generators,
    start: Start | None,
) -> Sampling:
    first, last = sigmas[0], sigmas[-1]
    if start:
        x = process.noisy(start.latents, noise, first)
    elif found.automatic is None:  # it preserves variance: noise alone is what it begins with
        x = noise / process.seen(torch.ones((), dtype=noise.dtype), first)
    else:
        x = noise * first
    more = _brownian(noise, sigmas, generators) if found.brownian else _drawn(noise, generators)
    solving = getattr(solvers, found.solver)(x, sigmas, more)
    try:
        x, sigma = next(solving)
        while True:
            answer = yield process.seen(x, sigma), process.time(sigma)
            clean = process.clean(x, answer, sigma)
            x, sigma = solving.send(start.kept(clean) if start else clean)
    except StopIteration as end:
        reached: torch.Tensor = process.seen(end.value, last) if last else end.value
        return start.kept(reached) if start else reached


def _asked(solver: solvers.Solver, sigmas: Sequence[float]) -> int:
    """How often it asks: tried on nothing."""
    nothing = torch.zeros(0)
    solving, count = solver(nothing, sigmas, lambda *_: nothing), 1
    next(solving)
    try:
        while True:
            solving.send(nothing)
            count += 1
    except StopIteration:
        return count


def _drawn(like: torch.Tensor, generators: Generators) -> solvers.Noise:
    return lambda *_: torch.stack([torch.randn(like.shape[1:], generator=each) for each in generators]).to(like)


def _brownian(like: torch.Tensor, sigmas: Sequence[float], generators: Generators) -> solvers.Noise:
    """Increments of a Brownian path over sigma, one for each row's seed, of variance 1."""
    import torchsde

    low, high = (round(end, 6) for end in (min(sigma for sigma in sigmas if sigma), max(sigmas)))  # as torchsde rounds
    still = torch.zeros(like.shape[1:])
    paths = [torchsde.BrownianTree(low, still, high, entropy=each.initial_seed()) for each in generators]

    def noise(sigma: float, after: float) -> torch.Tensor:
        moved = torch.stack([path(max(after, low), min(sigma, high)) for path in paths])
        return (moved / math.sqrt(sigma - after)).to(like)

    return noise


def _scheduled(
    name: str | None, found: samplers.Scheduled, steps: int, config: Config, process: type[Process], skipped: int
) -> Sampler:
    import diffusers

    own = {key: value for key, value in config.items() if not key.startswith("_")}
    renamed = {theirs: own.pop(ours) for theirs, ours in found.named.items() if ours in own}
    try:
        made = getattr(diffusers, found.kind).from_config({**own, **renamed, **found.changes})
    except Exception as error:  # what a configuration says can be wrong for one sampler alone, in any way
        told = f"the model's scheduler_config.json makes no {found.kind}: {str(error)[:200] or type(error).__name__}"
        raise Refusal(Fault(f"sampler {name}", told, ", ".join(samplers.names(process.name)), samplers.OTHER)) from None
    made.set_timesteps(steps)
    times = made.timesteps[skipped:]

    def run(noise: torch.Tensor, generators: Generators, start: Start | None = None) -> Sampling:
        scheduler = copy.deepcopy(made)
        x = noise * scheduler.init_noise_sigma
        if start:
            scheduler.set_begin_index(skipped)
            x = scheduler.add_noise(start.latents, noise, times[:1])
        for number, t in enumerate(times):
            answer = yield scheduler.scale_model_input(x, t), float(t)
            x = scheduler.step(answer, t, x).prev_sample
            if start and start.may_change is not None:
                after = times[number + 1 : number + 2]
                known = scheduler.add_noise(start.latents, noise, after) if len(after) else start.latents
                x = torch.where(start.may_change > 0, x, known)
        clean: torch.Tensor = x
        return clean

    return Sampler(len(times), 1, run)
