"""Stage 3: the UNet, taught to denoise latents of scenes of the known concepts, told in words what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from recipes.pocket.autoencoder import as_tensor
from recipes.pocket.scenes import DICE, Scene, draw, scene, spoken
from recipes.pocket.sprites import STYLES, Sprites
from tenshot.core.device import autocast, generator, pick, precision
from tenshot.diffusion.process import DDPM
from tenshot.evaluate.metrics import COLOURS
from tenshot.families.base import tokens
from tenshot.train.engine import denoising, loop
from tenshot.train.engine.rng import CounterRNG

CONFIG = {
    "sample_size": 16,
    "block_out_channels": (96, 128, 192),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (3, 4, 6),
    "layers_per_block": 1,
    "cross_attention_dim": 192,
}
TIMES = 1000
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": TIMES,
    "clip_sample": False,
    "steps_offset": 1,
}
PLAIN, ATTRIBUTED = 12, 6  # scenes of each concept in each style, without and with attributes
STILL = 0.3  # share of a scene's play that is left here: a subject that stands still is sharp sooner
NOISIER = 0.5  # share of samples from the noisier half of the schedule: backgrounds and outlines are decided there
UNSAID = 0.1  # share of captions left out, for guidance
WORDS_RATE = 0.3  # of the UNet's learning rate, for the text encoder


class Denoiser(loop.TrainingTask):
    """Noise prediction with min-SNR weights on scenes encoded beforehand.

    The text encoder learns along: a contrastive pair leaves some words too alike for a UNet to tell apart.
    """

    def __init__(
        self,
        sprites: Sprites,
        latents: denoising.Latents,
        scenes: list[Scene],
        words: tuple[CLIPTokenizer, CLIPTextModel],
        seed: int,
    ) -> None:
        torch.manual_seed(seed)
        self.net = UNet2DConditionModel(**CONFIG).to(pick())
        self.sprites, self.latents, self.scenes = sprites, latents, scenes
        self.tokenizer, self.encoder = words[0], words[1].to(pick())
        self.encoder.requires_grad_(True)
        self.aim = denoising.Objective(replace(DDPM.from_config(SCHEDULE), snr_gamma=5.0))

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        return {"unet": self.net, "words": self.encoder}

    def lr_multiplier(self, part: str, name: str) -> float:
        return WORDS_RATE if part == "words" else 1.0

    def loss(self, draws: CounterRNG) -> torch.Tensor:
        batch = self.aim.draw(self.latents, draws)
        noisier = torch.where(draws.uniform("noisier") < NOISIER, TIMES // 2 + batch.timesteps // 2, batch.timesteps)
        batch = replace(batch, timesteps=noisier)
        words = tokens(self.tokenizer, self.captions(draws, batch.rows)).to(self.net.device)
        states = self.encoder(words).last_hidden_state
        return self.aim.per_sample(
            lambda x, t: self.net(x, t, encoder_hidden_states=states).sample, batch, self.net.device
        ).mean()

    def captions(self, draws: CounterRNG, rows: list[int]) -> list[str]:
        dice = zip(*(draws.uniform(f"caption {number}").tolist() for number in range(6)), strict=True)
        return [
            "" if unsaid < UNSAID else spoken(seen, self.sprites.category[seen.name], rest)
            for seen, (unsaid, *rest) in zip((self.scenes[row] for row in rows), dice, strict=True)
        ]


def scenes(sprites: Sprites, seed: int) -> list[Scene]:
    """PLAIN + ATTRIBUTED scenes of every known concept in both styles; the plain ones almost in the middle."""
    made = []
    for name in sprites.known:
        for style in range(len(STYLES)):
            for number in range(PLAIN + ATTRIBUTED):
                dice = torch.rand(DICE, generator=generator(seed, "unet scene", name, style, number)).tolist()
                dice[1] = (style + 0.5) / len(STYLES)
                dice[2] = (number + 0.5) / len(COLOURS) % 1  # every background equally often
                dice[3:6] = (0.5 + STILL * (at - 0.5) for at in dice[3:6])
                made.append(scene([name], dice, plain=float(number < PLAIN)))
    return made


@torch.no_grad()
def encode(vae: AutoencoderKL, sprites: Sprites, scenes: list[Scene]) -> denoising.Latents:
    """The scenes as latents, in bfloat16 to keep them small."""
    means, stds = [], []
    with autocast(vae.device, precision("bf16", vae.device)):
        for start in range(0, len(scenes), 64):
            pictures = torch.stack([as_tensor(draw(sprites, seen)) for seen in scenes[start : start + 64]])
            posterior = vae.encode(pictures).latent_dist
            means.append((posterior.mean * vae.config.scaling_factor).bfloat16())
            stds.append((posterior.std * vae.config.scaling_factor).bfloat16())
    return denoising.Latents.of(torch.cat(means), torch.cat(stds))
