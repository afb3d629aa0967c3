"""A checkpoint appears whole or not at all, however the writing ends."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from tenshot.core.errors import Refusal
from tenshot.io import tensors
from tenshot.train.engine import checkpoint
from tenshot.train.engine.checkpoint import Checkpoint
from tests.dreambooth_runs import Ear


def sample(step: int) -> Checkpoint:
    weights = {"a": torch.full((3, 2), float(step)), "b": torch.arange(4, dtype=torch.bfloat16), "s": torch.tensor(2.0)}
    return Checkpoint(step, {"unet": weights, "optimizer": {"0.step": torch.tensor(float(step))}}, {"rate": 0.1})


def same(one: Checkpoint, other: Checkpoint) -> bool:
    def plain(each: Checkpoint) -> Any:
        tensors = {(group, name): tensor for group, named in each.groups.items() for name, tensor in named.items()}
        return each.step, {key: (tensor.dtype, tensor.tolist()) for key, tensor in tensors.items()}, each.facts

    return plain(one) == plain(other)


def test_what_is_written_is_read(tmp_path: Path):
    place = checkpoint.write(tmp_path, sample(7))
    assert place.name == "checkpoint-7"
    assert same(checkpoint.read(place), sample(7))


def test_checkpoints_are_found_by_step_not_by_name(tmp_path: Path):
    for step in (9, 100, 20):
        checkpoint.write(tmp_path, sample(step))
    (tmp_path / "checkpoint-half").mkdir()
    (tmp_path / "checkpoint-200").mkdir()
    assert [checkpoint.steps(place) for place in checkpoint.found(tmp_path)] == [9, 20, 100]


@pytest.mark.parametrize("keep, left", [(1, [40]), (2, [30, 40]), (None, [10, 20, 30, 40])])
def test_the_newest_are_kept(tmp_path: Path, keep: int | None, left: list[int]):
    for step in (10, 20, 30, 40):
        checkpoint.write(tmp_path, sample(step), keep)
    assert [checkpoint.steps(place) for place in checkpoint.found(tmp_path)] == left


class Killed(BaseException):
    """Stands for the end of the process: nothing that comes after it may be relied on."""


def killed_at(call: int, monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> int:
    """Do `work`, ended at its `call`-th touch of the disk, with no tidying up; how many touches it made."""
    touches = 0

    def touched(real: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any, **named: Any) -> Any:
            nonlocal touches
            if isinstance(sys.exception(), Killed):
                raise Killed  # a killed process does not tidy up
            touches += 1
            if touches == call:
                raise Killed
            return real(*args, **named)

        return inner

    with monkeypatch.context() as patch:
        for owner, name in (
            (os, "fsync"), (tensors, "_put"), (Path, "write_text"), (Path, "replace"), (Path, "rename"),
            (Path, "chmod"), (Path, "unlink"), (shutil, "rmtree"), (os, "close"),
        ):  # fmt: skip
            patch.setattr(owner, name, touched(getattr(owner, name)))
        with suppress(Killed):
            work()
    return touches


def test_a_crash_at_any_point_leaves_a_whole_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    points = killed_at(0, monkeypatch, lambda: checkpoint.write(tmp_path / "whole", sample(2), 1))
    assert points > 20
    outcomes = set()
    for point in range(1, points + 2):
        folder = tmp_path / str(point)
        checkpoint.write(folder, sample(1))
        killed_at(point, monkeypatch, lambda folder=folder: checkpoint.write(folder, sample(2), 1))
        assert sorted(folder.glob("checkpoint-*")) == checkpoint.found(folder)
        newest = checkpoint.found(folder)[-1]
        assert same(checkpoint.read(newest), sample(checkpoint.steps(newest)))
        outcomes.add(checkpoint.steps(newest))
        tensors.sweep(folder)
        assert not list(folder.glob(".*"))
        checkpoint.write(folder, sample(2), 1)
        assert [place.name for place in folder.iterdir()] == ["checkpoint-2"]
        assert same(checkpoint.read(folder / "checkpoint-2"), sample(2))
    assert outcomes == {1, 2}


def test_the_sweep_takes_only_leftovers(tmp_path: Path):
    checkpoint.write(tmp_path, sample(1))
    for left in ("a.part/new/checkpoint-2", "b.part/new", "c.part"):
        (tmp_path / f".tenshot-{left}").mkdir(parents=True)
    (tmp_path / ".tenshot-a.part" / "new" / "checkpoint-2" / "unet.safetensors").write_bytes(b"half")
    (tmp_path / ".tenshot-b.part" / "new" / "run.json").write_text("{")
    (tmp_path / ".tenshot-d.part" / "old" / "vae").mkdir(parents=True)  # put aside, its place not yet taken
    (tmp_path / ".tenshot-e.part" / "old" / "checkpoint-1").mkdir(parents=True)  # put aside, its place taken
    (tmp_path / ".notes.part").write_text("mine")
    with tensors.replacing(tmp_path / "alive") as alive:
        alive.write_text("at work")
        tensors.sweep(tmp_path)
        assert alive.read_text() == "at work"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".notes.part", "alive", "checkpoint-1", "vae"]
    assert (tmp_path / "checkpoint-1" / "checkpoint.json").is_file()


def flipped(file: Path, place: int = -5) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda place: os.truncate(place / "unet.safetensors", 60),
    "a flipped bit in the weights": lambda place: flipped(place / "unet.safetensors"),
    "a flipped bit in the optimizer's state": lambda place: flipped(place / "optimizer.safetensors"),
    "a file is gone": lambda place: (place / "optimizer.safetensors").unlink(),
    "no JSON": lambda place: os.truncate(place / "checkpoint.json", 30),
    "JSON of another kind": lambda place: (place / "checkpoint.json").write_text("[1]"),
    "too deep": lambda place: (place / "checkpoint.json").write_text("[" * 100_000),
    "no text": lambda place: (place / "checkpoint.json").write_bytes(b"\xff\xfe\x00"),
    "another rate": lambda place: (place / "checkpoint.json").write_text(
        (place / "checkpoint.json").read_text().replace('"rate": 0.1', '"rate": 0.2')
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_taken(damage: Callable[[Path], object], tmp_path: Path):
    for step in (1, 2):
        checkpoint.write(tmp_path, sample(step))
    damage(tmp_path / "checkpoint-2")
    with pytest.raises(Refusal, match="checkpoint-2"):
        checkpoint.read(tmp_path / "checkpoint-2")
    ear = Ear()
    checkpoint.heal(tmp_path, ear)
    assert ear.said[0].startswith("checkpoint-2 is damaged and was put aside as checkpoint-2.damaged")
    assert checkpoint.found(tmp_path) == [tmp_path / "checkpoint-1"]
    damage(tmp_path / "checkpoint-1")
    with pytest.raises(Refusal, match="checkpoint-1"):
        checkpoint.heal(tmp_path, ear)
    assert checkpoint.found(tmp_path) == [tmp_path / "checkpoint-1"]


def test_a_checkpoint_under_another_name_is_another(tmp_path: Path):
    checkpoint.write(tmp_path, sample(1)).rename(tmp_path / "checkpoint-5")
    with pytest.raises(Refusal, match="after step 1, but its folder is checkpoint-5"):
        checkpoint.read(tmp_path / "checkpoint-5")


@pytest.mark.parametrize("name", ["²", "٣", "007", "-1", "1_0", "", " 1", "9" * 200])
def test_only_numbers_as_they_are_written_are_steps(name: str, tmp_path: Path):
    checkpoint.write(tmp_path, sample(1))
    shutil.copytree(tmp_path / "checkpoint-1", tmp_path / f"checkpoint-{name}")
    checkpoint.heal(tmp_path, Ear())
    assert checkpoint.found(tmp_path) == [tmp_path / "checkpoint-1"]


def test_before_its_first_step_an_optimizer_has_no_state(tmp_path: Path):
    empty = Checkpoint(1, {"unet": sample(1).groups["unet"], "optimizer": {}}, {})
    assert same(checkpoint.read(checkpoint.write(tmp_path, empty)), empty)
