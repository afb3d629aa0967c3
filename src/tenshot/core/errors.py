"""Refusals: what was found, what would fit, what to do. All faults at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, in the words of the person who has to mend it.

    where: the option or file; found: what is there; fits: what would be accepted; do: the next step.
    """

    where: str
    found: str
    fits: str = ""
    do: str = ""

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.found}"]
        lines += [f"  would fit: {self.fits}"] if self.fits else []
        lines += [f"  do: {self.do}"] if self.do else []
        return "\n".join(lines)


class Refusal(Exception):
    """The work cannot be done as asked; nothing was written. The command line answers with exit code 2."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults

    def as_json(self) -> dict[str, object]:
        return {"error": "refused", "faults": [asdict(fault) for fault in self.faults]}


def renamed(refusal: Refusal, names: Mapping[str, str]) -> Refusal:
    """The same in the options of whoever asked. names: theirs -> what they are called there."""
    faults = []
    for fault in refusal.faults:
        words = asdict(fault)
        for theirs, ours in names.items():
            words = {name: text.replace(theirs, ours) for name, text in words.items()}
        faults.append(Fault(**words))
    return Refusal(*dict.fromkeys(faults))


class Cancelled(Exception):
    """The listener asked to stop; what was complete is kept."""


class Slow(UserWarning):
    """What was asked for is done, but not by a compiled program."""


class Noted(UserWarning):
    """Something in a file is read in a way that whoever gave it should know."""


def some(names: Sequence[str]) -> str:
    """The first three, and whether there are more."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def refuse_if(faults: Iterable[Fault]) -> None:
    """Raise one Refusal with every fault in `faults`, if there is any."""
    faults = dict.fromkeys(faults)  # two checks may meet the same one
    if faults:
        raise Refusal(*faults)


def faults_of(check: Callable[[], object]) -> tuple[Fault, ...]:
    """What a check refuses; nothing where it does not."""
    try:
        check()
    except Refusal as refusal:
        return refusal.faults
    return ()


def all_or_refuse(*checks: Callable[[], object]) -> list[Any]:
    """Make every check; the results of all, or one Refusal with the faults of all."""
    results: list[Any] = []
    faults: list[Fault] = []
    for check in checks:
        try:
            results.append(check())
        except Refusal as refusal:
            faults += refusal.faults
    refuse_if(faults)
    return results
