"""A finished training's result goes where user interfaces look for it, with what its metadata tell of the training."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from tenshot.core import hub_names
from tenshot.core.events import Events
from tenshot.export import install
from tenshot.export.install import Result
from tenshot.model.model import Model
from tenshot.train.options import TrainOptions


def export_result(
    options: TrainOptions, results: Sequence[Result], base: Model, about: Mapping[str, str], events: Events
) -> list[str]:
    """Do what --export says; the last validation picture goes along. The files come back."""
    drawn = sorted((options.output_dir / "validation").glob("*.png"))
    return install.put(options.export, results, events, drawn[-1] if drawn else None, base.place, about)


def about(options: TrainOptions, base: Model, pictures: int, captions: Sequence[str], steps: int) -> dict[str, str]:
    """The training under the names that kohya's scripts gave such facts."""
    tags = Counter(tag.strip() for text in captions for tag in text.split(",") if tag.strip())
    facts = {
        "sd_model_name": hub_names.called(base.place),
        "learning_rate": options.learning_rate,
        "steps": steps,
        "num_train_images": pictures,
        "optimizer": options.optimizer,
        "seed": options.seed,
        "resolution": options.resolution or base.resolution,
        "tag_frequency": json.dumps({options.output_dir.resolve().name: tags}, ensure_ascii=False),
    }
    return {f"ss_{name}": str(value) for name, value in facts.items()}
