"""What a training method is: where its pictures lie, what it trains, what it saves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from tenshot.core.errors import Fault
from tenshot.export.install import Result
from tenshot.io.image_folder import Example
from tenshot.model.model import Model
from tenshot.train.data.captions import Captions, CaptionSource
from tenshot.train.engine.trainable import Trainable
from tenshot.train.options import FineTuneOptions

Options = TypeVar("Options", bound=FineTuneOptions)


@dataclass(frozen=True)
class Source:
    """Where the pictures lie. option: what names the folder. prompt: the caption of those that have none."""

    folder: Path
    option: str
    prompt: str | None


@dataclass(frozen=True)
class TrainingMethod(Generic[Options]):
    """One training method.

    source: where its options say the pictures lie. faults: what is wrong with the options. trainable: what trains.
    trained: from the options and a model folder, how many numbers train. results: what will lie where.
    saves_model: what comes out is a whole model. texts: how the captions of the pictures are worded.
    unsaid: what the captions lack.
    """

    name: str
    source: Callable[[Options], Source]
    faults: Callable[[Options], Iterator[Fault]]
    trainable: Callable[[Model, Options], Trainable]
    trained: Callable[[Options, Path], int]
    results: Callable[[Options], list[Result]]
    saves_model: bool = False
    texts: Callable[[Options, Captions], CaptionSource] | None = None
    unsaid: Callable[[Options, Sequence[Example]], Iterator[Fault]] = lambda options, examples: iter(())
