"""DreamBooth (Ruiz et al., arXiv 2208.12242): a rare word becomes your subject; class pictures keep the class."""

from __future__ import annotations

from tenshot.core.events import Events
from tenshot.core.results import Trained
from tenshot.train import checks, finetune
from tenshot.train.methods import full_weights
from tenshot.train.options import DreamBoothOptions
from tenshot.train.training_method import Source, TrainingMethod

METHOD = TrainingMethod[DreamBoothOptions](
    name="dreambooth",
    source=lambda options: Source(options.instance_data_dir, "--instance_data_dir", options.instance_prompt),
    faults=lambda options: iter(()),
    trainable=full_weights.FullWeightsTrainable,
    trained=full_weights.trained,
    results=lambda options: full_weights.results(options, options.instance_prompt),
    saves_model=True,
)


def check(options: DreamBoothOptions, events: Events) -> None:
    """Raise a Refusal with everything for which `train` would raise one now."""
    checks.check(METHOD, options, events)


def train(options: DreamBoothOptions, events: Events, *, foretold: bool = False) -> Trained:
    """Train as `options` say; the manifest of the run comes back. Raises Refusal before anything is written.

    foretold: what the whole will take has been said by whoever calls.
    """
    return finetune.train(METHOD, options, events, foretold=foretold)
