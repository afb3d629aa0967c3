"""Stage 1: the autoencoder, factor 8, 4 latent channels. It sees 64x64 crops and serves any size."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import nn
from torch.nn import functional as F

from recipes.pocket.scenes import DICE, draw, frequent, varied
from recipes.pocket.sprites import SIZE, Sprites
from tenshot.core.device import generator, pick
from tenshot.train.engine import loop
from tenshot.train.engine.rng import CounterRNG

CONFIG = {
    "block_out_channels": (32, 64, 96, 128),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,  # few, wide groups keep the colour: with 16 it is learned three times as slowly
    "sample_size": SIZE,
}
CROP = 64
FLOOR = 1e-4  # of a squared error: an empty crop must not outweigh all others


class Autoencoder(loop.TrainingTask):
    """The mean over pictures of the logarithm of the squared error, which is PSNR; L1 of pixels and of their
    differences, which keeps edges; a little KL divergence."""

    def __init__(self, sprites: Sprites, seed: int, start: AutoencoderKL | None = None) -> None:
        """start: whose latents are to stay, so that a UNet goes on knowing them: its decoder alone learns further."""
        torch.manual_seed(seed)
        self.net = (start or AutoencoderKL(**CONFIG)).to(pick())
        if start:
            self.net.encoder.requires_grad_(False)
            self.net.quant_conv.requires_grad_(False)
        else:
            _quiet(self.net)
        self.sprites = sprites

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        return {"vae": self.net}

    def loss(self, draws: CounterRNG) -> torch.Tensor:
        pictures = self.pictures(draws).to(self.net.device)
        latents = self.net.encode(pictures).latent_dist
        noise = draws.noise("latent", latents.mean.shape[1:]).to(self.net.device)
        again = self.net.decode(latents.mean + latents.std * noise).sample.float()
        error = again - pictures
        rough = sum(error.diff(dim=axis).abs().mean() for axis in (2, 3))
        divergence = latents.kl().mean() / latents.mean[0].numel()
        fidelity = error.square().flatten(1).mean(1).add(FLOOR).log().mean()
        return 0.1 * fidelity + error.abs().mean() + 0.5 * rough + 1e-6 * divergence

    def pictures(self, draws: CounterRNG) -> torch.Tensor:
        """Crops of scenes in [-1, 1], [batch, 3, CROP, CROP]."""
        stack = []
        for sample in draws.samples:
            kind, top, left, *dice = torch.rand(DICE + 11, generator=generator(draws.seed, "scene", sample)).tolist()
            seen = frequent(self.sprites, dice[7:])
            picture = as_tensor(draw(self.sprites, varied(seen, dice[:7]) if kind < 0.4 else seen))
            top, left = (int(at * (SIZE - CROP + 1)) for at in (top, left))
            stack.append(picture[:, top : top + CROP, left : left + CROP])
        return torch.stack(stack)


def as_tensor(picture: Image.Image) -> torch.Tensor:
    """A picture as [3, height, width] in [-1, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1


@torch.no_grad()
def _quiet(net: AutoencoderKL) -> None:
    """Start with little noise on the latents (std 0.05): at the usual 1 it drowns them for a thousand steps."""
    channels = net.config.latent_channels
    net.quant_conv.weight[channels:] *= 0.1
    net.quant_conv.bias[channels:] -= 6


@torch.no_grad()
def finish(net: AutoencoderKL, sprites: Sprites, seed: int) -> AutoencoderKL:
    """Set the scaling factor so that latents of scenes have unit standard deviation."""
    dice = [torch.rand(DICE + 1, generator=generator(seed, "scale", number)).tolist() for number in range(256)]
    pictures = torch.stack([as_tensor(draw(sprites, frequent(sprites, each))) for each in dice])
    latents = torch.cat([net.encode(part.to(net.device)).latent_dist.mean for part in pictures.split(32)])
    net.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    return net


def fidelity(net: AutoencoderKL, pictures: torch.Tensor) -> float:
    """Mean PSNR in dB of pictures [n, 3, h, w] in [-1, 1] and their reconstructions, as 8-bit pixels."""
    with torch.no_grad():
        again = net.decode(net.encode(pictures).latent_dist.mean).sample.clamp(-1, 1)
    levels = [((x + 1) * 127.5).round() for x in (pictures, again)]
    error = F.mse_loss(levels[0], levels[1], reduction="none").flatten(1).mean(1)
    return (10 * torch.log10(255**2 / error.clamp(min=1e-9))).mean().item()
