"""Which amounts of noise a sampler visits, from the most to 0, by the names that WebUI gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tenshot.diffusion.process import DDPM, Process

RHO = 7.0  # of Karras et al., arXiv 2206.00364, equation 5


def uniform(process: Process, steps: int) -> list[float]:
    """Even times from the last to the first."""
    return process.even(steps)


def sgm_uniform(process: Process, steps: int) -> list[float]:
    """Even times from the last, of which the first is left out."""
    return process.even(steps + 1)[:-1]


def leading(process: DDPM, steps: int) -> list[float]:
    """Every so many-th time, one later, as DDIM has them; then the first time."""
    count = len(process.levels)
    times = np.arange(0, count, max(1, count // steps))[:steps] + 1
    return [*process.between(np.minimum(times, count - 1)[::-1]), float(process.levels[0])]


def karras(process: Process, steps: int) -> list[float]:
    low, high = process.levels[[0, -1]] ** (1 / RHO)
    return list((np.linspace(high, low, steps) ** RHO).tolist())


def exponential(process: Process, steps: int) -> list[float]:
    low, high = np.log(process.levels[[0, -1]])
    return list(np.exp(np.linspace(high, low, steps)).tolist())


def align_your_steps(sigmas: Sequence[float], steps: int) -> list[float]:
    """A family's table for any number of steps, interpolated in the logarithm (Sabour et al., arXiv 2404.14507)."""
    places = np.linspace(0, 1, len(sigmas))
    return list(np.exp(np.interp(np.linspace(0, 1, steps), places, np.log(sigmas))).tolist())


#: Name -> the sigmas of a number of steps, without the 0 at the end.
SCHEDULES: dict[str, Callable[[Process, int], list[float]]] = {
    "uniform": uniform,
    "karras": karras,
    "exponential": exponential,
    "sgm_uniform": sgm_uniform,
}
