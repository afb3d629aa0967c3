"""Learned words (textual inversion, Gal et al., arXiv 2208.01618): new rows beside a text encoder's own; their files.

A file holds one tensor [vectors, width]. User interfaces take the file's name for the word, whatever the tensor is
called; diffusers takes the tensor's. Where two text encoders learn, `clip_l` and `clip_g` in one file; in diffusers two
files with a tensor each, `learned_embeds` and `learned_embeds_2`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AddedToken

from tenshot.adapters.adapter_files import WORDS
from tenshot.core.errors import Fault, Refusal, all_or_refuse, refuse_if
from tenshot.families import registry
from tenshot.families.components import TextEncoder
from tenshot.io import tensor_files, tensors
from tenshot.io.tensor_files import Container
from tenshot.model.model import Model

ONE = "emb_params"
TWO = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
UNNAMED = (ONE, "string_to_param.*", "*", "")  # what the tensor is called in files that do not tell the word by it
TAKEN = ("__metadata__", "string_to_param", *TWO.values())  # what no tensor can be called
RENAME = "training: another --placeholder_token; a file: rename it, unless it says the word itself"
ANOTHER = "choose the model it was trained on, or train the word on this one: tenshot train textual-inversion"
Rows = Mapping[str, torch.Tensor]  #: text encoder -> [vectors, width]


class ExtendedEmbedding(nn.Module):
    """A token embedding with more rows, which train while those it had stand still."""

    def __init__(self, known: nn.Module, rows: torch.Tensor) -> None:
        super().__init__()
        self.known = known
        self.rows = nn.Parameter(rows.float())
        self.first = size(known)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        old = self.known(ids.clamp(max=self.first - 1))
        new = self.rows[(ids - self.first).clamp(min=0, max=len(self.rows) - 1)]
        return torch.where((ids >= self.first).unsqueeze(-1), new.to(old.dtype), old)


def size(embedding: Any) -> int:
    """How many tokens an embedding knows."""
    return (
        embedding.first + len(embedding.rows) if isinstance(embedding, ExtendedEmbedding) else embedding.num_embeddings
    )


def add(model: Model, word: str, rows: Rows) -> Model:
    """The model with one more word. Its text encoders and tokenizers are changed in place.

    Raises Refusal, with nothing changed, where the word is taken or the widths are another model's.
    """
    refuse_if(_misfits(model, word, rows))
    vectors = len(next(iter(rows.values())))
    tokens = [word, *(f"{word}_{number}" for number in range(1, vectors))]
    for part, values in rows.items():
        encoder, tokenizer = model[part], model.tokenizer(part)
        before = size(encoder.get_input_embeddings())
        tokenizer.add_tokens([AddedToken(token, single_word=True, normalized=False) for token in tokens])
        # Numbers between the vocabulary's end and the embedding's stay unused, where there are any.
        first = tokenizer.convert_tokens_to_ids(word)
        spare = torch.zeros(max(0, first - before), values.shape[1])
        grown = ExtendedEmbedding(encoder.get_input_embeddings(), torch.cat([spare, values.cpu().float()]))
        encoder.set_input_embeddings(grown.to(encoder.device))
        _pool_at_the_end(encoder, tokenizer.eos_token_id)
    return replace(model, placeholder_tokens={**model.placeholder_tokens, word: " ".join(tokens)})


def _pool_at_the_end(encoder: TextEncoder, end: int) -> None:
    """Old configurations pool the states at the highest token number, which a new word would now be."""
    for module in encoder.modules():
        if hasattr(module, "eos_token_id"):
            module.eos_token_id = end


def rows_of(model: Model, word: str) -> dict[str, torch.Tensor]:
    """The vectors of a word that was added, by text encoder."""
    found = {}
    for part in model.family.encoders:
        tokenizer = model.tokenizer(part)
        ids = tokenizer.convert_tokens_to_ids(model.placeholder_tokens[word].split(" "))
        encoder = model[part]
        with torch.no_grad():
            found[part] = encoder.get_input_embeddings()(torch.tensor(ids, device=encoder.device)).float().cpu()
    return found


def beginning(model: Model, words: str, vectors: int) -> dict[str, torch.Tensor]:
    """The vectors of the tokens of `words`, over and over until there are `vectors` of them."""
    found = {}
    for part in model.family.encoders:
        tokenizer, encoder = model.tokenizer(part), model[part]
        ids = tokenizer(words, add_special_tokens=False).input_ids
        turns = torch.tensor([ids[number % len(ids)] for number in range(vectors)], device=encoder.device)
        with torch.no_grad():
            found[part] = encoder.get_input_embeddings()(turns).float().cpu()
    return found


def write(file: Path, word: str, rows: Rows) -> None:
    """One file, which every program reads: user interfaces by its name, diffusers by the tensor's."""
    name = ONE if word in TAKEN else word
    named = {TWO[part]: values for part, values in rows.items()} if len(rows) > 1 else {name: next(iter(rows.values()))}
    tensors.write(file, named, {"format": "pt", "word": word})


def write_pair(folder: Path, word: str, rows: Rows) -> None:
    """As diffusers has it: a file for each text encoder."""
    with tensors.replacing_folder(folder) as temporary:
        for part, values in rows.items():
            write(temporary / f"{WORDS[part]}.safetensors", word, {part: values})


def write_pt(file: Path, word: str, values: torch.Tensor) -> None:
    """The oldest layout, in torch's former zip layout: AUTOMATIC1111's reader knows no other."""
    content = {"string_to_token": {"*": 265}, "string_to_param": {"*": values.cpu()}, "name": word, "step": None}
    with tensors.replacing(file) as temporary:
        torch.save(content, temporary, _use_new_zipfile_serialization=False)


def read(place: Path) -> tuple[str, Rows]:
    """The word and its vectors, from a file or from diffusers' folder. Raises Refusal where there is no embedding."""
    return of(tensor_files.opened(file_in(place)))


def read_all(places: Sequence[Path]) -> list[tuple[str, Path, Rows]]:
    """Every word with its file; diffusers' two files of one word count once. Raises Refusal with the faults of all."""
    found: dict[str, tuple[str, Path, Rows]] = {}
    for place, (word, rows) in zip(places, all_or_refuse(*(partial(read, place) for place in places)), strict=True):
        _, first, before = found.get(word, (word, file_in(place), {}))
        both = joined(before, rows) if len(before) == len(rows) == 1 else rows
        if before and len(both) == 1:
            fault = Fault(str(place), f"{first} holds the word {word!r}, too", "a word once", "leave one of them out")
            raise Refusal(fault)
        found[word] = (word, first, both)
    return list(found.values())


def file_in(place: Path) -> Path:
    """The file that diffusers' scripts leave in a folder."""
    files = (place / f"{WORDS['text_encoder']}{end}" for end in (".safetensors", ".bin"))
    return next(filter(Path.is_file, files), place) if place.is_dir() else place


def of(source: Container) -> tuple[str, Rows]:
    """The word and its vectors, in any layout; of diffusers' two files of a word both, where both are there."""
    word, rows = alone(source)
    other = partner(source.place)
    if len(rows) == 1 and other and is_embedding(beside := tensor_files.opened(other)):
        said, more = alone(beside)
        rows = joined(rows, more) if said == word else rows
    if faults := [part for part, values in rows.items() if not tensors.finite(values)]:
        found, do = (
            f"NaN or infinite numbers for {', '.join(faults)}",
            "train the word again, at a lower --learning_rate",
        )
        raise Refusal(Fault(str(source.place), found, "finite numbers", do))
    if any(not values.numel() or not values.is_floating_point() for values in rows.values()):
        shapes = ", ".join(f"{list(values.shape)} of {str(values.dtype)[6:]}" for values in rows.values())
        raise Refusal(Fault(str(source.place), shapes, "[vectors, width] of floating-point numbers", "copy it again"))
    return word, rows


def joined(one: Rows, other: Rows) -> Rows:
    """Those of two files that hold one text encoder's each: the second text encoder is the wider."""
    halves = sorted((*one.values(), *other.values()), key=lambda values: values.shape[1])
    return dict(zip(TWO, halves, strict=True)) if halves[0].shape[1] != halves[1].shape[1] else one


def partner(file: Path) -> Path | None:
    """The other file of diffusers' pair: learned_embeds-steps-500 and learned_embeds_2-steps-500."""
    match = re.fullmatch(r"learned_embeds(_2)?(\D.*)", file.name)
    other = file.with_name(f"learned_embeds{'' if match[1] else '_2'}{match[2]}") if match else None
    return other if other and other.is_file() else None


def alone(source: Container) -> tuple[str, Rows]:
    """The same of this file only."""
    found = {name: lazy for name, lazy in source.tensors.items() if not name.startswith("string_to_token")}
    word = source.metadata.get("word") or str(source.rest.get("name") or source.place.stem)
    if set(found) == set(TWO.values()):
        return word, {part: found[name].read() for part, name in TWO.items()}
    if is_embedding(source):
        name, lazy = next(iter(found.items()))
        values = lazy.read()
        part = "text_encoder_2" if is_half(source) else "text_encoder"
        return word if name in UNNAMED else name, {part: values[None] if values.ndim == 1 else values}
    names = f"{len(found)} tensors: {', '.join(sorted(found)[:4])}"
    fits = f"{ONE}, or {' and '.join(TWO.values())}, [vectors, width]"
    raise Refusal(Fault(str(source.place), names, fits, f"tenshot inspect {source.place} says what it is"))


def is_half(source: Container) -> bool:
    """Is it the second of diffusers' two files of a word, by its name or by how wide it is?"""
    second = (family.released.get("text_encoder_2", {}) for family in registry.FAMILIES)
    wide = {(size["hidden_size"],) for size in second if size}
    return source.place.name.startswith(WORDS["text_encoder_2"]) or any(
        lazy.shape[-1:] in wide for lazy in source.tensors.values()
    )


def is_embedding(source: Container) -> bool:
    found = [lazy for name, lazy in source.tensors.items() if not name.startswith("string_to_token")]
    return {*source.tensors} == {*TWO.values()} or (len(found) == 1 and len(found[0].shape) in (1, 2))


def _misfits(model: Model, word: str, rows: Rows) -> Iterator[Fault]:
    if not word or " " in word:
        yield Fault(f"the word {word!r}", "is not one word", "letters without spaces, as in <az>", RENAME)
    if set(rows) != set(model.family.encoders):
        widths = ", ".join(f"{part} ({values.shape[1]} wide)" for part, values in rows.items())
        found = f"an embedding for {widths}"
        fits = f"{model.family.title}: {', '.join(model.family.encoders)}"
        halves = len(rows) < len(model.family.encoders)
        do = "diffusers' two files are one embedding: name the folder, or both" if halves else ANOTHER
        yield Fault(f"the word {word!r}", found, fits, do)
        return
    for part, values in rows.items():
        width = model[part].config.hidden_size
        if values.shape[1] != width:
            found = f"width {values.shape[1]} for {part}"
            yield Fault(f"the word {word!r}", found, f"{width}, as this model has", ANOTHER)
        known = model.tokenizer(part).get_vocab()
        if word in known or f"{word.lower()}</w>" in known:
            yield Fault(f"the word {word!r}", "is a token that the model knows", "another word, as in <az>", RENAME)
            return
