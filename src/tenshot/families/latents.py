"""Latents as a VAE makes them and as denoisers know them: shifted, and scaled to about unit variance."""

from __future__ import annotations

import torch

from tenshot.families.components import VAE


def normalized(vae: VAE, x: torch.Tensor) -> torch.Tensor:
    """What the VAE encoded, as the denoiser knows it: float32 on the CPU."""
    shift = vae.config.shift_factor
    return scaled(vae, x if shift is None else x.float() - shift)


def scaled(vae: VAE, x: torch.Tensor) -> torch.Tensor:
    """A difference of latents likewise: no shift changes it."""
    scale: float = vae.config.scaling_factor
    return x.float().cpu() * scale


def restored(vae: VAE, x: torch.Tensor) -> torch.Tensor:
    """What the denoiser knows, as the VAE decodes it; in the dtype of `x`."""
    plain: torch.Tensor = x / vae.config.scaling_factor
    return plain if vae.config.shift_factor is None else plain + vae.config.shift_factor
