"""The judge that ships: a net of its own, trained apart (recipes/pocket/judge.py). It shares no weight with any model
that it judges, and knows the pocket model's world: emoji, in two styles, on ten colours."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers.models.autoencoders.vae import Encoder
from torch import nn
from torch.nn import functional as F

from tenshot.core.shipped import ASSETS
from tenshot.evaluate.judge import Images, Judge, in_parts
from tenshot.io import hashes, tensors, text_files
from tenshot.io.images import as_tensor, fit_picture

SIDE = 64  # pixels of the square pictures it sees
PATCH = 4  # pixels a side that the picture tower takes in at once
WIDTH = 128  # of all features


class JudgeNet(nn.Module):
    """A small convolutional net with two heads: one tells subjects apart, the other meets words.

    A text is the sum of the vectors of its words, whatever their order: what a colour's word says cannot depend on the
    noun beside it.
    """

    def __init__(
        self, words: int, side: int = SIDE, width: int = WIDTH, channels: Sequence[int] = (56, 88, 144)
    ) -> None:
        """words: how many it knows. side: pixels of the pictures. width: of the features that both heads give."""
        super().__init__()
        self.side = side
        self.tower = Encoder(
            in_channels=3 * PATCH**2,
            out_channels=width,
            down_block_types=("DownEncoderBlock2D",) * 3,
            block_out_channels=(48, 72, 120),
            layers_per_block=1,
            norm_num_groups=8,
            double_z=False,
        )
        self.subject = nn.Linear(width, width, bias=False)
        self.content = nn.Linear(width, width, bias=False)
        self.words = nn.Embedding(words, width)

    def see(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit features of pictures [batch, 3, side, side] in [-1, 1]: of the subject and of the content, both [batch,
        width]."""
        seen = self.tower(F.pixel_unshuffle(pixels, PATCH)).mean((2, 3))
        return F.normalize(self.subject(seen), dim=-1), F.normalize(self.content(seen), dim=-1)

    def read(self, counts: torch.Tensor) -> torch.Tensor:
        """Unit features [batch, width] of texts, given as how often they hold each word, [batch, words]."""
        return F.normalize(counts @ self.words.weight, dim=-1)


class PocketJudge(Judge):
    """words: those it knows, and their numbers; others count for nothing."""

    name = "the judge that ships"

    def __init__(self, net: JudgeNet, words: Mapping[str, int]) -> None:
        self.net, self.words = net, words

    def see(self, images: Images) -> torch.Tensor:
        return self._seen(images)[0]

    def look(self, images: Images) -> torch.Tensor:
        return self._seen(images)[1]

    @torch.inference_mode()
    def read(self, texts: Sequence[str]) -> torch.Tensor:
        return self.net.read(counted(texts, self.words))

    @torch.inference_mode()
    def _seen(self, images: Images) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = [torch.stack([as_tensor(fit_picture(image, self.net.side)) for image in p]) for p in in_parts(images)]
        subjects, contents = zip(*map(self.net.see, pixels), strict=True)
        return torch.cat(subjects), torch.cat(contents)


def counted(texts: Sequence[str], words: Mapping[str, int]) -> torch.Tensor:
    """How often each text holds each word, [texts, words]."""
    counts = torch.zeros(len(texts), len(words))
    for row, text in enumerate(texts):
        for word in split(text):
            if word in words:
                counts[row, words[word]] += 1
    return counts


def split(text: str) -> list[str]:
    """The words of a text, in small letters."""
    return re.findall(r"[a-z0-9]+", text.lower())


def fits(place: Path) -> bool:
    """Does the judge know what the model in this folder draws? A fine-tune of pocket has the VAE of pocket."""
    return hashes.of_model(place, "vae") == hashes.of_model(ASSETS / "pocket", "vae")


def load(folder: Path = ASSETS / "judge", side: int = SIDE) -> PocketJudge:
    """The judge that ships with Tenshot, from its folder: its weights, and its words in the order of their vectors.

    side: pixels of the pictures that it was trained on.
    """
    words = text_files.text(folder / "words.txt", "the words that the judge knows", 100_000).split()
    weights = tensors.read(folder / "model.safetensors")
    net = JudgeNet(len(words), side, width=weights["subject.weight"].shape[0])
    net.load_state_dict(weights)
    return PocketJudge(net.eval(), {word: number for number, word in enumerate(words)})
