"""Textual inversion (Gal et al., arXiv 2208.01618): new words learn what pictures show; the model stays as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from tenshot.adapters import embedding
from tenshot.core.errors import Fault, Refusal
from tenshot.core.events import Events
from tenshot.core.results import Trained
from tenshot.export.install import Result
from tenshot.families import validate
from tenshot.io import destinations, text_files
from tenshot.io.image_folder import Example
from tenshot.model import model
from tenshot.model.model import Model
from tenshot.train import finetune
from tenshot.train.data.captions import Captions
from tenshot.train.engine.rng import CounterRNG
from tenshot.train.options import TextualInversionOptions
from tenshot.train.training_method import Source, TrainingMethod

#: What is said of a picture that has no caption.
SAYINGS = {
    "object": (
        "a photo of {}",
        "a close-up photo of {}",
        "a bright photo of {}",
        "a dark photo of {}",
        "a good photo of {}",
        "a cropped photo of {}",
        "a rendering of {}",
        "one {} in a photo",
    ),
    "style": (
        "a picture in the style of {}",
        "a painting in the style of {}",
        "a small picture in the style of {}",
        "a detailed picture in the style of {}",
        "a rendering in the style of {}",
        "a cropped picture in the style of {}",
    ),
}


class EmbeddingTrainable:
    """New rows of the text encoders' token embeddings."""

    saves_model = False

    def __init__(self, base: Model, options: TextualInversionOptions) -> None:
        for part in base.family.nets:
            base[part].requires_grad_(False)
        self.words = options.placeholder_token
        self.model = base
        for word, first in zip(self.words, options.initializer_token, strict=True):
            self.model = embedding.add(self.model, word, embedding.beginning(base, first, options.num_vectors))
        self.parts: Mapping[str, nn.Module] = {part: base[part] for part in base.family.encoders}
        self.trains_text_encoder = True
        self.begun = {word: embedding.rows_of(self.model, word) for word in self.words}

    def lr_multiplier(self, part: str, name: str) -> float:
        return 1.0

    def check(self, folder: Path) -> None:
        for word in self.words:
            live = embedding.rows_of(self.model, word)
            if all(torch.equal(rows, self.begun[word][part]) for part, rows in live.items()):
                found = f"{word} is as it was in the beginning: nothing was learned"
                do = "correct the captions, and train into a new --output_dir"
                file = folder / destinations.file_name(word)
                raise Refusal(Fault(str(file), found, "pictures whose captions say the word", do))

    def save(self, folder: Path) -> None:
        for word in self.words:
            embedding.write(folder / destinations.file_name(word), word, embedding.rows_of(self.model, word))

    def verify(self, folder: Path) -> None:
        for word in self.words:
            file = folder / destinations.file_name(word)
            read, live = embedding.read(file)[1], embedding.rows_of(self.model, word)
            if any(not torch.equal(read[part], rows) for part, rows in live.items()):
                raise Refusal(Fault(str(file), "tensors differ after writing", do="check the disk"))


@dataclass(frozen=True)
class TemplateCaptions:
    """Captions where there are some, else a saying that changes from draw to draw. word: what the sayings name."""

    captions: Captions
    sayings: Sequence[str]
    word: str

    def of(self, rows: Sequence[int], rng: CounterRNG) -> list[str]:
        own = self.captions.of(rows, rng)
        turns = rng.integers("saying", 0, len(self.sayings)).tolist()
        said = [self.sayings[turn].format(self.word) for turn in turns]
        return [text if self.captions.texts[row] else other for row, text, other in zip(rows, own, said, strict=True)]

    def possible(self, row: int) -> set[str] | None:
        return self.captions.possible(row) if self.captions.texts[row] else {s.format(self.word) for s in self.sayings}


def _texts(options: TextualInversionOptions, captions: Captions) -> TemplateCaptions:
    return TemplateCaptions(captions, SAYINGS[options.learnable_property], options.placeholder_token[0])


def _unsaid(options: TextualInversionOptions, examples: Sequence[Example]) -> Iterator[Fault]:
    """Captions that say none of the new words teach them nothing."""
    words = sorted(set(options.placeholder_token))
    told = [(each, each.caption) for each in examples if each.caption]
    mute = [each.path.name for each, caption in told if not any(model.mentions(caption, word) for word in words)]
    if mute:
        few = ", ".join(mute[:4]) + (", ..." if len(mute) > 4 else "")
        found = f"{' and '.join(words)} in no caption of {len(mute)} pictures: {few}"
        do = "write the word into these captions, or delete them"
        yield Fault("--placeholder_token", found, "captions that say the word, or none", do)
    said = {word for word in words for _, caption in told if model.mentions(caption, word)}
    if len(words) > 1 and len(said) < len(words) and not mute:
        found = f"{' and '.join(word for word in words if word not in said)}: no caption says it"
        fits, do = "with several words, captions that say which picture shows what", "write it into the captions"
        yield Fault("--placeholder_token", found, fits, do)


def trained(options: TextualInversionOptions, place: Path) -> int:
    """How many numbers train."""
    encoders = validate.family_of(place).encoders
    widths = [int(text_files.read_object(place / part / "config.json")["hidden_size"]) for part in encoders]
    return sum(widths) * options.num_vectors * len(options.placeholder_token)


def _results(options: TextualInversionOptions) -> list[Result]:
    files = {options.output_dir / destinations.file_name(word) for word in options.placeholder_token}
    return [Result("embedding", file, file.stem, file.stem) for file in sorted(files)]


METHOD = TrainingMethod(
    name="textual-inversion",
    source=lambda options: Source(options.train_data_dir, "--train_data_dir", ""),
    faults=lambda options: iter(()),
    trainable=EmbeddingTrainable,
    trained=trained,
    results=_results,
    texts=_texts,
    unsaid=_unsaid,
)


def train(options: TextualInversionOptions, events: Events) -> Trained:
    """Train as `options` say; the manifest of the run comes back. Raises Refusal before anything is written."""
    return finetune.train(METHOD, options, events)
