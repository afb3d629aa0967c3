"""How far a denoiser's answers are from what was wanted. Always one number a sample.

Prior preservation: Ruiz et al., arXiv 2208.12242.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

Error = Literal["l2", "huber", "smooth_l1"]


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
