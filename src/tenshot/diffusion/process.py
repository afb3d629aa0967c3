"""What a denoiser was trained to undo: how noise is added, which times are drawn, what is asked, how much each counts.

DDPM: Ho et al., arXiv 2006.11239; v: Salimans and Ho, arXiv 2202.00512; min-SNR: Hang et al., arXiv 2303.09556.
Rectified flow with logit-normal times and a shift by resolution: Esser et al., arXiv 2403.03206.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol, Self, get_args

import numpy as np
import torch

from tenshot.core.errors import Fault
from tenshot.core.json_types import Config

Prediction = Literal["epsilon", "v_prediction"]
Weighting = Literal["none", "logit_normal", "mode", "sigma_sqrt", "cosmap"]


class Random(Protocol):
    """Where times come from: for each purpose others."""

    def stratified(self, purpose: str) -> torch.Tensor:
        """One number in [0, 1) for each row of a batch; those of a run spread evenly."""
        ...


class Process(Protocol):
    """name: by which samplers are told that go with it (samplers.py). title: for people.

    options: those of training that it takes. prediction: what the denoiser answers. Times `t` are as the denoiser is
    told them, [batch]; latents and noise are [batch, ...].
    """

    name: ClassVar[str]
    title: ClassVar[str]
    options: ClassVar[tuple[str, ...]]

    @property
    def prediction(self) -> str: ...

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """The process that a scheduler's configuration tells of."""
        ...

    @classmethod
    def predictions(cls) -> tuple[str, ...]:
        """What `prediction` can be."""
        ...

    @classmethod
    def training_faults(cls, config: Config, options: Any) -> Iterator[Fault]:
        """Why a model with this scheduler's configuration cannot be trained as `options` say."""
        ...

    def trained_by(self, options: Any) -> Self:
        """The same with what training is told by `options`."""
        ...

    def odd(self) -> bool:
        """Is it made of numbers that are no parts of a signal?"""
        ...

    def sample_t(self, random: Random, purpose: str) -> torch.Tensor:
        """The times of a batch to learn from, on the CPU."""
        ...

    def sigmas(self, t: torch.Tensor) -> torch.Tensor:
        """How much noise there is at `t`, float32 [batch], in the measure that its samplers count in."""
        ...

    def add_noise(self, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor: ...

    def target(self, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """What the denoiser should answer."""
        ...

    def weight(self, t: torch.Tensor) -> torch.Tensor | None:
        """How much the error of each sample counts, float32 [batch]; None for all the same."""
        ...

    @property
    def levels(self) -> np.ndarray:
        """The sigma of every time that the denoiser was trained at, rising, float64."""
        ...

    def even(self, steps: int) -> list[float]:
        """The sigmas of even times, from the last to the first."""
        ...

    def time(self, sigma: float) -> float:
        """The time at which there is so much noise, as the denoiser is told it; between those of training, too."""
        ...

    def seen(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """What the denoiser is shown of x, which is the signal plus sigma times noise, as samplers have it."""
        ...

    def clean(self, x: torch.Tensor, answer: torch.Tensor, sigma: float) -> torch.Tensor:
        """The signal in x, as the denoiser's answer has it."""
        ...

    def noisy(self, clean: torch.Tensor, noise: torch.Tensor, sigma: float) -> torch.Tensor:
        """x of a signal, as samplers have it."""
        ...

    def signal(self, seen: torch.Tensor, answer: torch.Tensor, time: float) -> torch.Tensor:
        """The signal in what the denoiser was shown at `time`, as its answer has it."""
        ...


@dataclass(frozen=True)
class DDPM:
    """sqrt(a) x + sqrt(1 - a) n, with a = `alphas_cumprod` [timesteps] at an integer time.

    snr_gamma: of min-SNR weighting, or None.
    """

    name: ClassVar[str] = "ddpm"
    title: ClassVar[str] = "DDPM"
    options: ClassVar[tuple[str, ...]] = ("snr_gamma", "rescale_betas_zero_snr")

    alphas_cumprod: torch.Tensor
    prediction: Prediction = "epsilon"
    snr_gamma: float | None = None

    @classmethod
    def from_config(cls, config: Config) -> Self:
        import diffusers

        alphas_cumprod = diffusers.DDPMScheduler.from_config(dict(config)).alphas_cumprod
        return cls(alphas_cumprod, config.get("prediction_type", "epsilon"))

    @classmethod
    def predictions(cls) -> tuple[str, ...]:
        return get_args(Prediction)

    @classmethod
    def training_faults(cls, config: Config, options: Any) -> Iterator[Fault]:
        rescale = options.rescale_betas_zero_snr
        epsilon = config.get("prediction_type", "epsilon") == "epsilon"
        if epsilon and (rescale or config.get("rescale_betas_zero_snr")):
            where = "--rescale_betas_zero_snr" if rescale else "scheduler: prediction_type"
            found = "epsilon with rescale_betas_zero_snr: the last timestep has nothing but noise to tell from noise"
            yield Fault(where, found, "v_prediction, or no rescaling", "use another model")

    def trained_by(self, options: Any) -> Self:
        return replace(self, snr_gamma=options.snr_gamma)

    def odd(self) -> bool:
        return not bool(((self.alphas_cumprod >= 0) & (self.alphas_cumprod <= 1)).all())

    def sample_t(self, random: Random, purpose: str) -> torch.Tensor:
        return (random.stratified(purpose) * len(self.alphas_cumprod)).long()

    def sigmas(self, t: torch.Tensor) -> torch.Tensor:
        """Noise beside a signal of 1, as k-diffusion counts: sqrt((1 - a) / a)."""
        a = self._a(t)
        return ((1 - a) / a).sqrt()

    def snr(self, t: torch.Tensor) -> torch.Tensor:
        """Signal-to-noise ratio a / (1 - a), float32 [batch]."""
        a = self._a(t)
        return a / (1 - a)

    def add_noise(self, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a = _beside(self._a(t), x)
        return a.sqrt() * x + (1 - a).sqrt() * noise

    def target(self, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The noise, or the velocity sqrt(a) n - sqrt(1 - a) x."""
        if self.prediction == "epsilon":
            return noise
        a = _beside(self._a(t), x)
        return a.sqrt() * noise - (1 - a).sqrt() * x

    def weight(self, t: torch.Tensor) -> torch.Tensor | None:
        """Min-SNR: min(snr, gamma) / snr for epsilon, / (snr + 1) for v."""
        if self.snr_gamma is None:
            return None
        ratio = self.snr(t)
        return ratio.clamp(max=self.snr_gamma) / (ratio if self.prediction == "epsilon" else ratio + 1)

    @cached_property
    def levels(self) -> np.ndarray:
        """Of nothing but noise (zero terminal SNR), the sigma is put at 4,518, as other programs put it."""
        a = np.maximum(self.alphas_cumprod.double().cpu().numpy(), 4.9e-8)
        found: np.ndarray = np.sqrt((1 - a) / a)
        return found

    def even(self, steps: int) -> list[float]:
        return self.between(np.linspace(len(self.levels) - 1, 0, steps))

    def between(self, times: np.ndarray) -> list[float]:
        """The sigmas of times, interpolated in their logarithm."""
        logarithms = np.log(self.levels)
        return list(np.exp(np.interp(times, np.arange(len(logarithms)), logarithms)).tolist())

    def time(self, sigma: float) -> float:
        """Interpolated in the logarithm of sigma."""
        return float(np.interp(math.log(sigma), np.log(self.levels), np.arange(len(self.levels))))

    def seen(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return x / math.sqrt(sigma**2 + 1)

    def clean(self, x: torch.Tensor, answer: torch.Tensor, sigma: float) -> torch.Tensor:
        if self.prediction == "epsilon":
            return x - sigma * answer
        return (x / math.sqrt(sigma**2 + 1) - sigma * answer) / math.sqrt(sigma**2 + 1)

    def noisy(self, clean: torch.Tensor, noise: torch.Tensor, sigma: float) -> torch.Tensor:
        return clean + sigma * noise

    def signal(self, seen: torch.Tensor, answer: torch.Tensor, time: float) -> torch.Tensor:
        (sigma,) = self.between(np.array([time]))
        return self.clean(seen * math.sqrt(sigma**2 + 1), answer, sigma)

    def _a(self, t: torch.Tensor) -> torch.Tensor:
        return self.alphas_cumprod.to(t.device, torch.float32)[t]


@dataclass(frozen=True)
class RectifiedFlow:
    """(1 - s) x + s n, where s is t / `steps`; the denoiser answers the velocity n - x.

    shift: by which times are moved towards noise, more for larger pictures: s -> shift s / (1 + (shift - 1) s).
    weighting_scheme: how times are drawn (logit_normal, mode) or how they count (sigma_sqrt, cosmap), by diffusers'
    names. logit_mean, logit_std: of logit_normal. mode_scale: of mode.
    """

    name: ClassVar[str] = "flow"
    title: ClassVar[str] = "rectified flow"
    options: ClassVar[tuple[str, ...]] = ("weighting_scheme", "logit_mean", "logit_std", "mode_scale")
    prediction: ClassVar[str] = "flow_prediction"

    shift: float = 1.0
    steps: int = 1000
    weighting_scheme: Weighting = "logit_normal"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 1.29

    @classmethod
    def from_config(cls, config: Config) -> Self:
        return cls(float(config.get("shift", 1.0)), int(config.get("num_train_timesteps", 1000)))

    @classmethod
    def predictions(cls) -> tuple[str, ...]:
        return (cls.prediction,)

    @classmethod
    def training_faults(cls, config: Config, options: Any) -> Iterator[Fault]:
        yield from ()

    def trained_by(self, options: Any) -> Self:
        return replace(self, **{name: getattr(options, name) for name in self.options})

    def odd(self) -> bool:
        return not (math.isfinite(self.shift) and self.shift > 0)

    def sample_t(self, random: Random, purpose: str) -> torch.Tensor:
        """One of the times that the model was trained at: 1/steps to 1, shifted."""
        u = random.stratified(purpose)
        if self.weighting_scheme == "logit_normal":
            u = torch.sigmoid(self.logit_mean + self.logit_std * torch.special.ndtri(u))
        elif self.weighting_scheme == "mode":
            u = 1 - u - self.mode_scale * (torch.cos(math.pi * u / 2) ** 2 - 1 + u)
        place = (u * self.steps).long().clamp(0, self.steps - 1)  # from 1 downwards, as schedulers count
        s = (self.steps - place).float() / self.steps
        return self.shift * s / (1 + (self.shift - 1) * s) * self.steps

    def sigmas(self, t: torch.Tensor) -> torch.Tensor:
        return t.float() / self.steps

    def add_noise(self, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        s = _beside(self.sigmas(t), x)
        return (1 - s) * x + s * noise

    def target(self, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The velocity n - x, the same at all times."""
        return noise - x

    def weight(self, t: torch.Tensor) -> torch.Tensor | None:
        """sigma_sqrt: s^-2; cosmap: 2 / (pi (1 - 2 s + 2 s^2))."""
        s = self.sigmas(t)
        if self.weighting_scheme == "sigma_sqrt":
            return s**-2
        return 2 / (math.pi * (1 - 2 * s + 2 * s**2)) if self.weighting_scheme == "cosmap" else None

    @cached_property
    def levels(self) -> np.ndarray:
        return self._shifted(np.arange(1, self.steps + 1) / self.steps)

    def even(self, steps: int) -> list[float]:
        """As the pipelines of diffusers have them: down to the least level, which is then shifted once more."""
        return list(self._shifted(np.linspace(1, self.levels[0], steps)).tolist())

    def _shifted(self, s: np.ndarray) -> np.ndarray:
        found: np.ndarray = self.shift * s / (1 + (self.shift - 1) * s)
        return found

    def time(self, sigma: float) -> float:
        return sigma * self.steps

    def seen(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """Here x is the signal times 1 - sigma plus sigma times noise."""
        return x

    def clean(self, x: torch.Tensor, answer: torch.Tensor, sigma: float) -> torch.Tensor:
        return x - sigma * answer

    def noisy(self, clean: torch.Tensor, noise: torch.Tensor, sigma: float) -> torch.Tensor:
        return (1 - sigma) * clean + sigma * noise

    def signal(self, seen: torch.Tensor, answer: torch.Tensor, time: float) -> torch.Tensor:
        return self.clean(seen, answer, time / self.steps)


PROCESSES: tuple[type[Process], ...] = (DDPM, RectifiedFlow)


def _beside(numbers: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Numbers [batch], shaped to multiply tensors like `like`, in its dtype."""
    return numbers.to(like.device).view(-1, *[1] * (like.ndim - 1)).to(like.dtype)
