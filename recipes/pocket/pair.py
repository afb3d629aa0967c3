"""Stage 2: a contrastive pair (CLIP, arXiv 2103.00020). Its text tower will condition the UNet.

Then the text tower stands still and the picture tower learns on, against every caption at once (locked tuning,
arXiv 2111.07991): in a batch of 64 few captions differ in the concept alone, so colours would do to tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from recipes.pocket.autoencoder import as_tensor
from recipes.pocket.scenes import draw, every_sentence, frequent, known_nouns, spoken, true_sentences
from recipes.pocket.scenes import words as phrase
from recipes.pocket.sprites import SIZE, Sprites
from tenshot.device import generator, pick
from tenshot.judge import Pair
from tenshot.train.draws import Draws

TEXT = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 6}


class Contrast:
    """Pictures and captions of one batch find each other; equal captions are not set against each other."""

    def __init__(self, sprites: Sprites, tokenizer: CLIPTokenizer, seed: int) -> None:
        torch.manual_seed(seed)
        self.sprites = sprites
        self.tokenizer = tokenizer
        self.net = Pair(CLIPTextModel(_config(tokenizer))).to(pick())

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        return {"pair": self.net}

    def loss(self, draws: Draws) -> torch.Tensor:
        pictures, captions = self.examples(draws)
        where = self.net.sharpness.device
        ids = self.tokenizer(captions, padding=True, return_tensors="pt").input_ids.to(where)
        same = torch.tensor([[float(a == b) for b in captions] for a in captions], device=where)
        wanted = same / same.sum(1, keepdim=True)
        logits = self.net.sharpness.exp() * (self.net.see(pictures.to(where)) @ self.net.read(ids).T).float()
        return (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2

    def examples(self, draws: Draws) -> tuple[torch.Tensor, list[str]]:
        """Pictures [batch, 3, 128, 128] in [-1, 1], sometimes blurred or noisy, and captions.

        In most batches all scenes share style and background, so that only the concept tells them apart.
        """
        shared = torch.rand(3, generator=generator(draws.seed, "batch", draws.samples[0])).tolist()
        pictures, captions = [], []
        for sample in draws.samples:
            dice = torch.rand(13, generator=generator(draws.seed, "scene", sample)).tolist()
            if shared[2] < 0.7:
                dice[1:3] = shared[:2]
            seen = frequent(self.sprites, dice[:8])
            pictures.append(_worn(as_tensor(draw(self.sprites, seen)), dice[8:11]))
            captions.append(spoken(seen, self.sprites.category.get(seen.name), dice[11:]))
        return torch.stack(pictures), captions


class Locked:
    """Each picture finds one true caption among all captions of all concepts; the text tower's answers are a table."""

    def __init__(self, sprites: Sprites, tokenizer: CLIPTokenizer, words: CLIPTextModel, seed: int) -> None:
        torch.manual_seed(seed)
        self.sprites = sprites
        self.net = Pair(words.requires_grad_(False)).to(pick())
        nouns = {*known_nouns(sprites), *map(phrase, sprites.taught)}
        captions = every_sentence(sorted(nouns))
        self.place = {text: number for number, text in enumerate(captions)}
        self.table = _pooled(self.net, tokenizer, captions)

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        return {"pair": self.net}

    def loss(self, draws: Draws) -> torch.Tensor:
        pictures, wanted, also = [], [], []
        for row, sample in enumerate(draws.samples):
            dice = torch.rand(12, generator=generator(draws.seed, "scene", sample)).tolist()
            seen = frequent(self.sprites, dice[:8])
            pictures.append(_worn(as_tensor(draw(self.sprites, seen)), dice[8:11]))
            true = [self.place[t] for t in true_sentences(seen, self.sprites.category.get(seen.name))]
            wanted.append(true.pop(0 if dice[11] < 0.6 else int((dice[11] - 0.6) / 0.4 * len(true))))
            also += [(row, place) for place in true]
        where = self.table.device
        texts = F.normalize(self.net.from_words(self.table), dim=-1)
        logits = self.net.sharpness.exp() * (self.net.see(torch.stack(pictures).to(where)) @ texts.T).float()
        rows, places = torch.tensor(also, device=where).T
        # the other captions that are true are not held against it
        logits = logits.index_put((rows, places), logits.new_tensor(-1e4))
        return F.cross_entropy(logits, torch.tensor(wanted, device=where))


@torch.no_grad()
def _pooled(net: Pair, tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """What the text tower answers to each caption, before the projection: [captions, width]."""
    parts = [captions[start : start + 512] for start in range(0, len(captions), 512)]
    ids = [tokenizer(part, padding=True, return_tensors="pt").input_ids.to(net.sharpness.device) for part in parts]
    return torch.cat([net.words(part).pooler_output for part in ids])


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


def _config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        **TEXT,
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
