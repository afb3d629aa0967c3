"""Full fine-tuning: all of the UNet learns from captioned pictures, as it was trained in the first place."""

from __future__ import annotations

from typing import Any

from tenshot.events import Events
from tenshot.train import finetune, whole
from tenshot.train.options import FullOptions

WAY = finetune.Way[FullOptions](
    name="full",
    source=lambda options: finetune.Source(options.train_data_dir, "--train_data_dir", None),
    faults=lambda options: iter(()),
    learner=whole.Whole,
    trained=whole.trained,
    results=whole.results,
    saves_model=True,
)


def train(options: FullOptions, events: Events) -> dict[str, Any]:
    """Train as `options` say; the manifest of the run comes back. Raises Refusal before anything is written."""
    return finetune.train(WAY, options, events)
