"""Full fine-tuning: all of the denoiser learns from captioned pictures, as it was trained in the first place."""

from __future__ import annotations

from tenshot.core.events import Events
from tenshot.core.results import Trained
from tenshot.train import finetune
from tenshot.train.methods import full_weights
from tenshot.train.options import FullOptions
from tenshot.train.training_method import Source, TrainingMethod

METHOD = TrainingMethod[FullOptions](
    name="full",
    source=lambda options: Source(options.train_data_dir, "--train_data_dir", None),
    faults=lambda options: iter(()),
    trainable=full_weights.FullWeightsTrainable,
    trained=full_weights.trained,
    results=full_weights.results,
    saves_model=True,
)


def train(options: FullOptions, events: Events) -> Trained:
    """Train as `options` say; the manifest of the run comes back. Raises Refusal before anything is written."""
    return finetune.train(METHOD, options, events)
