"""What is said of pictures: their captions as they are, left out now and then, or with their parts mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from tenshot.train.engine.rng import CounterRNG

MOST_PARTS = 256  # of a caption that are mixed


class CaptionSource(Protocol):
    """What is said of pictures."""

    def of(self, rows: Sequence[int], rng: CounterRNG) -> list[str]:
        """The captions of one batch."""
        ...

    def possible(self, row: int) -> set[str] | None:
        """All that may be said of one; None where there is no end to it."""
        ...


@dataclass(frozen=True)
class Captions:
    """What is said of each row. empty: the share left out. tags: mix the comma-separated parts but the first `keep`."""

    texts: Sequence[str]
    empty: float = 0.0
    tags: bool = False
    keep: int = 1

    def of(self, rows: Sequence[int], rng: CounterRNG) -> list[str]:
        texts = [self.texts[row] for row in rows]
        if self.tags:
            dice = rng.noise("tag order", (MOST_PARTS,))
            texts = [self._mixed(text, row) for text, row in zip(texts, dice, strict=True)]
        if self.empty:
            chances = rng.uniform("empty caption").tolist()
            texts = ["" if chance < self.empty else text for text, chance in zip(texts, chances, strict=True)]
        return texts

    def possible(self, row: int) -> set[str] | None:
        return None if self.tags else {self.texts[row], *([""] if self.empty else [])}

    def mixable(self, row: int) -> bool:
        """Has its caption parts that may change places?"""
        return len(self.texts[row].split(",")) > self.keep + 1

    def _mixed(self, text: str, dice: torch.Tensor) -> str:
        parts = [part.strip() for part in text.split(",")]
        rest = parts[self.keep :][:MOST_PARTS]
        order = dice[: len(rest)].argsort().tolist()
        return ", ".join([*parts[: self.keep], *(rest[place] for place in order)])
