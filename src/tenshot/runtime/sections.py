"""One section of a model as compiled programs of several shapes, behind one call that always answers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

import torch

from tenshot.core.errors import Slow
from tenshot.runtime.backend import Runner
from tenshot.runtime.flat_modules import Flat

Outputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class ShapeBucket:
    """A program, and the shapes of its inputs, the batch first."""

    shapes: tuple[tuple[int, ...], ...]
    runner: Runner

    @property
    def batch(self) -> int:
        return self.shapes[0][0]

    def fits(self, inputs: Sequence[torch.Tensor]) -> bool:
        """Apart from the batch."""
        return [tuple(each.shape[1:]) for each in inputs] == [shape[1:] for shape in self.shapes]


@dataclass
class CompiledSection:
    """plain: the section as torch runs it, for what no program fits. Both have the same weights, and keep them.

    turn: programs have one place for what is under way, so that one caller waits for the other.
    """

    section: str
    buckets: Sequence[ShapeBucket]
    plain: Flat
    told: set[str] = field(default_factory=set)
    turn: Lock = field(default_factory=Lock)

    def __call__(self, *inputs: torch.Tensor) -> Outputs:
        """Any batch: in turns, the last one filled up. Inputs and outputs are float32 with the batch first."""
        fitting = [bucket for bucket in self.buckets if bucket.fits(inputs)]
        if not fitting:
            shapes = " and ".join("x".join(map(str, each.shape)) for each in inputs)
            self._warn(f"no program for {shapes}: torch does it. Compile for this size to have it fast")
            answer: Outputs = self.plain(*inputs)
            return answer
        rows = inputs[0].shape[0]
        enough = [bucket for bucket in fitting if bucket.batch >= rows]
        bucket = min(enough, key=lambda b: b.batch) if enough else max(fitting, key=lambda b: b.batch)
        with self.turn:
            found = [
                _filled(bucket, [each[start : start + bucket.batch] for each in inputs])
                for start in range(0, rows, bucket.batch)
            ]
        outputs = tuple(torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*found, strict=True))
        if all(bool(torch.isfinite(each).all()) for each in outputs):
            return outputs
        self._warn("the program answered with numbers that are not finite: torch does it again")
        again: Outputs = self.plain(*inputs)
        return again

    def _warn(self, text: str) -> None:
        """Each thing once."""
        if text not in self.told:
            self.told.add(text)
            warnings.warn(f"{self.section}: {text}", Slow, stacklevel=4)


def _filled(bucket: ShapeBucket, inputs: Sequence[torch.Tensor]) -> Outputs:
    """Up to a batch of rows; what is missing is the last row again."""
    rows = inputs[0].shape[0]
    if rows == bucket.batch:
        return bucket.runner(*inputs)
    more = [torch.cat([each, each[-1:].expand(bucket.batch - rows, *each.shape[1:])]) for each in inputs]
    return tuple(each[:rows] for each in bucket.runner(*more))
