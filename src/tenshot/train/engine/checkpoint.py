"""Checkpoints: a folder that appears whole or not at all, and holds all that the next step depends on."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tenshot.core.errors import Fault, Refusal
from tenshot.core.events import Events
from tenshot.io import hashes, tensors, text_files

PREFIX, FACTS = "checkpoint-", "checkpoint.json"
DAMAGED = ".damaged"  # the suffix of one that was put aside


@dataclass(frozen=True)
class Checkpoint:
    """step: optimizer steps made. groups: group name -> {tensor name: tensor}. facts: plain JSON values."""

    step: int
    groups: Mapping[str, Mapping[str, torch.Tensor]]
    facts: Mapping[str, Any]

    def nonfinite(self) -> list[str]:
        """The names of tensors that hold NaN or something infinite."""
        named = ((f"{group}: {name}", tensor) for group, each in self.groups.items() for name, tensor in each.items())
        return [name for name, tensor in named if not tensors.finite(tensor)]


def write(folder: Path, checkpoint: Checkpoint, keep: int | None = None) -> Path:
    """Write `checkpoint` under folder/checkpoint-STEP; afterwards only the newest `keep` remain (None: all)."""
    place = folder / f"{PREFIX}{checkpoint.step}"
    with tensors.replacing_folder(place) as temporary:
        files = {group: temporary / f"{group}.safetensors" for group in sorted(checkpoint.groups)}
        for group, file in files.items():
            tensors.write(file, checkpoint.groups[group])
        digests = {group: hashes.of_file(file) for group, file in files.items()}
        facts = {"step": checkpoint.step, "groups": digests, **checkpoint.facts}
        tensors.write_json(temporary / FACTS, {**facts, "digest": hashes.of_json(facts)})
    for old in found(folder)[: -keep if keep else 0]:
        shutil.rmtree(old)
    return place


def steps(place: Path) -> int:
    """The optimizer steps that a checkpoint's name says were made."""
    return int(place.name.removeprefix(PREFIX))


def found(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first. Whether they are whole is seen when they are read."""
    return sorted((path for path in folder.glob(f"{PREFIX}*") if is_step(path) and (path / FACTS).is_file()), key=steps)


def is_step(place: Path) -> bool:
    """Is it called what `write` would call it?"""
    text = place.name.removeprefix(PREFIX)
    return text.isascii() and text.isdecimal() and text == str(int(text))


def read(place: Path) -> Checkpoint:
    """Read a checkpoint folder. Raises Refusal where a file in it is damaged or another than the one written."""
    facts = _checked(place)
    groups = {group: tensors.read(place / f"{group}.safetensors") for group in facts.pop("groups")}
    return Checkpoint(facts.pop("step"), groups, facts)


def heal(folder: Path, events: Events) -> None:
    """See to it that the newest checkpoint in `folder` is a whole one: damaged ones are put aside, and said.

    Raises Refusal where there are checkpoints and all of them are damaged.
    """
    damaged: list[tuple[Path, Refusal]] = []
    for place in reversed(found(folder)):
        try:
            _checked(place)
        except Refusal as refusal:
            damaged.append((place, refusal))
        else:
            break
    else:
        if damaged:
            do = "remove these checkpoints to begin anew, or name another folder"
            raise Refusal(*(replace(fault, do=do) for _, why in damaged for fault in why.faults))
    for place, why in damaged:
        aside = place.with_name(place.name + DAMAGED)
        shutil.rmtree(aside, ignore_errors=True)
        place.rename(aside)
        events.say(f"{place.name} is damaged and was put aside as {aside.name} ({why.faults[0].found})")


def _checked(place: Path) -> dict[str, Any]:
    """What checkpoint.json says, once everything in `place` has been found to be as it was written."""
    facts = text_files.read_json(place / FACTS)
    if not isinstance(facts, dict) or facts.pop("digest", None) != hashes.of_json(facts):
        raise _other(place / FACTS, "is not what was written: a part of it was lost or changed")
    if facts["step"] != steps(place):
        raise _other(place / FACTS, f"was written after step {facts['step']}, but its folder is {place.name}")
    for group, digest in facts["groups"].items():
        file = place / f"{group}.safetensors"
        if not file.is_file():
            raise _other(file, "is missing")
        if hashes.of_file(file) != digest:
            raise _other(file, "is not what was written: a part of it was lost or changed")
    return facts


def _other(file: Path, found: str) -> Refusal:
    return Refusal(Fault(str(file), found, "a checkpoint as it was written", "copy it again, or go on from another"))
