"""Tokenizers, which no checkpoint carries: CLIP's and T5's from own copies, any from the metadata of own files."""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from typing import Final, TypedDict

from tokenizers import Tokenizer, pre_tokenizers
from transformers import CLIPTokenizer, PreTrainedTokenizerBase, T5Tokenizer

from tenshot.core.errors import Fault, Refusal
from tenshot.core.shipped import ASSETS
from tenshot.io import text_files

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77
T5_TOKENS = 32128  # that its encoder knows: the pieces, and some that are never said
WHOLE: Final = "tokenizer.json"  # how a tokenizer that is not CLIP's is told: by all that its file of that name says
FOLDER = "--config FOLDER: a model folder with its tokenizer"


Words = TypedDict(
    "Words",
    {"vocab": dict[str, int], "merges": list[str], "padding": str, "tokenizer.json": str, "length": int},
    total=False,
)
"""What a tokenizer has that the usual one of its kind has not."""


@cache
def clip_merges() -> tuple[str, ...]:
    """The 48,894 merges of OpenAI's CLIP (MIT licence), which all of its successors kept."""
    return tuple(gzip.decompress((ASSETS / "clip" / "merges.txt.gz").read_bytes()).decode().splitlines())


@cache
def t5_words() -> Words:
    """The 32,100 pieces of Google's T5 (Apache licence), and how it reads them, as Stable Diffusion 3 has it."""
    told = gzip.decompress((ASSETS / "t5" / "tokenizer.json.gz").read_bytes()).decode()
    return {WHOLE: Tokenizer.from_str(told).to_str(), "length": 512}


def vocabulary(merges: tuple[str, ...]) -> dict[str, int]:
    """Every byte as a letter, and as one that ends a word; what the merges make; the two signs."""
    letters = [chr(code) for code in _bytes()]
    words = [*letters, *(f"{each}</w>" for each in letters), *(merge.replace(" ", "") for merge in merges), START, END]
    return {word: number for number, word in enumerate(words)}


def _bytes() -> list[int]:
    """GPT-2's order of the 256 letters: the printable bytes first, then stand-ins for the others."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    found = [*printable, *range(256, 512 - len(printable))]
    assert {chr(code) for code in found} == set(pre_tokenizers.ByteLevel.alphabet())
    return found


def as_metadata(part: Path, padding: str, kind: type[PreTrainedTokenizerBase] = CLIPTokenizer) -> Words:
    """What a file has to carry so that a folder's tokenizer comes back; nothing where it is as the family has it."""
    tokenizer = kind.from_pretrained(part)
    if kind is not CLIPTokenizer:
        words: Words = {WHOLE: tokenizer.backend_tokenizer.to_str(), "length": tokenizer.model_max_length}
        return {} if kind is T5Tokenizer and words == t5_words() else words
    model = text_files.parsed(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    words = {} if tuple(merges) == clip_merges() else {"vocab": model["vocab"], "merges": merges}
    return words if tokenizer.pad_token == padding else {**words, "padding": tokenizer.pad_token}


def from_metadata(
    known: Words, padding: str, words: int, where: str, kind: type[PreTrainedTokenizerBase] = CLIPTokenizer
) -> PreTrainedTokenizerBase:
    """The tokenizer that `as_metadata` spoke of, or CLIP's. Raises Refusal where it does not fit `words` tokens."""
    if kind is not CLIPTokenizer:
        own = kind is T5Tokenizer and words == T5_TOKENS and WHOLE not in known
        return _whole(t5_words() if own else known, padding, kind, where, words)
    merges = known.get("merges", clip_merges())
    vocab = known["vocab"] if "vocab" in known else vocabulary(clip_merges())
    if len(vocab) > words:
        found = f"an encoder of {words} tokens, and nothing says which"
        raise Refusal(Fault(where, found, "CLIP's 49408", FOLDER))
    pairs = [tuple(merge.split(" ")) for merge in merges]
    return CLIPTokenizer(
        vocab=dict(vocab), merges=pairs, pad_token=known.get("padding", padding), model_max_length=LENGTH
    )


def _whole(
    known: Words, padding: str, kind: type[PreTrainedTokenizerBase], where: str, words: int
) -> PreTrainedTokenizerBase:
    if WHOLE not in known:
        told = f"an encoder of {words} tokens, and no {kind.__name__} beside it"
        raise Refusal(Fault(where, told, f"T5's {T5_TOKENS}, or a file that Tenshot wrote, which has it", FOLDER))
    try:
        backend = Tokenizer.from_str(known[WHOLE])
        length = int(known["length"])
    except Exception as error:  # tokenizers raises bare ones
        found = f"its header tells of no {kind.__name__}: {str(error)[:200]}"
        raise Refusal(Fault(where, found, "what Tenshot wrote there", FOLDER)) from None
    return kind(tokenizer_object=backend, pad_token=padding, extra_ids=0, model_max_length=length)
