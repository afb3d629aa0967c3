"""A prompt of any length as chunks that a text encoder can read, with the weight of every token.

As WebUI does it (wiki/Features, "Infinite prompt length"): chunks of 75 tokens, each between its own start and end; one
that would end within a phrase ends at the last comma before, if that is near.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from tenshot.prompt.syntax import Piece

NEAR = 20  # tokens that may move to the next chunk, so that a phrase stays whole


@dataclass(frozen=True)
class Vocabulary:
    """What a tokenizer says. encode: a text -> its tokens alone. start, end, pad, comma: tokens. length: of a chunk,
    with start and end. whole: first token -> how many belong together, of words that were learned."""

    encode: Callable[[str], Sequence[int]]
    start: int
    end: int
    pad: int
    comma: int | None
    length: int = 77
    whole: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Chunks:
    """ids: int64 [prompts, chunks, length]. weights: of the tokens, float32 alike; None: 1 for all of them.

    restore_mean: after weighing, the mean of each chunk's states is made what it was.
    """

    ids: torch.Tensor
    weights: torch.Tensor | None = None
    restore_mean: bool = True


def chunked(
    sections: Sequence[Sequence[Piece]], vocabulary: Vocabulary, restore_mean: bool = True, least: int = 1
) -> Chunks:
    """One prompt's sections (between BREAKs) as chunks; every section but the last fills its chunk up.

    A BREAK at the end begins no chunk. least: that many chunks, the further ones empty.
    """
    rows = [row for section in sections for row in _rows(section, vocabulary)]
    rows = rows[:-1] if len(rows) > 1 and not rows[-1] else rows
    rows += [[] for _ in range(least - len(rows))]
    ids = torch.tensor([_filled([token for token, _ in row], vocabulary) for row in rows])
    tail = [1.0] * vocabulary.length
    weights = torch.tensor([[1.0, *(weight for _, weight in row), *tail][: vocabulary.length] for row in rows])
    return Chunks(ids[None], weights[None] if (weights != 1).any() else None, restore_mean)


_Row = list[tuple[int, float]]  # tokens and their weights


def _rows(section: Sequence[Piece], vocabulary: Vocabulary) -> list[_Row]:
    room = vocabulary.length - 2
    rows: list[_Row] = []
    row: _Row = []
    comma: int | None = None  # where the last one stands in the row
    for word in _words(section, vocabulary):
        token = word[0][0]
        if token == vocabulary.comma:
            comma = len(row)
        elif len(row) == room and comma is not None and len(row) - comma <= NEAR:
            rows.append(row[: comma + 1])
            row, comma = row[comma + 1 :], None
        if len(row) + len(word) > room:
            rows.append(row)
            row, comma = [], None
        row += word
    return [*rows, row]


def _words(section: Sequence[Piece], vocabulary: Vocabulary) -> list[_Row]:
    """The tokens, those that belong together in one list."""
    words: list[_Row] = []
    for piece in section:
        tokens = list(vocabulary.encode(piece.text))
        at = 0
        while at < len(tokens):
            count = vocabulary.whole.get(tokens[at], 1)
            words.append([(token, piece.weight) for token in tokens[at : at + count]])
            at += count
    return words


def _filled(tokens: Sequence[int], vocabulary: Vocabulary) -> list[int]:
    full = [vocabulary.start, *tokens, vocabulary.end]
    return full + [vocabulary.pad] * (vocabulary.length - len(full))


def emphasised(states: torch.Tensor, chunks: Chunks) -> torch.Tensor:
    """The encoder's states [prompts, chunks, length, width], each times its token's weight.

    Then scaled so that the mean of each chunk is what it was ("Original" in WebUI), or not ("No norm").
    """
    if chunks.weights is None:
        return states
    weighed = states * chunks.weights.to(states)[..., None]
    if chunks.restore_mean:
        before, after = (each.float().mean((2, 3), keepdim=True) for each in (states, weighed))
        weighed = (weighed * (before / after)).to(states.dtype)
    return weighed
