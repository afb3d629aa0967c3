"""Axes of options: every combination of their values is one cell of a sheet, WebUI's "X/Y/Z plot"."""

from __future__ import annotations

import csv
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, TypeVar

from tenshot.core.errors import Fault, Refusal, all_or_refuse, faults_of, refuse_if
from tenshot.core.options import Entry, Options, entries, resolve

Record = TypeVar("Record", bound=Options)

REPLACED = "prompt_sr"  #: an axis that is no option: its first value is searched in the prompts, the others stand there
NEVER = (
    "matrix",
    "grid",
    "out",
    "format",
    "quality",
    "num_images",
    "preview_every",
    "lora_dir",
    "device",
    "batch_size",
)
MOST = 1000  #: cells
FITS = 'an option and its values: "steps=10,20,30"'
_NUMBER = r"-?\d{1,15}(?:\.\d{1,15})?"
_STEP, _COUNT = rf"[+]?{_NUMBER}", r"\d{1,9}"
_RANGE = re.compile(rf"({_NUMBER}) ?- ?({_NUMBER})(?: ?\(({_STEP})\)| ?\[({_COUNT})\])?", re.ASCII)


@dataclass(frozen=True)
class Axis:
    """name: of an option, or REPLACED. values: as the command line has them."""

    name: str
    values: Sequence[str]

    @property
    def labels(self) -> list[str]:
        return [f"{self.name}: {value}" for value in self.values]


@dataclass(frozen=True)
class Cell:
    """at: the number of its value on each axis."""

    at: tuple[int, ...]
    options: Any


def axes(kind: type[Options], written: Sequence[str]) -> list[Axis]:
    """Raises Refusal with the faults of all of them."""
    known = entries(kind)
    found: list[Axis] = all_or_refuse(*(partial(_axis, known, each) for each in written))
    names = [each.name for each in found]
    refuse_if(
        Fault("--matrix", f"{name} is given {names.count(name)} times", "an axis for each option", "join their values")
        for name in names
        if names.count(name) > 1
    )
    many = 1
    for each in found:
        many *= len(each.values)
    if many > MOST:
        raise Refusal(Fault("--matrix", f"{many:,} combinations", f"{MOST:,} at most", "leave values out"))
    return found


def faults(options: Options, written: Sequence[str]) -> tuple[Fault, ...]:
    """What is wrong with axes, and with any of their combinations."""
    return faults_of(lambda: cells(options, axes(type(options), written)))


def cells(options: Record, axes: Sequence[Axis]) -> list[Cell]:
    """The options of every cell, the last axis changing fastest. Raises Refusal with the faults of all.

    A seed that is left to chance is the same for all.
    """
    fields = type(options).model_fields
    told = {name: getattr(options, name) for name in options.model_fields_set if name != "matrix"}
    if "seed" in fields and told.get("seed", -1) == -1:
        told["seed"] = secrets.randbelow(2**32)
    numbers = [*product(*(range(len(each.values)) for each in axes))]
    made = all_or_refuse(*(partial(_cell, type(options), told, axes, at) for at in numbers))
    return [Cell(at, each) for at, each in zip(numbers, made, strict=True)]


def _cell(kind: type[Record], told: Mapping[str, Any], axes: Sequence[Axis], at: Sequence[int]) -> Record:
    known = entries(kind)
    chosen = [(axis, axis.values[number]) for axis, number in zip(axes, at, strict=True)]
    given = dict(told)
    for axis, value in chosen:
        if axis.name != REPLACED:
            given[axis.name] = valued(known[axis.name], value)
    for axis, value in chosen:
        if axis.name == REPLACED:
            given |= _replaced(given, axis.values[0], value)
    made = resolve(kind, given, {axis.name: f"--matrix {axis.name}={value}" for axis, value in chosen})
    refuse_if(made.faults())
    return made


def valued(entry: Entry, value: str) -> object:
    """A single word as an option's value."""
    nothing = value.lower() == "none" and not entry.needed
    return ([] if nothing else [value]) if entry.many else entry.read(value)


def _replaced(given: Mapping[str, Any], searched: str, value: str) -> dict[str, Any]:
    prompts, negative = given["prompt"], given.get("negative_prompt", "")
    if not any(searched in each for each in (*prompts, negative)):
        found = f"{searched!r} stands in no prompt"
        raise Refusal(Fault("--matrix", found, f"{REPLACED}=WORD,OTHER: the first is in the prompt", "correct it"))
    new = {"prompt": [each.replace(searched, value) for each in prompts]}
    return {**new, "negative_prompt": negative.replace(searched, value)} if searched in negative else new


def _axis(known: Mapping[str, Entry], written: str) -> Axis:
    name, sign, listed = (each.strip() for each in written.partition("="))
    name = name.removeprefix("--").replace("-", "_")
    if not sign or not listed:
        raise Refusal(Fault("--matrix", repr(written), FITS, "write it so"))
    if name != REPLACED and (name not in known or name in NEVER):
        found = f"{name!r} is {'no axis' if name in known else 'no option'}"
        raise Refusal(Fault("--matrix", found, f"{FITS}; or {REPLACED}=WORD,OTHER", "name an option that changes it"))
    try:
        (values,) = csv.reader([re.sub(r"[\r\n]", " ", listed)], skipinitialspace=True)
    except csv.Error as error:
        raise Refusal(Fault("--matrix", f"{written[:60]!r}: {error}", FITS, "correct it")) from None
    kinds = known[name].kinds if name in known else set()
    numeric, whole = bool(kinds & {"integer", "number"}), "number" not in kinds
    spread = [each for value in values for each in (_range(value.strip(), whole) if numeric else [value.strip()])]
    if "" in spread and name != REPLACED:
        raise Refusal(Fault("--matrix", f"{written!r} has an empty value", FITS, "leave out the comma too many"))
    return Axis(name, [*dict.fromkeys(spread)])


def _range(value: str, whole: bool) -> list[str]:
    """WebUI's ways to write numbers: 1-5, 1-10 (+2), 10-50 [5]. Others are values as they stand."""
    if not (found := _RANGE.fullmatch(value)):
        return [value]
    first, last = float(found[1]), float(found[2])
    if found[4]:
        count = int(found[4])
        step = (last - first) / (count - 1) if count > 1 else 0.0
    else:
        step = float(found[3] or (1 if last >= first else -1))
        count = int((last - first) / step + 1e-9) + 1 if step and (last - first) * step >= 0 else 0
    if not 0 < count <= MOST:
        fits = "1-5, 1-10 (+2), or 10-50 [5]: so many values"
        raise Refusal(Fault("--matrix", f"{value} makes {count:,} values", fits, "correct it"))
    return [str(round(each)) if whole else f"{each:.6g}" for each in (first + step * number for number in range(count))]
