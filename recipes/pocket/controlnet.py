"""Stage 6: a ControlNet (arXiv 2302.05543) that draws along edges, beside the finished UNet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from diffusers import ControlNetModel
from torch import nn

from recipes.pocket import unet
from recipes.pocket.scenes import DICE, MEDIA, Scene, draw, frequent, sentence, spoken, varied
from recipes.pocket.sprites import Sprites
from tenshot.core.device import generator, pick
from tenshot.diffusion.process import DDPM
from tenshot.families.base import tokens
from tenshot.generate.controlnets import canny
from tenshot.model.model import Model
from tenshot.train.engine import denoising, loop
from tenshot.train.engine.rng import CounterRNG

EDGES = (100, 200)  # canny's thresholds, as `tenshot generate` has them
WIDTHS = (16, 32, 48, 64)  # of the convolutions that bring edges to the size of latents
LEAST = 200  # time: where there is less noise, the edges are in the noisy picture already
SCENES, KNOWN = 8000, 0.5  # scenes to learn from; the share of concepts that the UNet knows, as it knows them
UNSAID = 0.5  # share of their captions left out, so that the edges have to tell what is there; of the others all are
CATEGORY = 0.5  # share of captions that say the category alone, and leave the outline open


class Edges(loop.TrainingTask):
    """A copy of the UNet's encoder, that is shown the edges of the picture; the UNet itself stays.

    Errors of the noise count as errors of the velocity (arXiv 2202.00512): by themselves those at noisy times, where
    outlines are decided, hardly count.
    """

    def __init__(
        self, sprites: Sprites, latents: denoising.Latents, scenes: list[Scene], opened: Model, seed: int
    ) -> None:
        torch.manual_seed(seed)
        self.sprites, self.latents, self.scenes, self.opened = sprites, latents, scenes, opened
        self.unet = opened["unet"].requires_grad_(False).to(pick())
        self.net = ControlNetModel.from_unet(self.unet, conditioning_embedding_out_channels=WIDTHS)
        self.net.requires_grad_(True).train()
        self.maps = torch.stack([edges(sprites, scene) for scene in scenes])
        self.process = DDPM.from_config(opened.scheduler_config)
        self.aim = denoising.Objective(self.process)

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        return {"controlnet": self.net}

    def loss(self, draws: CounterRNG) -> torch.Tensor:
        batch = self.aim.draw(self.latents, draws)
        batch = replace(batch, timesteps=LEAST + batch.timesteps * (unet.TIMES - LEAST) // unet.TIMES)
        seen = (self.maps[batch.rows][:, None].expand(-1, 3, -1, -1).float() / 255).to(self.unet.device)
        with torch.no_grad():
            words = tokens(self.opened["tokenizer"], self.captions(draws, batch.rows)).to(self.unet.device)
            states = self.opened["text_encoder"](words).last_hidden_state

        def answer(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            down, middle = self.net(x, t, states, controlnet_cond=seen, return_dict=False)
            more = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
            found: torch.Tensor = self.unet(x, t, encoder_hidden_states=states, **more).sample
            return found

        steps = batch.timesteps.to(self.unet.device)
        return (self.aim.per_sample(answer, batch, self.unet.device) * (1 + 1 / self.process.snr(steps))).mean()

    def captions(self, draws: CounterRNG, rows: list[int]) -> list[str]:
        dice = zip(*(draws.uniform(f"caption {number}").tolist() for number in range(7)), strict=True)
        said = []
        for seen, (unsaid, vague, *rest) in zip((self.scenes[row] for row in rows), dice, strict=True):
            kind = self.sprites.category.get(seen.name)
            vaguely = kind and vague < CATEGORY
            told = sentence(kind, MEDIA[seen.style], seen.colour) if vaguely else spoken(seen, kind, rest)
            said.append(told if kind and unsaid >= UNSAID else "")
        return said


def scenes(sprites: Sprites, seed: int) -> list[Scene]:
    """Of all that may be seen, half of it turned, large and small: outlines of every kind, in every place."""
    made = []
    for number in range(SCENES):
        kind, *dice = torch.rand(DICE + 9, generator=generator(seed, "edges", number)).tolist()
        seen = frequent(sprites, dice[7:], KNOWN)
        made.append(varied(seen, dice[:7]) if kind < 0.5 else seen)
    return made


def edges(sprites: Sprites, scene: Scene) -> torch.Tensor:
    """Of the scene's picture, uint8 [height, width], 255 where there is one."""
    return torch.from_numpy(np.array(canny(draw(sprites, scene), *EDGES))[..., 0])
