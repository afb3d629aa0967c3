"""What the text encoders say of captions, asked once: kept on disk by what it follows from, and in memory while few."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from tenshot.core.device import autocast
from tenshot.core.events import Events, track
from tenshot.families.base import Conditioning, flattened, joined, moved, nested
from tenshot.io import hashes
from tenshot.model.model import Model
from tenshot.train.data.latents_cache import TensorCache

LIMIT = 2_000_000_000  # bytes kept on disk
IN_MEMORY = 500_000_000  # bytes that a job keeps in memory
MOST = 2048  # texts worth keeping on disk: two megabytes each at the largest


class TextEmbeddingCache:
    """The text encoders' states of `base`, whose encoders stand still.

    cache: on disk, for what follows from the model's folder; not used where words were learned since.
    """

    def __init__(self, base: Model, cache: TensorCache | None = None) -> None:
        self.base = base
        self.cache = cache if not base.placeholder_tokens else None
        named = [part for part in base.parts if part.startswith(("text_encoder", "tokenizer"))]
        events = cache.events if cache else None
        self.encoders = [hashes.of_model(base.place, part, events) for part in named] if self.cache else []
        self.near: dict[str, Conditioning] = {}
        self.room = IN_MEMORY

    def of(self, texts: Sequence[str]) -> Conditioning:
        """What the denoiser is told of the texts of a batch, on the model's device."""
        return moved(joined(*map(self._one, texts)), self.base.device)

    def learn(self, said: Collection[str], events: Events) -> None:
        """Ask for all of them now, where they are few enough to be kept."""
        if self.cache is None or len(said) > MOST:
            return
        for text in track(sorted(said), "encoding captions", len(said), events):
            self._one(text)
        names = set(map(self._key, said))
        for name in names:
            self.cache.use(name)
        self.cache.trim(names)

    def _one(self, text: str) -> Conditioning:
        if text not in self.near:
            found = self._kept(text)
            self.room -= _bytes(found)
            if self.room < 0:
                self.near, self.room = {}, IN_MEMORY - _bytes(found)
            self.near[text] = found
        return self.near[text]

    def _kept(self, text: str) -> Conditioning:
        if self.cache is None:
            return self._asked(text)
        name = self._key(text)
        found = self.cache.read(name)
        if found is None:
            found = flattened(self._asked(text))
            self.cache.write(name, found)
        return nested(found)

    def _key(self, text: str) -> str:
        return hashes.of_values(repr(text), *self.encoders)

    @torch.no_grad()
    def _asked(self, text: str) -> Conditioning:
        with autocast(self.base.device, "no"):  # it may be asked for in the middle of a training step
            return moved(self.base.encode_prompt([text]), "cpu")


def _bytes(conditioning: Conditioning) -> int:
    return sum(tensor.nbytes for tensor in flattened(conditioning).values())
