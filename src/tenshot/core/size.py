"""The size of a picture or its latents: the height first, as tensors have it. Pillow has the width first."""

from __future__ import annotations

from typing import NamedTuple


class Size(NamedTuple):
    """In pixels, or in latents where that is said."""

    height: int
    width: int

    @classmethod
    def square(cls, side: int) -> Size:
        return cls(side, side)

    @classmethod
    def from_pillow(cls, size: tuple[int, int]) -> Size:
        width, height = size
        return cls(height, width)

    @property
    def pillow(self) -> tuple[int, int]:
        return self.width, self.height
