"""What was tried, and what came of it: kept, so that nothing is tried twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from tenshot.autotune.certificate import Certificate
from tenshot.autotune.ladder import Rung
from tenshot.core.json_types import key
from tenshot.io import cache
from tenshot.preset import Preset


@dataclass(frozen=True)
class Figures:
    """Of a measure: its mean, and the lower bound of that, which is held against the limit."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    mean: float
    lower: float
    limit: float


@dataclass(frozen=True)
class Trial:
    """cost: in guided evaluations. pictures: that were drawn. proved: on the pictures to prove by; held: it did."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    preset: Preset
    guided: int
    unguided: int
    cost: float
    pictures: int
    measures: Mapping[str, Figures]
    proved: bool
    held: bool

    @classmethod
    def of(cls, rung: Rung, found: Certificate, pictures: int, proved: bool, held: bool = False) -> Trial:
        measures = {each.name: Figures(each.mean, each.lower, each.limit) for each in found.measures}
        return cls(rung.preset, rung.guided, rung.unguided, rung.cost, pictures, measures, proved, held)

    def __str__(self) -> str:
        return f"{self.preset}: {self.told}"

    @property
    def short(self) -> float:
        """Of what is asked, by the worst of its measures."""
        return min(of.lower - of.limit for of in self.measures.values())

    @property
    def told(self) -> str:
        """What came of it, in words."""
        if self.held:
            return f"holds: {self.proof}"
        counts = [(name, of.lower if self.proved else of.mean, of.limit) for name, of in self.measures.items()]
        short = [f"{name} {_spoken(value)} (limit {_spoken(limit)})" for name, value, limit in counts if value <= limit]
        told = f"{', '.join(short) or 'not certain'}, {self.pictures} pictures"
        return f"{told} of the proof, lower bounds" if self.proved else told

    @property
    def proof(self) -> str:
        """The figures in words."""
        said = (f"{name} {_spoken(of.mean)} (at least {_spoken(of.lower)})" for name, of in self.measures.items())
        return f"{', '.join(said)}, {self.pictures} pictures"

    def row(self) -> dict[str, object]:
        """Of a measure, the mean and its lower bound."""
        figures = {key(name): [round(of.mean, 3), round(of.lower, 3)] for name, of in self.measures.items()}
        asked = {"guided": self.guided, "unguided": self.unguided, "cost": round(self.cost, 2)}
        return {**asked, "pictures": self.pictures, **figures, "proved": self.proved, "held": self.held}


def _spoken(value: float) -> str:
    return f"{value:.1f} dB" if abs(value) > 2 else f"{value:.3f}"


class Trials:
    """Those that are in `file`, and those that come. unguided: what an evaluation without guidance costs."""

    def __init__(self, file: Path) -> None:
        self.file = file
        told = cache.read_json(file) or {"unguided": 0.0, "trials": []}
        self.unguided: float = told["unguided"]
        try:
            self.made = TypeAdapter(list[Trial]).validate_python(told["trials"])
        except ValidationError:  # of another version
            self.made = []
        self.known = {each.preset: each for each in self.made}

    def of(self, rung: Rung) -> Trial | None:
        return self.known.get(rung.preset)

    def add(self, trial: Trial) -> Trial:
        self.made.append(trial)
        self.known[trial.preset] = trial
        cache.write_json(self.file, {"unguided": self.unguided, "trials": [asdict(each) for each in self.made]})
        return trial
