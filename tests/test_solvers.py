"""The solvers against diffusers' schedulers, and against their papers where diffusers has no such solver."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from tenshot.diffusion import solvers

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "timestep_spacing": "linspace"}
ALPHAS = diffusers.DDPMScheduler(**{k: v for k, v in BETAS.items() if k != "timestep_spacing"}).alphas_cumprod.double()
SIGMAS = ((1 - ALPHAS) / ALPHAS).sqrt()
START = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
KARRAS = {"use_karras_sigmas": True}


def net(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """What a denoiser believes to be clean; bounded, not linear, another for every sigma."""
    return torch.tanh(0.6 * x / (1 + sigma) + 0.2 * math.cos(sigma)) * (1 + 0.3 * math.sin(3 * sigma))


class Dice:
    """The same noise for both, in the order of asking."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(5)

    def __call__(self, *_: float) -> torch.Tensor:
        return torch.randn(1, 4, 6, 6, generator=self.generator, dtype=torch.float64)


Net = Callable[[torch.Tensor, float], torch.Tensor]


def solved(solver: solvers.Solver, sigmas: Sequence[float], denoise: Net = net) -> torch.Tensor:
    solving = solver(START * sigmas[0], sigmas, Dice())
    asked = next(solving)
    while True:
        try:
            asked = solving.send(denoise(*asked))
        except StopIteration as end:
            return end.value


def by_diffusers(kind: str, steps: int = 12, **changes: Any) -> tuple[torch.Tensor, list[float]]:
    """What a scheduler makes of the same, and its sigmas."""
    made = getattr(diffusers, kind)(**BETAS | changes)
    made.set_timesteps(steps)
    x, dice = START * made.init_noise_sigma, Dice().generator
    for t in made.timesteps:
        sigma = math.exp(np.interp(float(t), range(1000), SIGMAS.log().numpy()))
        a = 1 / (sigma**2 + 1)
        seen = made.scale_model_input(x, t)
        answer = (seen - a**0.5 * net(seen / a**0.5, sigma)) / (1 - a) ** 0.5
        x = made.step(answer, t, x, **({"generator": dice} if "Ancestral" in kind else {})).prev_sample
    return x, list(dict.fromkeys(made.sigmas.tolist())) if hasattr(made, "sigmas") else []


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize(("solver", "kind", "changes"), [
    (solvers.euler, "EulerDiscreteScheduler", {}),
    (solvers.euler, "EulerDiscreteScheduler", KARRAS),
    (solvers.euler_ancestral, "EulerAncestralDiscreteScheduler", {}),
    (solvers.heun, "HeunDiscreteScheduler", {}),
    (solvers.heun, "HeunDiscreteScheduler", KARRAS),
    (solvers.lms, "LMSDiscreteScheduler", {}),
    (solvers.lms, "LMSDiscreteScheduler", KARRAS),
    (solvers.dpm2, "KDPM2DiscreteScheduler", {}),
    (solvers.dpm2_ancestral, "KDPM2AncestralDiscreteScheduler", {}),
])  # fmt: skip
def test_they_go_where_diffusers_goes(solver: solvers.Solver, kind: str, changes: dict[str, Any]):
    theirs, sigmas = by_diffusers(kind, **changes)
    assert apart(solved(solver, sigmas), theirs) < 2e-5


def test_ddim_is_euler_to_the_first_time():
    theirs, _ = by_diffusers(
        "DDIMScheduler", set_alpha_to_one=False, clip_sample=False, steps_offset=1, timestep_spacing="leading"
    )
    times = [*range(1, 997, 1000 // 12)][::-1][-12:]
    sigmas = [*SIGMAS[times].tolist(), float(SIGMAS[0])]
    start = sigmas[0]
    assert start < float(SIGMAS[-1])
    solving = solvers.euler(START * math.sqrt(start**2 + 1), sigmas, Dice())
    asked = next(solving)
    with pytest.raises(StopIteration) as end:
        while True:
            asked = solving.send(net(*asked))
    assert apart(end.value.value * float(ALPHAS[0].sqrt()), theirs) < 1e-5


def exact(sigma: float, after: float, x: torch.Tensor, mean: float, variance: float) -> torch.Tensor:
    """Where the probability-flow ODE goes if the data are normal: they shrink as the root of the whole variance."""
    return mean + (x - mean) * math.sqrt((variance + after**2) / (variance + sigma**2))


@pytest.mark.parametrize(("solver", "order"), [
    (solvers.euler, 1), (solvers.heun, 2), (solvers.dpm2, 2), (solvers.dpmpp_2m, 2), (solvers.lms, 3),
])  # fmt: skip
def test_errors_fall_with_the_steps_as_the_order_says(solver: solvers.Solver, order: int):
    mean, variance = 0.3, 0.25

    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return mean + (x - mean) * variance / (variance + sigma**2)

    def error(steps: int) -> float:
        sigmas = np.geomspace(10, 0.1, steps + 1).tolist()
        return apart(solved(solver, sigmas, denoise), exact(10, 0.1, START * 10, mean, variance))

    assert math.log2(error(40) / error(80)) > order - 0.35


NOISY = ("euler_ancestral", "dpm2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_2m_sde")


@pytest.mark.parametrize("solver", [getattr(solvers, name) for name in NOISY], ids=NOISY)
def test_noisy_ones_keep_the_distribution(solver: solvers.Solver):
    """Of normal data, of which the best denoiser is known: mean and deviation of what comes out, over many draws."""
    mean, deviation, steps = -0.4, 0.6, 300
    sigmas = [*np.geomspace(40, 0.02, steps).tolist(), 0.0]
    generator = torch.Generator().manual_seed(2)
    x = mean + sigmas[0] * torch.randn(20_000, generator=generator, dtype=torch.float64)
    solving = solver(x, sigmas, lambda *_: torch.randn(20_000, generator=generator, dtype=torch.float64))
    asked = next(solving)
    with pytest.raises(StopIteration) as end:
        while True:
            x, sigma = asked
            asked = solving.send(mean + (x - mean) * deviation**2 / (deviation**2 + sigma**2))
    assert end.value.value.mean() == pytest.approx(mean, abs=0.02)
    assert end.value.value.std() == pytest.approx(deviation, rel=0.03)
