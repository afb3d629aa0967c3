"""A ControlNet as the command line names it: NAME=weight@start-end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from os.path import exists
from typing import Literal

from tenshot.core.errors import Fault

Preprocessor = Literal["none", "canny"]
Resize = Literal["crop", "stretch", "fill"]
FORMS = "NAME, NAME=0.8, NAME=0.8@0.2-0.9, or NAME=@0.2-0.9"
MOST = 2.0  # what WebUI's weights go to
_NUMBER = r"\d*\.?\d+|\d+\."
_BEHIND = re.compile(rf"(-?(?:{_NUMBER}))?(?:@({_NUMBER})-({_NUMBER}))?", re.ASCII)


@dataclass(frozen=True)
class Asked:
    """place: a file or folder, or a name of the hub. start, end: the part of the steps, as shares of them."""

    place: str
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0

    @classmethod
    def parsed(cls, text: str) -> Asked:
        """Raises ValueError where what follows the name is of another form."""
        if exists(text) or "=" not in text:
            return cls(text)
        place, _, behind = text.rpartition("=")
        found = _BEHIND.fullmatch(behind)
        if not found or not behind:
            raise ValueError(f"{text}: {behind or 'nothing'!r} is no weight")
        weight, start, end = found.groups()
        return cls(place, float(weight or 1), float(start or 0), float(end or 1))


def faults(given: str) -> Iterator[Fault]:
    """What is wrong with the numbers of one."""
    try:
        asked = Asked.parsed(given)
    except ValueError as error:
        yield Fault("--controlnet", str(error), FORMS, "write it so")
        return
    if not 0 <= asked.weight <= MOST:
        yield Fault(
            "--controlnet", f"{given}: a weight of {asked.weight:g}", f"0 to {MOST:g}", "1 is as it was trained"
        )
    if not 0 <= asked.start <= asked.end <= 1:
        found = f"{given}: from {asked.start:g} to {asked.end:g} of the steps"
        yield Fault("--controlnet", found, "0 to 1, the start before the end", "0-1 is all of them")


def miscounts(controlnets: int, **others: int) -> Iterator[Fault]:
    """others: how many there are of what belongs to ControlNets, by option."""
    for name, count in others.items():
        if controlnets and count not in (1, controlnets):
            fits = "one for all" if controlnets == 1 else f"one for all, or {controlnets}"
            found = f"{count} for {controlnets} --controlnet"
            yield Fault(f"--{name}", found, fits, f"give as many, or a single --{name}")
