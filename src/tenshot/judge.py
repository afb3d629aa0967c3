"""The offline judge of pictures: a CLIP-like pair that says how alike pictures are, and how well they fit words.

Likeness, prompt likeness, PRES and DIV follow DreamBooth (arXiv 2208.12242) with the judge's features in the place of
DINO, CLIP and LPIPS; so figures compare only with the rows beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from tenshot.families.family import tokens
from tenshot.files import tensors
from tenshot.files.pictures import as_tensor, fit_picture
from tenshot.model import ASSETS


@dataclass(frozen=True)
class Judge:
    """net: the pair. tokenizer: for its words."""

    net: CLIPModel
    tokenizer: CLIPTokenizer

    @torch.inference_mode()
    def see(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Unit features of pictures, [pictures, width]."""
        side = self.net.config.vision_config.image_size
        pixels = torch.stack([as_tensor(fit_picture(image.convert("RGB"), side)) for image in images])
        out = self.net.vision_model(pixel_values=pixels).pooler_output
        return F.normalize(self.net.visual_projection(out), dim=-1)

    @torch.inference_mode()
    def read(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit features of texts, [texts, width]."""
        out = self.net.text_model(tokens(self.tokenizer, texts)).pooler_output
        return F.normalize(self.net.text_projection(out), dim=-1)

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


def load(place: Path = ASSETS / "judge", words: Path = ASSETS / "pocket") -> Judge:
    """The judge that ships with Tenshot: its picture tower, and the pocket model's text encoder it was trained with."""
    net = CLIPModel(CLIPConfig(**tensors.read_json(place / "config.json")))
    own = tensors.read(place / "model.safetensors")
    text = tensors.read(words / "text_encoder" / "model.safetensors")
    net.load_state_dict({name: tensor.float() for name, tensor in (own | text).items()})
    tokenizer: Any = CLIPTokenizer.from_pretrained(words / "tokenizer")
    return Judge(net.eval(), tokenizer)
