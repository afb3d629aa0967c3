"""What a denoiser is asked to predict, and how much each sample counts. Always one number a sample.

eps: Ho et al., arXiv 2006.11239. v: Salimans and Ho, arXiv 2202.00512. Min-SNR: Hang et al., arXiv 2303.09556.
Prior preservation: Ruiz et al., arXiv 2208.12242.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

Prediction = Literal["epsilon", "v_prediction"]
Error = Literal["l2", "huber", "smooth_l1"]


def diffuse(
    latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, alphas_cumprod: torch.Tensor
) -> torch.Tensor:
    """The noisy latents at `timesteps` [batch]: sqrt(a) x + sqrt(1 - a) n, in the dtype of `latents`."""
    a = _at(alphas_cumprod, timesteps, latents)
    return a.sqrt() * latents + (1 - a).sqrt() * noise


def target(
    prediction: Prediction,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    alphas_cumprod: torch.Tensor,
) -> torch.Tensor:
    """What the net should answer: the noise, or the velocity sqrt(a) n - sqrt(1 - a) x."""
    if prediction == "epsilon":
        return noise
    a = _at(alphas_cumprod, timesteps, latents)
    return a.sqrt() * noise - (1 - a).sqrt() * latents


def snr(timesteps: torch.Tensor, alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """Signal-to-noise ratio a / (1 - a) at `timesteps` [batch], float32 [batch]."""
    a = alphas_cumprod.to(timesteps.device, torch.float32)[timesteps]
    return a / (1 - a)


def min_snr_weights(
    prediction: Prediction, timesteps: torch.Tensor, alphas_cumprod: torch.Tensor, gamma: float
) -> torch.Tensor:
    """Min-SNR-gamma weights [batch]: min(snr, gamma) / snr for epsilon, / (snr + 1) for v."""
    ratio = snr(timesteps, alphas_cumprod)
    return ratio.clamp(max=gamma) / (ratio if prediction == "epsilon" else ratio + 1)


def errors(
    answer: torch.Tensor,
    wanted: torch.Tensor,
    kind: Error = "l2",
    bend: float = 0.1,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """The mean error of each sample, in float32: [batch, ...] -> [batch].

    l2: squared; huber: 2 c (sqrt(e^2 + c^2) - c); smooth_l1: 2 (sqrt(e^2 + c^2) - c), with c = `bend`.
    mask: [batch, 1, h, w], how much each place counts; the mean is over what counts.
    """
    squared = (answer.float() - wanted.float()).square()
    if kind != "l2":
        squared = 2 * ((squared + bend**2).sqrt() - bend) * (bend if kind == "huber" else 1)
    if mask is None:
        return squared.flatten(1).mean(1)
    weight = mask.expand_as(squared)
    return (squared * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp(min=1e-6)


def combine(per_sample: torch.Tensor, is_prior: Sequence[bool], prior_weight: float) -> torch.Tensor:
    """mean over the subject's samples + prior_weight * mean over the class samples, as a scalar.

    per_sample: [batch]; is_prior: which of them are class pictures.
    """
    prior = torch.tensor(is_prior, device=per_sample.device)
    weight = torch.where(prior, prior_weight / max(1, int(prior.sum())), 1 / max(1, int((~prior).sum())))
    return (weight * per_sample).sum()


def _at(alphas_cumprod: torch.Tensor, timesteps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """a at `timesteps`, shaped to multiply tensors like `like`."""
    a = alphas_cumprod.to(like.device, torch.float32)[timesteps]
    return a.view(-1, *[1] * (like.ndim - 1)).to(like.dtype)
