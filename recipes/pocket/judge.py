"""The judge: a net of its own that shares nothing with the model. It has two aims at once.

*Subjects*: the pictures of each of all emoji that training may see, turned, mirrored, resized, partly hidden, in other
light and in both styles, come together and away from those of the others (CosFace, arXiv 1801.09414), so that subjects
that it never saw fall apart, too.

*Words*: pictures of the known concepts meet the sum of the vectors of their captions' words (CLIP, arXiv 2103.00020).
Each also meets captions that differ from its own in one thing only: the colour, the style, an attribute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from recipes.pocket.autoencoder import as_tensor
from recipes.pocket.pair import worn
from recipes.pocket.scenes import ATTRIBUTES, DICE, MEDIA, Scene, caption, draw, scene, sentence, varied, words
from recipes.pocket.sprites import STYLES, Sprites
from tenshot.core.device import generator, pick
from tenshot.evaluate.judge import Judge
from tenshot.evaluate.metrics import COLOURS
from tenshot.evaluate.pocket_judge import JudgeNet, counted, split
from tenshot.train.engine import loop
from tenshot.train.engine.rng import CounterRNG

MARGIN, SCALE = 0.2, 24.0  # of the cosine softmax over subjects
SHARPNESS = 1 / 0.05  # of the contrast with captions
KNOWN = 0.5  # share of pictures that show a concept with words


class Judging(loop.TrainingTask):
    """The sum of both losses on one batch of scenes."""

    def __init__(self, sprites: Sprites, seed: int) -> None:
        torch.manual_seed(seed)
        self.sprites = sprites
        self.words = vocabulary(sprites)
        self.net = JudgeNet(len(self.words)).to(pick())
        self.subjects = nn.Linear(self.net.subject.out_features, len(sprites.taught), bias=False).to(pick())
        self.kinds = sorted({sprites.category[name] for name in sprites.known})
        self.numbers = {name: number for number, name in enumerate(sprites.taught)}

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        return {"judge": self.net, "subjects": self.subjects}

    def loss(self, draws: CounterRNG) -> torch.Tensor:
        pictures, seen = self.examples(draws)
        where = self.subjects.weight.device
        subjects, contents = self.net.see(pictures.to(where))
        own = torch.tensor([self.numbers[each.name] for each in seen], device=where)
        cosines = (subjects @ F.normalize(self.subjects.weight, dim=-1).T).float()
        told = F.cross_entropy(SCALE * (cosines - MARGIN * F.one_hot(own, cosines.shape[1])), own)
        return told + self.contrast(contents, seen, draws)

    def contrast(self, contents: torch.Tensor, seen: Sequence[Scene], draws: CounterRNG) -> torch.Tensor:
        """Cross entropy of the pictures with words: among the captions of all of them and their twins, and among the
        categories, said of the same style and background."""
        known = [number for number, each in enumerate(seen) if each.name in self.sprites.category]
        shown = [seen[number] for number in known]
        dice = (torch.rand(3, generator=generator(draws.seed, "twin", draws.samples[n])).tolist() for n in known)
        twins = [caption(_twin(each, own)) for each, own in zip(shown, dice, strict=True)]
        texts = list(dict.fromkeys([*map(caption, shown), *twins]))
        own = torch.tensor([texts.index(caption(each)) for each in shown])
        among = torch.tensor([self.kinds.index(self.sprites.category[each.name]) for each in shown])
        kinds = [caption(replace(each, name=kind, attributes=())) for each in shown for kind in self.kinds]
        to_kinds = self.read(kinds).unflatten(0, (len(shown), -1))
        pictures = contents[known].float()
        told = F.cross_entropy(SHARPNESS * pictures @ self.read(texts).T, own.to(pictures.device))
        sorts = F.cross_entropy(SHARPNESS * (to_kinds @ pictures[:, :, None])[..., 0], among.to(pictures.device))
        return told + 0.5 * sorts

    def read(self, texts: Sequence[str]) -> torch.Tensor:
        return self.net.read(counted(texts, self.words).to(self.net.words.weight.device)).float()

    def examples(self, draws: CounterRNG) -> tuple[torch.Tensor, list[Scene]]:
        """Pictures [batch, 3, side, side] in [-1, 1] as a generator or another camera might make them; their scenes."""
        pictures, scenes = [], []
        for sample in draws.samples:
            kind, plain, *dice = torch.rand(DICE + 12, generator=generator(draws.seed, "scene", sample)).tolist()
            names = self.sprites.known if kind < KNOWN else self.sprites.taught
            seen = scene(names, dice[10:], 0.7)
            as_said = plain < 0.3 or seen.attributes  # another size or angle would make a lie of it
            drawn = draw(self.sprites, seen if as_said else varied(seen, dice[:7]))
            pictures.append(worn(as_tensor(drawn.reduce(drawn.width // self.net.side)), dice[7:10]))
            scenes.append(seen)
        return torch.stack(pictures), scenes


def vocabulary(sprites: Sprites) -> dict[str, int]:
    """The words of all captions of the known concepts, and their numbers."""
    said = [*map(words, sprites.known), *set(sprites.category.values()), *ATTRIBUTES, *MEDIA.values(), "photo", "style"]
    found = sorted({word for text in (*said, *(sentence("cat", "photo", c) for c in COLOURS)) for word in split(text)})
    return {word: number for number, word in enumerate(found)}


def _twin(seen: Scene, dice: Sequence[float]) -> Scene:
    """Another scene by three numbers in [0, 1): in another colour or style, or with other attributes."""
    if dice[0] < 0.3:
        return replace(seen, style=next(style for style in STYLES if style != seen.style))
    if dice[0] < 0.5:
        others = [each for each in ((), *combinations(ATTRIBUTES, 1)) if each != seen.attributes]
        return replace(seen, attributes=others[int(dice[1] * len(others))])
    colours = [colour for colour in COLOURS if colour != seen.colour]
    return replace(seen, colour=colours[int(dice[2] * len(colours))])


def held_out(sprites: Sprites, judge: Judge, pictures: int = 10) -> float:
    """Of pictures of the subjects that were kept out, the share nearest in the mean to its own subject's others."""
    features = []
    for name in sprites.kept_out:
        made = [_posed(sprites, name, number) for number in range(pictures)]
        features.append(judge.see(made))
    seen = torch.stack(features)  # [subjects, pictures, width]
    cosines = torch.einsum("apw,bqw->apbq", seen, seen)  # of every picture and every picture
    means = cosines.mean(-1)
    for subject in range(len(seen)):
        own = cosines[subject, :, subject]
        means[subject, :, subject] = (own.sum(-1) - own.diagonal()) / (pictures - 1)
    right = means.argmax(-1) == torch.arange(len(seen))[:, None]
    return right.float().mean().item()


def _posed(sprites: Sprites, name: str, number: int) -> Image.Image:
    dice = torch.rand(DICE + 7, generator=generator("judge", name, number)).tolist()
    return draw(sprites, varied(scene([name], dice[7:]), dice[:7]))
