"""The language of prompts: emphasis, BREAK, prompt editing, AND, and extra networks.

(word) (word:1.3) [word] \\( \\): how much words count, 1.1 times, 1.3 times, 1/1.1 times; the brackets themselves.
BREAK: begins another chunk of 75 tokens.
[from:to:when] [to:when] [from::when]: another text after some steps, or after a share of them.
[a|b]: a and b in turns, step by step.
a cat AND a dog :0.5: several prompts at once, each with its weight.
<lora:name:0.8>: a LoRA by its file's name.

Rules as documented at https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features (1.10). What is not closed,
or closes nothing, is read as there: an open bracket counts to the end, a closing one is a letter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal, TypeAlias

ROUND, SQUARE = 1.1, 1 / 1.1  # what brackets do
Emphasis: TypeAlias = Literal["original", "no_norm", "none"]
DEEPEST = 30  # brackets within brackets that change from step to step


@dataclass(frozen=True)
class Piece:
    """A part of a prompt, and how much its tokens count."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class LoraTag:
    """<lora:name:unet> or <lora:name:text_encoder:unet>, as WebUI orders them; te= and unet= by name."""

    name: str
    text_encoder: float = 1.0
    denoiser: float = 1.0


_MARK = re.compile(r"\\(.?)|([(\[])|:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)|([)\]])|[^\\()\[\]:]+|:", re.DOTALL)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


def emphasis(prompt: str) -> list[list[Piece]]:
    """The prompt's pieces, in one list from BREAK to BREAK; neighbours of one weight are one piece."""
    import numpy as np

    texts: list[str | None] = []  # None: BREAK
    spans: list[tuple[int, int, float]] = []  # from piece, to piece, factor; in the order of their ends
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(bracket: str, factor: float) -> None:
        spans.append((opened[bracket].pop(), len(texts), factor))

    for mark in _MARK.finditer(prompt):
        escaped, opening, weight, closing = mark.groups()
        if escaped is not None:
            texts.append(escaped or "\\")
        elif opening:
            opened[opening].append(len(texts))
        elif weight is not None and opened["("]:
            close("(", float(weight))
        elif closing == ")" and opened["("]:
            close("(", ROUND)
        elif closing == "]" and opened["["]:
            close("[", SQUARE)
        else:
            for number, text in enumerate(_BREAK.split(mark[0])):
                texts += [None, text] if number else [text]
    for bracket, factor in (("(", ROUND), ("[", SQUARE)):
        for start in opened[bracket]:
            spans.append((start, len(texts), factor))
    weights = np.ones(len(texts))
    for start, end, factor in spans:
        weights[start:end] *= factor
    return list(_sections(texts, weights.tolist()))


def _sections(texts: Sequence[str | None], weights: Sequence[float]) -> Iterator[list[Piece]]:
    section: list[Piece] = []
    for text, weight in zip(texts, weights, strict=True):
        if text is None:
            yield section
            section = []
        elif text and section and section[-1].weight == weight:
            section[-1] = Piece(section[-1].text + text, weight)
        elif text:
            section.append(Piece(text, weight))
    yield section


_AND = re.compile(r"\bAND\b")
_WEIGHTED = re.compile(r"(.*?)(?:\s*:\s*([-+]?(?:\d+\.?\d*|\.\d+)))?\s*", re.DOTALL)


def heaviest(prompt: str) -> float:
    """The largest of all weights in it, whatever its sign."""
    weights = [each.weight for each in composed(prompt)]
    if "(" in prompt or "[" in prompt:
        weights += [piece.weight for section in emphasis(prompt) for piece in section]
    return max(map(abs, weights))


def composed(prompt: str) -> list[Piece]:
    """The prompts between ANDs, each with its weight (Liu et al., arXiv 2206.01714)."""
    found = (_WEIGHTED.fullmatch(part) for part in _AND.split(prompt))
    return [Piece(each[1], float(each[2] or 1)) for each in found if each]


def schedule(prompt: str, steps: int, before: int = 0) -> list[tuple[int, str]]:
    """What is said until which step, [(last step, text)]: the last one is `steps`.

    before: the steps of an earlier pass over the same picture; whole numbers in the prompt count on from there, and
    shares (0.4) mean this pass from 1 on: 1.4.
    """
    parts = _read(prompt)
    said = [(step, "".join(_spoken(parts, step, steps, before))) for step in range(1, steps + 1)]
    return [([step for step, _ in group][-1], text) for text, group in groupby(said, key=lambda each: each[1])]


@dataclass(frozen=True)
class _Edited:
    """[before:after:when]."""

    before: Sequence[_Part]
    after: Sequence[_Part]
    when: str


@dataclass(frozen=True)
class _Turns:
    """[a|b]."""

    options: Sequence[Sequence[_Part]]


_Part = str | _Edited | _Turns
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*", re.IGNORECASE)


def _spoken(parts: Sequence[_Part], step: int, steps: int, before: int) -> Iterator[str]:
    """The text of one step, counted from 1."""
    for part in parts:
        if isinstance(part, str):
            yield part
        elif isinstance(part, _Turns):
            yield from _spoken(part.options[(step - 1) % len(part.options)], step, steps, before)
        else:
            share = "." in part.when
            last = (float(part.when) - bool(before)) * steps if share else float(part.when) - before
            last = int(max(-1, min(last, steps)))  # it may be infinite
            yield from _spoken(part.before if step <= last else part.after, step, steps, before)


def _read(text: str) -> list[_Part]:
    """The text, and what in it changes from step to step."""
    return _parts(text, 0, len(text), _pairs(text), DEEPEST)


def _parts(text: str, start: int, end: int, pairs: Mapping[int, int], levels: int) -> list[_Part]:
    parts: list[_Part] = []
    at = start
    while at < end:
        close = pairs.get(at, 0) if text[at] == "[" and levels else 0
        if close and (edited := _bracket(text, at + 1, close, pairs, levels - 1)):
            parts.append(edited)
            at = close + 1
        else:
            length = 2 if text[at] == "\\" else 1
            parts.append(text[at : at + length])
            at += length
    return parts


def _bracket(text: str, start: int, end: int, pairs: Mapping[int, int], levels: int) -> _Edited | _Turns | None:
    """What a square bracket says, where it is no emphasis."""
    bars, colons = (_found(text, start, end, sign, pairs) for sign in "|:")
    if bars and not colons:
        edges = pairwise([start - 1, *bars, end])
        return _Turns([_parts(text, left + 1, right, pairs, levels) for left, right in edges])
    if bars or len(colons) not in (1, 2) or not _NUMBER.fullmatch(when := text[colons[-1] + 1 : end]):
        return None
    before, after = (start, colons[0]), (colons[0] + 1, colons[-1])
    if len(colons) == 1:
        before, after = (start, start), before
    return _Edited(_parts(text, *before, pairs, levels), _parts(text, *after, pairs, levels), when.strip())


def _pairs(text: str) -> dict[int, int]:
    """Where each bracket closes that is closed in the right order; what is escaped is none."""
    pairs, opened = {}, []
    for match in re.finditer(r"\\.|[(\[)\]]", text, re.DOTALL):
        if match[0] in ("(", "["):
            opened.append(match.start())
        elif match[0] in (")", "]") and opened:
            if text[opened[-1]] + match[0] in ("()", "[]"):
                pairs[opened.pop()] = match.start()
            else:
                opened.clear()
    return pairs


def _found(text: str, start: int, end: int, sign: str, pairs: Mapping[int, int]) -> list[int]:
    """Where `sign` stands in no further bracket."""
    found, at = [], start
    while at < end:
        if text[at] == sign:
            found.append(at)
        at = pairs[at] + 1 if at in pairs else at + (2 if text[at] == "\\" else 1)
    return found


_TAG = re.compile(r"<(\w+):([^<>]*)>")
_LORA = ("lora", "lyco")
STRENGTHS = {"te": "text_encoder", "unet": "denoiser"}  #: what WebUI calls them, in its order


def without_loras(prompt: str) -> tuple[str, list[LoraTag]]:
    """The prompt without its <lora:...> (<lyco:...> is the same), and these.

    Raises ValueError where a strength is no number, or where a hypernetwork is asked for.
    """
    tags = [_tag(match[2]) for match in _TAG.finditer(prompt) if match[1] in _LORA]
    if unknown := [match[0] for match in _TAG.finditer(prompt) if match[1] == "hypernet"]:
        raise ValueError(f"{unknown[0]}: hypernetworks are not known here")
    return _TAG.sub(lambda match: "" if match[1] in _LORA else match[0], prompt), tags


def _tag(told: str) -> LoraTag:
    name, *rest = (word.strip() for word in told.split(":"))
    named = {key: strength for key, sign, strength in (word.partition("=") for word in rest) if sign}
    placed = [word for word in rest if "=" not in word]
    if strange := sorted(named.keys() - STRENGTHS.keys()):
        raise ValueError(f"<lora:{told}>: {strange[0]}={named[strange[0]]} is not known here")
    if len(placed) > len(STRENGTHS):
        raise ValueError(f"<lora:{told}>: {len(placed)} strengths, and there are two: of the text encoder and the UNet")
    try:
        strengths = [*map(float, placed), *[float(placed[0]) if placed else 1.0] * (2 - len(placed))]
        given = dict(zip(STRENGTHS.values(), strengths, strict=True))
        return LoraTag(name, **given | {STRENGTHS[key]: float(strength) for key, strength in named.items()})
    except ValueError:
        raise ValueError(f"<lora:{told}>: its strengths are no numbers") from None
