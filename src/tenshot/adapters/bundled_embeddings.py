"""Learned words within a LoRA's file: bundle_emb.WORD.clip_l, as OneTrainer writes and AUTOMATIC1111 reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch

from tenshot.adapters import embedding
from tenshot.adapters.embedding import Rows
from tenshot.core.errors import Fault, Refusal
from tenshot.core.results import Written
from tenshot.io import destinations
from tenshot.io.tensor_files import Container

_TENSOR = re.compile(r"bundle_emb\.(.+)\.(clip_l|clip_g|emb_params|string_to_param\.\*)")
_SECOND = "clip_g"
Words = Mapping[str, Rows]


def is_of_word(tensor: str) -> bool:
    return bool(_TENSOR.fullmatch(tensor))


def names(source: Container) -> list[str]:
    return list(dict.fromkeys(match[1] for name in source.tensors if (match := _TENSOR.fullmatch(name))))


def words(source: Container) -> dict[str, Rows]:
    """The words, and their vectors by text encoder. Raises Refusal where they are no vectors."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, lazy in source.tensors.items():
        if match := _TENSOR.fullmatch(name):
            if len(lazy.shape) not in (1, 2) or 0 in lazy.shape:
                told = f"{name} {list(lazy.shape)}"
                raise Refusal(Fault(str(source.place), told, "vectors [count, width] of a word", "copy it again"))
            rows = lazy.read()
            part = "text_encoder_2" if match[2] == _SECOND else "text_encoder"
            found.setdefault(match[1], {})[part] = rows[None] if rows.ndim == 1 else rows
    return dict(found)


def of_all(sources: Iterable[Container]) -> dict[str, Rows]:
    """The words of several files. Raises Refusal where two mean different things by one."""
    found: dict[str, Rows] = {}
    for source in sources:
        for word, rows in words(source).items():
            if word in found and not _same(found[word], rows):
                told = f"holds the learned word {word!r}, and so does a file before it, with other vectors"
                do = "tenshot convert FILE --form diffusers takes its words out; rename one"
                raise Refusal(Fault(str(source.place), told, "each word once", do))
            found[word] = rows
    return found


def _same(one: Rows, other: Rows) -> bool:
    return one.keys() == other.keys() and all(torch.equal(rows, other[part]) for part, rows in one.items())


def kept(source: Container, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """The tensors that say the words, for another file of a LoRA."""
    return {name: lazy.read().to(dtype or lazy.dtype) for name, lazy in source.tensors.items() if is_of_word(name)}


def files(words: Words, folder: Path) -> dict[str, Path]:
    """word -> the file of its own that it gets, where what is written cannot hold words."""
    return {word: folder / destinations.file_name(word) for word in words}


def faults(option: str, words: Words, folder: Path, overwrite: bool) -> Iterator[Fault]:
    for file in files(words, folder).values():
        yield from destinations.faults(option, file, overwrite)


def write(words: Words, folder: Path) -> Written:
    """A file for each word; what was written, for a report."""
    made = files(words, folder)
    for word, file in made.items():
        embedding.write(file, word, words[word])
    return {"words": {word: str(file) for word, file in made.items()}} if made else {}
