"""Solvers of the diffusion ODE and SDE: from noise to a picture, step by step.

Each is a generator over `sigmas`, which fall to 0: it yields (x, sigma), where x is the signal plus sigma times noise,
is sent what the denoiser believes to be the clean signal there, and returns the picture. All are elementwise, so that
rows of a batch do not hear of each other. `noise(sigma, next)` gives standard normal noise for the step between them.

Euler, Heun, ancestral steps: Karras et al., arXiv 2206.00364. LMS, DPM2 and its ancestral kind: as k-diffusion 0.1.1
has them. DPM++: Lu et al., arXiv 2211.01095. LCM: Luo et al., arXiv 2310.04378. PLMS: Liu et al., arXiv 2202.09778.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import torch

Solving: TypeAlias = Generator[tuple[torch.Tensor, float], torch.Tensor, torch.Tensor]
Noise: TypeAlias = Callable[[float, float], torch.Tensor]
Solver: TypeAlias = Callable[[torch.Tensor, Sequence[float], Noise], Solving]


def euler(x: torch.Tensor, sigmas: Sequence[float], noise: Noise) -> Solving:
    for sigma, after in pairwise(sigmas):
        slope = (x - (yield x, sigma)) / sigma
        x = x + slope * (after - sigma)
    return x


def euler_ancestral(x: torch.Tensor, sigmas: Sequence[float], noise: Noise) -> Solving:
    for sigma, after in pairwise(sigmas):
        down, up = _ancestral(sigma, after)
        slope = (x - (yield x, sigma)) / sigma
        x = x + slope * (down - sigma)
        x = x + noise(sigma, after) * up if after else x
    return x


def heun(x: torch.Tensor, sigmas: Sequence[float], noise: Noise) -> Solving:
    for sigma, after in pairwise(sigmas):
        slope = (x - (yield x, sigma)) / sigma
        if after:
            reached = x + slope * (after - sigma)
            slope = (slope + (reached - (yield reached, after)) / after) / 2
        x = x + slope * (after - sigma)
    return x


def lms(x: torch.Tensor, sigmas: Sequence[float], noise: Noise) -> Solving:
    """Adams-Bashforth of up to order 4, on uneven steps."""
    slopes: list[torch.Tensor] = []
    for at, (sigma, _) in enumerate(pairwise(sigmas)):
        slopes = [*slopes[-3:], (x - (yield x, sigma)) / sigma]
        for slope, share in zip(slopes, _adams_bashforth(sigmas, at, len(slopes)), strict=True):
            x = x + slope * share
    return x


def dpm2(x: torch.Tensor, sigmas: Sequence[float], noise: Noise) -> Solving:
    for sigma, after in pairwise(sigmas):
        slope = (x - (yield x, sigma)) / sigma
        if after:
            slope = yield from _midpoint(x, slope, sigma, after)
        x = x + slope * (after - sigma)
    return x


def dpm2_ancestral(x: torch.Tensor, sigmas: Sequence[float], noise: Noise) -> Solving:
    for sigma, after in pairwise(sigmas):
        down, up = _ancestral(sigma, after)
        slope = (x - (yield x, sigma)) / sigma
        if down:
            slope = yield from _midpoint(x, slope, sigma, down)
        x = x + slope * (down - sigma)
        x = x + noise(sigma, after) * up if after else x
    return x


def dpmpp_2s_ancestral(x: torch.Tensor, sigmas: Sequence[float], noise: Noise) -> Solving:
    for sigma, after in pairwise(sigmas):
        down, up = _ancestral(sigma, after)
        clean = yield x, sigma
        if down:
            middle = math.sqrt(sigma * down)
            clean = yield _towards(clean, x, sigma, middle), middle
        x = _towards(clean, x, sigma, down)
        x = x + noise(sigma, after) * up if after else x
    return x


def dpmpp_sde(x: torch.Tensor, sigmas: Sequence[float], noise: Noise) -> Solving:
    for sigma, after in pairwise(sigmas):
        clean = yield x, sigma
        if after:
            middle = math.sqrt(sigma * after)
            down, up = _ancestral(sigma, middle)
            there = _towards(clean, x, sigma, down) + noise(sigma, middle) * up
            clean = yield there, middle
            down, up = _ancestral(sigma, after)
            x = _towards(clean, x, sigma, down) + noise(sigma, after) * up
        else:
            x = clean
    return x


def dpmpp_2m(x: torch.Tensor, sigmas: Sequence[float], noise: Noise) -> Solving:
    before: torch.Tensor | None = None
    for at, (sigma, after) in enumerate(pairwise(sigmas)):
        clean = yield x, sigma
        told = clean
        if before is not None and after:
            told = clean + (clean - before) / (2 * _ratio(sigmas, at))
        x, before = _towards(told, x, sigma, after), clean
    return x


def dpmpp_2m_sde(x: torch.Tensor, sigmas: Sequence[float], noise: Noise) -> Solving:
    """With the midpoint rule."""
    before: torch.Tensor | None = None
    for at, (sigma, after) in enumerate(pairwise(sigmas)):
        clean = yield x, sigma
        if after:
            share = (after / sigma) ** 2  # exp(-2 h), of what is there
            told = clean if before is None else clean + (clean - before) / (2 * _ratio(sigmas, at))
            x = x * share + told * (1 - share)
            x = x + noise(sigma, after) * (after * math.sqrt(1 - share))
        else:
            x = clean
        before = clean
    return x


def lcm(x: torch.Tensor, sigmas: Sequence[float], noise: Noise) -> Solving:
    for sigma, after in pairwise(sigmas):
        x = yield x, sigma
        x = x + noise(sigma, after) * after if after else x
    return x


def plms(x: torch.Tensor, sigmas: Sequence[float], noise: Noise) -> Solving:
    """Adams-Bashforth of up to order 4 as for even steps, the first one by Heun's rule."""
    slopes: list[torch.Tensor] = []
    for sigma, after in pairwise(sigmas):
        slopes = [*slopes[-3:], (x - (yield x, sigma)) / sigma]
        slope = sum(share * each for share, each in zip(EVEN[len(slopes)], slopes, strict=True))
        if len(slopes) == 1 and after:
            reached = x + slopes[0] * (after - sigma)
            slope = (slopes[0] + (reached - (yield reached, after)) / after) / 2
        x = x + slope * (after - sigma)
    return x


EVEN = {1: (1.0,), 2: (-1 / 2, 3 / 2), 3: (5 / 12, -16 / 12, 23 / 12), 4: (-9 / 24, 37 / 24, -59 / 24, 55 / 24)}


def _midpoint(
    x: torch.Tensor, slope: torch.Tensor, sigma: float, after: float
) -> Generator[tuple[torch.Tensor, float], torch.Tensor, torch.Tensor]:
    """The slope in the middle of the logarithms."""
    middle = math.sqrt(sigma * after)
    there = x + slope * (middle - sigma)
    return (there - (yield there, middle)) / middle


def _towards(clean: torch.Tensor, x: torch.Tensor, sigma: float, after: float) -> torch.Tensor:
    """The exact solution from sigma to `after` where the clean signal stays as it is believed to be."""
    return clean + (x - clean) * (after / sigma)


def _ancestral(sigma: float, after: float) -> tuple[float, float]:
    """Where to step down to, and how much noise brings it up to `after` again."""
    up = min(after, math.sqrt(after**2 * (sigma**2 - after**2)) / sigma)
    return math.sqrt(after**2 - up**2), up


def _ratio(sigmas: Sequence[float], at: int) -> float:
    """The length of the step before, as a share of this one's, in logarithms."""
    return math.log(sigmas[at - 1] / sigmas[at]) / math.log(sigmas[at] / sigmas[at + 1])


def _adams_bashforth(sigmas: Sequence[float], at: int, order: int) -> list[float]:
    """Integrals over the step of the Lagrange polynomials through the last `order` sigmas, the oldest first."""
    known = sigmas[at + 1 - order : at + 1]
    shares = []
    for own in known:
        others = [each for each in known if each != own]
        whole = np.polyint(np.atleast_1d(np.poly(others)) / np.prod([own - each for each in others]))
        shares.append(float(np.polyval(whole, sigmas[at + 1]) - np.polyval(whole, sigmas[at])))
    return shares
