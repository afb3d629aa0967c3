"""The offline judge of pictures: a CLIP-like pair that says how alike pictures are, and how well they fit words.

Likeness, prompt likeness, PRES and DIV follow DreamBooth (arXiv 2208.12242) with the judge's features in the place of
DINO, CLIP and LPIPS; so figures compare only with the rows beside them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.autoencoders.vae import Encoder
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from tenshot.families.base import tokens
from tenshot.io import tensors
from tenshot.io.images import as_tensor, fit_picture
from tenshot.model.model import ASSETS

PATCH = 4  # pixels a side that the picture tower takes in at once


class Pair(nn.Module):
    """Two towers that meet: pictures through a small convolutional net, words through a model's text encoder."""

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


@dataclass(frozen=True)
class Judge:
    """net: the pair. tokenizer: for its words."""

    net: Pair
    tokenizer: CLIPTokenizer

    @torch.inference_mode()
    def see(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Unit features of pictures, [pictures, width]."""
        return self.net.see(torch.stack([as_tensor(fit_picture(image, self.net.side)) for image in images]))

    @torch.inference_mode()
    def read(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit features of texts, [texts, width]."""
        return self.net.read(tokens(self.tokenizer, texts))

    def likeness(self, images: Sequence[Image.Image], others: Sequence[Image.Image]) -> float:
        """Mean pairwise cosine between two sets of pictures."""
        return (self.see(images) @ self.see(others).T).mean().item()

    def likeness_within(self, images: Sequence[Image.Image]) -> float:
        """Mean pairwise cosine between different pictures of one set; nan for fewer than two."""
        seen = self.see(images)
        pairs = torch.triu_indices(len(images), len(images), 1)
        return (seen[pairs[0]] * seen[pairs[1]]).sum(-1).mean().item()

    def prompt_likeness(self, images: Sequence[Image.Image], texts: Sequence[str]) -> float:
        """Mean cosine between each picture and its own text."""
        return (self.see(images) * self.read(texts)).sum(-1).mean().item()

    def diversity(self, images: Sequence[Image.Image]) -> float:
        """1 - mean pairwise cosine: 0 where all pictures are one."""
        return 1 - self.likeness_within(images)

    def nearest(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[int]:
        """For each picture, which of `texts` fits best."""
        return (self.see(images) @ self.read(texts).T).argmax(-1).tolist()


def load(place: Path = ASSETS / "judge", folder: Path = ASSETS / "pocket", side: int = 64, width: int = 192) -> Judge:
    """The judge that ships with Tenshot.

    place: holds its picture tower and projections; folder: the model whose text encoder it was trained with.
    """
    words = CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32)
    net = Pair(words, side, width)
    own = tensors.read(place / "model.safetensors")
    text = {f"words.{name}": tensor for name, tensor in words.state_dict().items()}
    net.load_state_dict(own | text)
    return Judge(net.eval(), CLIPTokenizer.from_pretrained(folder / "tokenizer"))
