"""Do tensors fit a model? By their names and shapes: the one comparison, for files, folders, nets and programs.

Whether what an adapter adds fits a weight, each kind of adapter knows itself: `adapters.weight_delta.misfits`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Differences(NamedTuple):
    """missing: names that are wanted and not there. wrong: of another shape. unknown: there, and not wanted."""

    missing: list[str]
    wrong: list[str]
    unknown: list[str]

    @property
    def names(self) -> list[str]:
        return sorted([*self.missing, *self.wrong, *self.unknown])


def differences(wanted: Mapping[str, Sequence[int]], found: Mapping[str, Sequence[int]]) -> Differences:
    return Differences(
        [name for name in wanted if name not in found],
        [name for name, shape in wanted.items() if name in found and tuple(found[name]) != tuple(shape)],
        [name for name in found if name not in wanted],
    )


def as_matrix(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape, where a 1x1 convolution is a matrix."""
    return tuple(shape[:2]) if tuple(shape[2:]) == (1, 1) else tuple(shape)
