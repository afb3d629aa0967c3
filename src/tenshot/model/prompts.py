"""What a model is told of a prompt in the prompt language: its tokens, their weights, and when which text is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tenshot.core.size import Size
from tenshot.families.base import Conditioning, MicroConditioning, Said, tokenizer_of
from tenshot.model.model import Model
from tenshot.prompt import syntax
from tenshot.prompt.chunks import Vocabulary, chunked
from tenshot.prompt.syntax import Emphasis, Piece

#: A text's conditioning, and the last evaluation of the denoiser, from 0 on, that it is for.
Scheduled: TypeAlias = Sequence[tuple[int, Conditioning]]


@dataclass(frozen=True)
class Reading:
    """How prompts are read, as AUTOMATIC1111 has it.

    emphasis: original: the mean of a chunk's states is restored after weighing; no_norm: it is not; none: brackets are
    letters. clip_skip: the layer of the text encoder whose states count, from the last one; heeded by SD1 alone.
    """

    emphasis: Emphasis = "original"
    clip_skip: int = 1


READING = Reading()


class Prompts:
    """Prompts for pictures of `size` that take `steps` steps; each text is encoded once, alone.

    before: the steps of an earlier pass over the same pictures.
    """

    def __init__(self, model: Model, size: Size, steps: int, reading: Reading, before: int = 0) -> None:
        self.model, self.size, self.steps, self.reading, self.before = model, size, steps, reading, before
        self.known: dict[tuple[str, bool], Conditioning] = {}

    def positive(self, prompt: str) -> list[tuple[float, Scheduled]]:
        """Those between ANDs, with their weights."""
        return [(each.weight, self._scheduled(each.text, False)) for each in syntax.composed(prompt)]

    def negative(self, prompt: str) -> Scheduled:
        return self._scheduled(prompt, True)

    def _scheduled(self, prompt: str, negative: bool) -> Scheduled:
        return [(last, self._one(text, negative)) for last, text in syntax.schedule(prompt, self.steps, self.before)]

    def _one(self, text: str, negative: bool) -> Conditioning:
        if (text, negative) not in self.known:
            self.known[text, negative] = self._encoded(text, negative)
        return self.known[text, negative]

    def _encoded(self, text: str, negative: bool) -> Conditioning:
        family, said = self.model.family, tokens(self.model, text, self.reading.emphasis)
        told = family.encode_tokens(self.model.parts, said, self.reading.clip_skip)
        told = family.micro_conditioned(told, [MicroConditioning.whole(self.size)])
        if negative and not text and self.model.force_zeros_for_empty_prompt and family.without_words:
            return family.without_words(told)
        return told


def tokens(model: Model, text: str, emphasis: Emphasis = "original") -> Said:
    """What each text encoder reads: CLIP's weighed, in as many chunks as it takes; T5 the words alone."""
    sections = [[Piece(text)]] if emphasis == "none" else syntax.emphasis(text)
    sections = [[Piece(model.expand_tokens(each.text), each.weight) for each in section] for section in sections]
    words = "".join(piece.text for section in sections for piece in section)
    restore = emphasis != "no_norm"
    clips = [part for part in model.family.encoders if part in model.parts]
    vocabularies = {part: _vocabulary(model, part) for part in clips}
    found = {part: chunked(sections, each, restore) for part, each in vocabularies.items()}
    most = max(each.ids.shape[1] for each in found.values())
    return {
        **model.family.tokenize(model.parts, [words]),
        **{part: chunked(sections, each, restore, most) for part, each in vocabularies.items()},
    }


def _vocabulary(model: Model, encoder: str) -> Vocabulary:
    tokenizer = model[tokenizer_of(encoder)]
    known: Mapping[str, int] = tokenizer.get_vocab()
    learned = [said.split() for said in model.placeholder_tokens.values()]
    return Vocabulary(
        lambda text: tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids,
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
        known.get(",</w>"),
        tokenizer.model_max_length,
        {known[first]: 1 + len(rest) for first, *rest in learned if first in known},
    )
