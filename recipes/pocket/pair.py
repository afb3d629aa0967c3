"""Stage 2: a contrastive pair (CLIP, arXiv 2103.00020), whose text tower will condition the UNet.

Every picture meets captions that differ from its own in one thing only: the concept, the colour or the style. Where
captions differ in everything at once, only the easiest is learned, and the words for the rest end up alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from diffusers.models.autoencoders.vae import Encoder
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from recipes.pocket.autoencoder import as_tensor
from recipes.pocket.scenes import ATTRIBUTES, DICE, Scene, caption, draw, frequent, spoken
from recipes.pocket.sprites import STYLES, Sprites
from tenshot.core.device import generator, pick
from tenshot.evaluate.metrics import COLOURS
from tenshot.evaluate.pocket_judge import PATCH
from tenshot.train.engine import loop
from tenshot.train.engine.rng import CounterRNG

TEXT = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 6}
ALIKE = 0.7  # share of batches in one style on one background
OTHERS = 48  # captions of further known concepts that are added to such a batch
KNOWN = 0.8  # share of pictures that show a concept the UNet will know


class Pair(nn.Module):
    """Two towers that meet: pictures through a small convolutional net, words through the text encoder."""

    def __init__(self, words: CLIPTextModel, side: int = 64, width: int = 192) -> None:
        """side: pixels of the square pictures it sees. width: of the features both towers give."""
        super().__init__()
        self.side = side
        self.eye = Encoder(
            in_channels=3 * PATCH**2,
            out_channels=width,
            down_block_types=("DownEncoderBlock2D",) * 3,
            block_out_channels=(64, 96, 160),
            layers_per_block=1,
            norm_num_groups=8,
            double_z=False,
        )
        self.words = words
        self.from_eye = nn.Linear(width, width, bias=False)
        self.from_words = nn.Linear(words.config.hidden_size, width, bias=False)
        self.sharpness = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def see(self, pixels: torch.Tensor) -> torch.Tensor:
        """Unit features [batch, width] of pictures [batch, 3, side, side] in [-1, 1]."""
        seen = self.eye(F.pixel_unshuffle(pixels, PATCH)).mean((2, 3))
        return F.normalize(self.from_eye(seen), dim=-1)

    def read(self, ids: torch.Tensor) -> torch.Tensor:
        """Unit features [batch, width] of token numbers [batch, length]."""
        return F.normalize(self.from_words(self.words(ids).pooler_output), dim=-1)


class Contrast(loop.TrainingTask):
    """Each picture finds its caption among all captions of the batch, each caption its pictures."""

    def __init__(self, sprites: Sprites, tokenizer: CLIPTokenizer, seed: int) -> None:
        torch.manual_seed(seed)
        self.sprites = sprites
        self.tokenizer = tokenizer
        self.net = Pair(CLIPTextModel(_config(tokenizer))).to(pick())

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        return {"pair": self.net}

    def loss(self, draws: CounterRNG) -> torch.Tensor:
        pictures, captions, others = self.examples(draws)
        texts = list(dict.fromkeys([*captions, *others]))
        where = self.net.sharpness.device
        ids = self.tokenizer(texts, padding=True, return_tensors="pt").input_ids.to(where)
        logits = self.net.sharpness.exp() * (self.net.see(pictures.to(where)) @ self.net.read(ids).T).float()
        own = torch.tensor([texts.index(text) for text in captions], device=where)
        shows = F.one_hot(own, len(texts)).T[: len(set(captions))].float()  # [captions, pictures]
        from_text = F.cross_entropy(logits.T[: len(shows)], shows / shows.sum(1, keepdim=True))
        return (F.cross_entropy(logits, own) + from_text) / 2

    def examples(self, draws: CounterRNG) -> tuple[torch.Tensor, list[str], list[str]]:
        """Pictures [batch, 3, side, side] in [-1, 1], sometimes blurred or noisy; their captions; other captions."""
        kind, *shared = torch.rand(3, generator=generator(draws.seed, "batch", draws.samples[0])).tolist()
        alike = kind < ALIKE
        pictures, captions, others = [], [], []
        for sample in draws.samples:
            dice = torch.rand(DICE + 11, generator=generator(draws.seed, "scene", sample)).tolist()
            if alike:
                dice[12:14] = shared
            seen = frequent(self.sprites, dice[10:], KNOWN)
            pictures.append(worn(self.small(seen), dice[:3]))
            said = caption(seen) if alike else spoken(seen, self.sprites.category.get(seen.name), dice[3:8])
            captions.append(said)
            others.append(_twin(seen, dice[8:10]))
        return torch.stack(pictures), captions, others + (self.others(draws, shared) if alike else [])

    def small(self, seen: Scene) -> torch.Tensor:
        picture = draw(self.sprites, seen)
        return as_tensor(picture.reduce(picture.width // self.net.side))

    def others(self, draws: CounterRNG, shared: list[float]) -> list[str]:
        """Captions of OTHERS known concepts in one style on one background, by two numbers in [0, 1)."""
        order = torch.randperm(len(self.sprites.known), generator=generator(draws.seed, "others", draws.samples[0]))
        style, colour = STYLES[int(shared[0] * len(STYLES))], list(COLOURS)[int(shared[1] * len(COLOURS))]
        return [caption(Scene(self.sprites.known[name], style, colour)) for name in order[:OTHERS].tolist()]


def _twin(seen: Scene, dice: Sequence[float]) -> str:
    """The caption of another scene, by two numbers in [0, 1): in another style or colour, or without its attributes."""
    if dice[0] < 0.25:
        return caption(replace(seen, style=next(style for style in STYLES if style != seen.style)))
    if dice[0] < 0.4:
        return caption(replace(seen, attributes=() if seen.attributes else (ATTRIBUTES[int(dice[1] * 3)],)))
    colours = [colour for colour in COLOURS if colour != seen.colour]
    return caption(replace(seen, colour=colours[int(dice[1] * len(colours))]))


def worn(picture: torch.Tensor, dice: Sequence[float]) -> torch.Tensor:
    """The picture as a generator might make it: blurred for half of them, noisy for a third."""
    side = picture.shape[-1]
    if dice[0] < 0.5:
        fewer = int(side * (0.5 + 0.5 * dice[1]))
        small = F.interpolate(picture[None], size=(fewer, fewer), mode="bilinear", antialias=True)
        picture = F.interpolate(small, size=(side, side), mode="bicubic")[0].clamp(-1, 1)
    if dice[2] < 0.33:
        noise = torch.randn(picture.shape, generator=generator(dice[2]))
        picture = (picture + 0.3 * dice[2] * noise).clamp(-1, 1)
    return picture


def _config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        **TEXT,
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
