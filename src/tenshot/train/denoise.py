"""The loss that every way of fine-tuning shares: noise latents, ask the UNet, compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import nn

from tenshot.diffusion import objective
from tenshot.errors import Fault, Refusal
from tenshot.train.draws import Draws


@dataclass(frozen=True)
class Latents:
    """Encoded pictures as the VAE's posterior, already scaled: mean and std [n, c, h/8, w/8]."""

    mean: torch.Tensor
    std: torch.Tensor

    def __len__(self) -> int:
        return len(self.mean)

    def sample(self, rows: list[int], noise: torch.Tensor) -> torch.Tensor:
        """A draw from the posterior of `rows`: float32 [len(rows), c, h/8, w/8]."""
        return self.mean[rows].float() + self.std[rows].float() * noise


@dataclass(frozen=True)
class Batch:
    """What one step denoises. rows: pictures of their set; clean, noise: [batch, c, h/8, w/8]; timesteps: [batch]."""

    rows: list[int]
    clean: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor


@dataclass(frozen=True)
class Objective:
    """prediction: what the UNet was trained to answer. alphas_cumprod: [timesteps]. snr_gamma: min-SNR, or None."""

    prediction: objective.Prediction
    alphas_cumprod: torch.Tensor
    snr_gamma: float | None = None

    def draw(self, latents: Latents, draws: Draws, purpose: str = "") -> Batch:
        """Pictures, noise and timesteps for one batch; `purpose` tells several sets in one step apart."""
        rows = draws.pick(f"{purpose}picture", len(latents))
        shape = latents.mean.shape[1:]
        clean = latents.sample(rows, draws.noise(f"{purpose}posterior", shape))
        steps = draws.integers(f"{purpose}timestep", 0, len(self.alphas_cumprod))
        return Batch(rows, clean, draws.noise(f"{purpose}noise", shape), steps)


def check_schedule(config: Mapping[str, Any]) -> None:
    """Refuse a noise schedule that no loss here fits. config: of a model's scheduler."""
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in get_args(objective.Prediction):
        fits = " or ".join(get_args(objective.Prediction))
        raise Refusal(Fault("scheduler: prediction_type", repr(prediction), fits, "use another model"))
    if prediction == "epsilon" and config.get("rescale_betas_zero_snr"):
        found = "epsilon with rescale_betas_zero_snr: the last timestep has nothing but noise to tell from noise"
        raise Refusal(Fault("scheduler: prediction_type", found, "v_prediction, or no rescaling", "use another model"))


def losses(unet: nn.Module, aim: Objective, batch: Batch, conditioning: Mapping[str, Any]) -> torch.Tensor:
    """The weighted loss of each sample, float32 [batch]. conditioning: the UNet's further arguments, batch first."""
    where = next(unet.parameters()).device
    clean, noise, steps = batch.clean.to(where), batch.noise.to(where), batch.timesteps.to(where)
    noisy = objective.diffuse(clean, noise, steps, aim.alphas_cumprod)
    answer = unet(noisy, steps, **conditioning).sample
    wanted = objective.target(aim.prediction, clean, noise, steps, aim.alphas_cumprod)
    error = objective.errors(answer, wanted)
    if aim.snr_gamma is None:
        return error
    return error * objective.min_snr_weights(aim.prediction, steps, aim.alphas_cumprod, aim.snr_gamma)


def joined(first: Batch, second: Batch) -> Batch:
    """Two batches as one, the first before the second."""
    pairs = ((first.clean, second.clean), (first.noise, second.noise), (first.timesteps, second.timesteps))
    return Batch(first.rows + second.rows, *(torch.cat(pair) for pair in pairs))
