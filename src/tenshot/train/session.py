"""The output folder, this training's alone, and the model that it begins with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from tenshot.core import distributed
from tenshot.core.errors import refuse_if
from tenshot.core.events import Events
from tenshot.model import model
from tenshot.model.model import Model
from tenshot.train.engine import checkpoint, run
from tenshot.train.options import TrainOptions


@contextmanager
def opened(
    options: TrainOptions, place: Path, where: torch.device, identity: run.Identity, events: Events
) -> Iterator[Model]:
    """place: the model's folder. Raises Refusal where the output folder is another training's."""
    distributed.join(where.type == "cpu")
    with run.alone(options.output_dir):
        refuse_if(run.folder_faults(options, identity))  # another training may have ended there meanwhile
        if distributed.is_main_process():
            checkpoint.heal(options.output_dir, events)
        yield model.load(str(place), device=where, events=events)
