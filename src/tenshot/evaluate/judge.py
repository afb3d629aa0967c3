"""Judges of pictures: which of them show one subject, and which words fit them.

Likeness, prompt likeness, PRES and DIV follow DreamBooth (arXiv 2208.12242) with a judge's features in the place of its
nets. Figures compare only with those of the same judge.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from PIL import Image

Images = Sequence[Image.Image]


class Judge(ABC):
    """name: for reports. subject_measure, prompt_measure: what likeness to a subject, and to a prompt, is called.
    picture_measure: likeness of what pictures show; empty: it tells no more than that of subjects."""

    name: str
    subject_measure, prompt_measure, picture_measure = "subject likeness", "prompt likeness", ""

    @abstractmethod
    def see(self, images: Images) -> torch.Tensor:
        """Unit features of the pictures' subjects, [pictures, width]."""

    @abstractmethod
    def look(self, images: Images) -> torch.Tensor:
        """Unit features of what the pictures show, to be held against those of texts, [pictures, width]."""

    @abstractmethod
    def read(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit features of texts, [texts, width]; 0 of a text of which nothing is known."""

    def likeness(self, images: Images, others: Images) -> float:
        """Mean pairwise cosine between two sets of pictures."""
        return (self.see(images) @ self.see(others).T).mean().item()

    def likeness_within(self, images: Images) -> float:
        """Mean pairwise cosine between different pictures of one set; nan for fewer than two."""
        seen = self.see(images)
        pairs = torch.triu_indices(len(images), len(images), 1)
        return (seen[pairs[0]] * seen[pairs[1]]).sum(-1).mean().item()

    def prompt_likeness(self, images: Images, texts: Sequence[str]) -> float:
        """Mean cosine between each picture and its own text."""
        return (self.look(images) * self.read(texts)).sum(-1).mean().item()

    def diversity(self, images: Images) -> float:
        """1 - mean pairwise cosine: 0 where all pictures are one."""
        return 1 - self.likeness_within(images)

    def nearest(self, images: Images, texts: Sequence[str]) -> list[int]:
        """For each picture, which of `texts` fits best."""
        found: list[int] = (self.look(images) @ self.read(texts).T).argmax(-1).tolist()
        return found


def in_parts(images: Images, size: int = 64) -> list[Images]:
    return [images[start : start + size] for start in range(0, len(images), size)]
