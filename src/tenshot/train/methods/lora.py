"""LoRA: the model stays as it is, and small additions beside its layers learn. What comes out is one small file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tenshot.adapters import embedding
from tenshot.core.errors import Fault, Refusal
from tenshot.core.events import Events
from tenshot.core.results import Trained
from tenshot.io.image_folder import Example
from tenshot.model import model
from tenshot.model.model import Model
from tenshot.train import finetune
from tenshot.train.methods import lora_weights
from tenshot.train.options import LoraOptions
from tenshot.train.training_method import Source, TrainingMethod


def _source(options: LoraOptions) -> Source:
    if options.train_data_dir and not options.instance_data_dir:
        return Source(options.train_data_dir, "--train_data_dir", None)
    return Source(options.instance_data_dir or Path(), "--instance_data_dir", options.instance_prompt)


def _faults(options: LoraOptions) -> Iterator[Fault]:
    yield from lora_weights.faults(options)
    try:
        embedding.read_all(options.embeddings)
    except Refusal as refusal:
        yield from refusal.faults


def _unsaid(options: LoraOptions, examples: Sequence[Example]) -> Iterator[Fault]:
    """Learned words that nothing says change nothing."""
    texts = {each.caption or options.instance_prompt or "" for each in examples}
    for path in options.embeddings:
        word, _ = embedding.read(path)
        if not any(model.mentions(text, word) for text in texts):
            do = "write it into --instance_prompt or the captions, or leave --embeddings out"
            yield Fault(f"--embeddings {path}", f"no caption says {word!r}", "captions that say the word", do)


def _trainable(base: Model, options: LoraOptions) -> lora_weights.LoraTrainable:
    for word, _, rows in embedding.read_all(options.embeddings):
        base = embedding.add(base, word, rows)
    return lora_weights.LoraTrainable(base, options)


METHOD = TrainingMethod(
    name="lora",
    source=_source,
    faults=_faults,
    trainable=_trainable,
    trained=lora_weights.trained,
    results=lambda options: lora_weights.results(options, options.instance_prompt or ""),
    unsaid=_unsaid,
)


def train(options: LoraOptions, events: Events) -> Trained:
    """Train as `options` say; the manifest of the run comes back. Raises Refusal before anything is written."""
    return finetune.train(METHOD, options, events)
