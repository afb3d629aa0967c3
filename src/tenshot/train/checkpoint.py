"""Checkpoints: a folder that appears whole or not at all, and holds all that the next step depends on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tenshot.files import tensors

PREFIX = "checkpoint-"


@dataclass(frozen=True)
class Checkpoint:
    """step: optimizer steps made. groups: group name -> {tensor name: tensor}. facts: plain JSON values."""

    step: int
    groups: Mapping[str, Mapping[str, torch.Tensor]]
    facts: Mapping[str, Any]


def write(folder: Path, checkpoint: Checkpoint, keep: int | None = None) -> Path:
    """Write `checkpoint` under folder/checkpoint-STEP; afterwards only the newest `keep` remain (None: all)."""
    place = folder / f"{PREFIX}{checkpoint.step}"
    with tensors.replacing_folder(place) as temporary:
        for group, named in checkpoint.groups.items():
            tensors.write(temporary / f"{group}.safetensors", named)
        facts = {"step": checkpoint.step, "groups": sorted(checkpoint.groups), **checkpoint.facts}
        tensors.write_json(temporary / "checkpoint.json", facts)
    for old in found(folder)[: -keep if keep else 0]:
        shutil.rmtree(old)
    return place


def steps(place: Path) -> int:
    """The optimizer steps that a checkpoint's name says were made."""
    return int(place.name.removeprefix(PREFIX))


def found(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    whole = [
        path
        for path in folder.glob(f"{PREFIX}*")
        if path.name.removeprefix(PREFIX).isdigit() and (path / "checkpoint.json").is_file()
    ]
    return sorted(whole, key=steps)


def read(place: Path) -> Checkpoint:
    """Read a checkpoint folder. Raises Refusal where a file in it is damaged."""
    facts = json.loads((place / "checkpoint.json").read_text(encoding="utf-8"))
    groups = {group: tensors.read(place / f"{group}.safetensors") for group in facts.pop("groups")}
    return Checkpoint(facts.pop("step"), groups, facts)
