"""What the server and the processes that draw tell each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tenshot.core.errors import Fault
from tenshot.generate.options import GenerateOptions


@dataclass(frozen=True)
class Setup:
    """warm: a picture of each model, drawn before anything is. models: how many are kept in memory.

    most: bytes in use above which all but the one at work leave; None: as many as there are.
    """

    device: str
    warm: Sequence[GenerateOptions]
    models: int
    most: int | None = None


# What a process is told; None: to end.
@dataclass(frozen=True)
class Draw:
    """pictures: by number, each asked for by options of its own; all with the weights that are at work."""

    pictures: dict[int, GenerateOptions]


@dataclass(frozen=True)
class Load:
    """Have the model of a picture in memory, as if it had been drawn."""

    warm: GenerateOptions


@dataclass(frozen=True)
class Unload:
    """Let the model of a picture go; who asks for it has it loaded again."""

    warm: GenerateOptions


@dataclass(frozen=True)
class Drop:
    numbers: frozenset[int]


@dataclass(frozen=True)
class Show:
    """Tell what these pictures look like after the next step."""

    numbers: frozenset[int]


# What it tells.
@dataclass(frozen=True)
class Ready:
    device: str


@dataclass(frozen=True)
class Step:
    """The pictures that are drawn now: by number, how many steps are done, and of how many."""

    steps: dict[int, tuple[int, int]]


@dataclass(frozen=True)
class Shown:
    """A picture at work, roughly."""

    number: int
    size: tuple[int, int]
    pixels: bytes


@dataclass(frozen=True)
class Drawn:
    """maps: what its ControlNets saw, in RGB of that size."""

    number: int
    size: tuple[int, int]
    pixels: bytes
    infotext: str
    maps: Sequence[tuple[tuple[int, int], bytes]] = ()


@dataclass(frozen=True)
class Failed:
    """faults: what was wrong with what was asked; without any it was nobody's fault who asked."""

    number: int
    faults: tuple[Fault, ...]
    why: str = ""


@dataclass(frozen=True)
class Said:
    text: str


@dataclass(frozen=True)
class Held:
    """models: in memory now. memory: the most that was used, bytes."""

    models: int
    memory: int


@dataclass(frozen=True)
class Unfit:
    """It cannot begin at all."""

    faults: tuple[Fault, ...]


Heard: TypeAlias = Draw | Load | Unload | Drop | Show
Told: TypeAlias = Ready | Step | Shown | Drawn | Failed | Said | Held | Unfit
