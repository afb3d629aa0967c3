"""Stage 6: a ControlNet (arXiv 2302.05543) that draws along edges, beside the finished UNet."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from diffusers import ControlNetModel
from torch import nn

from recipes.pocket.scenes import Scene, draw, spoken
from recipes.pocket.sprites import Sprites
from tenshot.core.device import pick
from tenshot.families.base import tokens
from tenshot.generate.controlnets import canny
from tenshot.model.model import Model
from tenshot.train.engine import denoising, loop
from tenshot.train.engine.rng import CounterRNG

EDGES = (100, 200)  # canny's thresholds, as `tenshot generate` has them
WIDTHS = (16, 32, 48, 64)  # of the convolutions that bring edges to the size of latents
UNSAID = 0.5  # share of captions left out, so that the edges have to tell what is there


class Edges(loop.TrainingTask):
    """A copy of the UNet's encoder, that is shown the edges of the picture; the UNet itself stays."""

    def __init__(
        self, sprites: Sprites, latents: denoising.Latents, scenes: list[Scene], opened: Model, seed: int
    ) -> None:
        torch.manual_seed(seed)
        self.sprites, self.latents, self.scenes, self.opened = sprites, latents, scenes, opened
        self.unet = opened["unet"].requires_grad_(False).to(pick())
        self.net = ControlNetModel.from_unet(self.unet, conditioning_embedding_out_channels=WIDTHS)
        self.net.requires_grad_(True).train()
        self.maps = torch.stack([edges(sprites, scene) for scene in scenes])
        self.aim = denoising.Objective(opened.process)

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        return {"controlnet": self.net}

    def loss(self, draws: CounterRNG) -> torch.Tensor:
        batch = self.aim.draw(self.latents, draws)
        seen = (self.maps[batch.rows][:, None].expand(-1, 3, -1, -1).float() / 255).to(self.unet.device)
        with torch.no_grad():
            words = tokens(self.opened["tokenizer"], self.captions(draws, batch.rows)).to(self.unet.device)
            states = self.opened["text_encoder"](words).last_hidden_state

        def answer(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            down, middle = self.net(x, t, states, controlnet_cond=seen, return_dict=False)
            more = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
            found: torch.Tensor = self.unet(x, t, encoder_hidden_states=states, **more).sample
            return found

        return self.aim.per_sample(answer, batch, self.unet.device).mean()

    def captions(self, draws: CounterRNG, rows: list[int]) -> list[str]:
        dice = zip(*(draws.uniform(f"caption {number}").tolist() for number in range(6)), strict=True)
        return [
            "" if unsaid < UNSAID else spoken(seen, self.sprites.category[seen.name], rest)
            for seen, (unsaid, *rest) in zip((self.scenes[row] for row in rows), dice, strict=True)
        ]


def edges(sprites: Sprites, scene: Scene) -> torch.Tensor:
    """Of the scene's picture, uint8 [height, width], 255 where there is one."""
    return torch.from_numpy(np.array(canny(draw(sprites, scene), *EDGES))[..., 0])
