"""How an adapter wants to be drawn with, as its header says it (modelspec.usage_hint), in the words of infotext."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from tenshot.diffusion.samplers import AUTOMATIC, TITLES, Schedule
from tenshot.io import infotext

KEY = "modelspec.usage_hint"


@dataclass(frozen=True)
class Usage:
    """The settings of `generate` that it was trained for. guidance: 1 for none."""

    steps: int
    sampler: str
    schedule: Schedule
    guidance: float

    def written(self) -> str:
        """Steps: 8, Sampler: Euler, Schedule type: SGM Uniform, CFG scale: 1"""
        facts = {
            "Steps": self.steps,
            "Sampler": self.sampler,
            "Schedule type": TITLES.get(self.schedule),
            "CFG scale": f"{self.guidance:g}",
        }
        return infotext.written("", "", facts)

    def words(self) -> list[str]:
        """As options of `generate`."""
        options = {
            "sampler": self.sampler,
            "schedule": self.schedule,
            "steps": f"{self.steps}",
            "guidance_scale": f"{self.guidance:g}",
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]


def read(about: Mapping[str, str]) -> Usage | None:
    """What a header says; None where it says nothing, or in other words."""
    facts = infotext.parsed(about.get(KEY, "")).facts
    schedule = next((name for name in get_args(Schedule) if TITLES.get(name) == facts.get("Schedule type")), AUTOMATIC)
    try:
        return Usage(int(facts["Steps"]), facts["Sampler"], schedule, float(facts["CFG scale"]))
    except (KeyError, ValueError):
        return None
