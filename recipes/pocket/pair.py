"""Stage 2: a contrastive pair (CLIP, arXiv 2103.00020): the text tower conditions, the picture tower judges."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTokenizer

from recipes.pocket.autoencoder import as_tensor
from recipes.pocket.scenes import draw, scene, spoken
from recipes.pocket.sprites import SIZE, Sprites
from tenshot.device import generator, pick
from tenshot.train.draws import Draws

WIDTH = 192
TEXT = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 4, "num_attention_heads": 6}
EYES = {"hidden_size": 160, "intermediate_size": 640, "num_hidden_layers": 6, "num_attention_heads": 5}
PATCH = 16


class Pair:
    """Pictures and captions of one batch find each other; equal captions are not set against each other."""

    def __init__(self, sprites: Sprites, tokenizer: CLIPTokenizer, seed: int) -> None:
        torch.manual_seed(seed)
        self.sprites = sprites
        self.tokenizer = tokenizer
        self.net = CLIPModel(_config(tokenizer)).to(pick())

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        return {"pair": self.net}

    def loss(self, draws: Draws) -> torch.Tensor:
        pictures, captions = self.examples(draws)
        tokens = self.tokenizer(captions, padding=True, return_tensors="pt").to(self.net.device)
        out = self.net(pixel_values=pictures.to(self.net.device), **tokens)
        same = torch.tensor([[float(a == b) for b in captions] for a in captions], device=self.net.device)
        wanted = same / same.sum(1, keepdim=True)
        logits = out.logits_per_text.float()
        return (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2

    def examples(self, draws: Draws) -> tuple[torch.Tensor, list[str]]:
        """Pictures [batch, 3, 128, 128] in [-1, 1], sometimes blurred or noisy, and captions."""
        pictures, captions = [], []
        for sample in draws.samples:
            dice = torch.rand(14, generator=generator(draws.seed, "scene", sample)).tolist()
            names = self.sprites.known if dice[8] < 0.6 else self.sprites.taught
            seen = scene(names, dice[:8])
            pictures.append(_worn(as_tensor(draw(self.sprites, seen)), dice[9:12]))
            captions.append(spoken(seen, self.sprites.category.get(seen.name), dice[12:]))
        return torch.stack(pictures), captions


def _worn(picture: torch.Tensor, dice: list[float]) -> torch.Tensor:
    """The picture as a generator might make it: blurred for half of them, noisy for a third."""
    if dice[0] < 0.5:
        side = int(SIZE * (0.35 + 0.6 * dice[1]))
        small = F.interpolate(picture[None], size=(side, side), mode="bilinear", antialias=True)
        picture = F.interpolate(small, size=(SIZE, SIZE), mode="bicubic")[0].clamp(-1, 1)
    if dice[2] < 0.33:
        noise = torch.randn(picture.shape, generator=generator(dice[2]))
        picture = (picture + 0.3 * dice[2] * noise).clamp(-1, 1)
    return picture


def _config(tokenizer: CLIPTokenizer) -> CLIPConfig:
    text = TEXT | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "projection_dim": WIDTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    eyes = EYES | {"image_size": SIZE, "patch_size": PATCH, "projection_dim": WIDTH}
    return CLIPConfig(text_config=text, vision_config=eyes, projection_dim=WIDTH)


def text_encoder(net: CLIPModel) -> CLIPTextModel:
    """The text tower as a Stable Diffusion folder holds it."""
    encoder = CLIPTextModel(net.config.text_config)
    wanted = encoder.state_dict()
    encoder.load_state_dict({name: net.state_dict()[f"text_model.{name}"] for name in wanted})
    return encoder.eval()
