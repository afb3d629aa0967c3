"""The pocket model's tokenizer: CLIP's kind (byte-level BPE, `</w>` ends a word), with a small vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from recipes.pocket.scenes import every_sentence, known_nouns, words
from recipes.pocket.sprites import Sprites

MERGES = 2000
IDENTIFIERS = ("az", "sks", "zwx", "ohwx")  # rare words to name new subjects with: one token each, in no caption
LENGTH = 77


def tokenizer(sprites: Sprites, folder: Path) -> CLIPTokenizer:
    """The tokenizer in `folder`; where there is none, its merges are learned from the captions, and it is saved."""
    if (folder / "vocab.json").is_file():
        return CLIPTokenizer.from_pretrained(folder)
    corpus = [*every_sentence(known_nouns(sprites)), *(words(name) for name in sprites.taught * 20)]
    merges = _merges(corpus, MERGES) + [pair for word in IDENTIFIERS for pair in _spelt(word)]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    made = CLIPTokenizer(vocab=vocabulary, merges=[tuple(pair) for pair in merges], model_max_length=LENGTH)
    made.save_pretrained(folder)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n", encoding="utf-8")
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder)


def _merges(corpus: list[str], count: int) -> list[tuple[str, str]]:
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    last = [f"{letter}</w>" for letter in sorted(set("".join(corpus).lower()) - {" "})]  # else numbered at random
    size = count + 2 * len(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, end_of_word_suffix="</w>", special_tokens=last, show_progress=False)
    learner.train_from_iterator(corpus, trainer)
    return [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]][:count]


def _spelt(word: str) -> list[tuple[str, str]]:
    """The merges that make one token of `word`, letter by letter."""
    *letters, last = word
    pieces = [*letters, last + "</w>"]
    pairs = []
    while len(pieces) > 1:
        pairs.append((pieces[0], pieces[1]))
        pieces[:2] = [pieces[0] + pieces[1]]
    return pairs
