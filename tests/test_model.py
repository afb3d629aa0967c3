"""The noun: what is saved is what was loaded, other programs open it, and no interruption loses a folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors import safe_open
from transformers import CLIPTokenizer

from tenshot.core.errors import Refusal
from tenshot.families.base import ZEROS
from tenshot.io import hashes, tensors
from tenshot.model import model
from tenshot.model.model import Model

PIPELINES = {"sd1": StableDiffusionPipeline, "sd2_v": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.fixture(params=sorted(PIPELINES))
def place(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def nets(opened: Model) -> dict[str, torch.nn.Module]:
    return {name: part for name, part in opened.parts.items() if name in opened.family.nets}


def assert_equal_bits(one: Model, other: Model) -> None:
    assert nets(one).keys() == nets(other).keys()
    for name, net in nets(one).items():
        here, there = net.state_dict(), other[name].state_dict()
        assert here.keys() == there.keys()
        assert all(tensor.dtype == there[key].dtype and torch.equal(tensor, there[key]) for key, tensor in here.items())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_save_and_load_give_the_same_bits(place: Path, precision: str, tmp_path: Path):
    opened = model.load(str(place), precision=precision)
    model.save(opened, tmp_path / "saved")
    again = model.load(str(tmp_path / "saved"), precision=precision)
    assert_equal_bits(opened, again)
    assert (again.family, again.scheduler_config) == (opened.family, opened.scheduler_config)
    for part in ("tokenizer", "tokenizer_2"):
        if part in opened.parts:
            assert again[part]("Ärger, 3 cats!").input_ids == opened[part]("Ärger, 3 cats!").input_ids


def test_the_number_format_on_disk_is_the_one_in_memory(sd1: Path, tmp_path: Path):
    model.save(model.load(str(sd1), precision="fp16"), tmp_path / "saved")
    formats = {}
    for part in ("unet", "text_encoder", "vae"):
        (file,) = (tmp_path / "saved" / part).glob("*.safetensors")
        with safe_open(file, "pt") as opened:
            formats[part] = {opened.get_slice(name).get_dtype() for name in opened.keys()}
    assert formats == {"unet": {"F16"}, "text_encoder": {"F16"}, "vae": {"F32"}}


def test_diffusers_opens_what_was_saved(place: Path, tmp_path: Path, request: pytest.FixtureRequest):
    opened = model.load(str(place))
    model.save(opened, tmp_path / "saved")
    kind = PIPELINES[request.node.callspec.params["place"]]
    theirs = kind.from_pretrained(tmp_path / "saved", local_files_only=True)
    for name, net in nets(opened).items():
        state = getattr(theirs, name).state_dict()
        assert all(torch.equal(tensor, state[key]) for key, tensor in net.state_dict().items())
    assert theirs.scheduler.config.prediction_type == opened.process.prediction
    index = json.loads((tmp_path / "saved/model_index.json").read_text())
    before = json.loads((place / "model_index.json").read_text())
    assert {key: value for key, value in before.items() if key in index} == index


def test_older_programs_find_the_names_they_know(sdxl: Path, tmp_path: Path):
    model.save(model.load(str(sdxl)), tmp_path)
    for part in ("text_encoder", "text_encoder_2"):
        names = tensors.shapes(tmp_path / part / "model.safetensors")
        assert all(name.startswith("text_model.") or name == "text_projection.weight" for name in names)
    pair = tmp_path / "pair"
    pair.mkdir()
    for file in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(tmp_path / "tokenizer" / file, pair)
    ours = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert CLIPTokenizer.from_pretrained(pair)("az bear").input_ids == ours("az bear").input_ids


@pytest.mark.parametrize("zeros", [True, False])
def test_how_a_missing_negative_prompt_is_meant_travels_along(sdxl: Path, tmp_path: Path, zeros: bool):
    place = Path(shutil.copytree(sdxl, tmp_path / "model"))
    index = json.loads((place / "model_index.json").read_text())
    (place / "model_index.json").write_text(json.dumps(index | {ZEROS: zeros}))
    opened = model.load(str(place))
    assert opened.force_zeros_for_empty_prompt is zeros
    model.save(opened, tmp_path / "saved")
    assert json.loads((tmp_path / "saved/model_index.json").read_text())[ZEROS] is zeros


def test_the_digest_follows_the_weights(sd1: Path, tmp_path: Path):
    opened = model.load(str(sd1))
    model.save(opened, tmp_path / "one")
    model.save(opened, tmp_path / "two")
    assert hashes.of_model(tmp_path / "one") == hashes.of_model(tmp_path / "two")
    with torch.no_grad():
        opened["unet"].conv_in.bias[0] += 1
    model.save(opened, tmp_path / "two")
    assert hashes.of_model(tmp_path / "one") != hashes.of_model(tmp_path / "two")


def test_with_parts_changes_a_copy(sd1: Path):
    opened = model.load(str(sd1))
    other = model.load(str(sd1))["unet"]
    changed = opened.with_parts(unet=other)
    assert changed["unet"] is other
    assert opened["unet"] is not other
    assert changed["vae"] is opened["vae"]


def test_write_into_keeps_what_lies_beside(sd1: Path, tmp_path: Path):
    opened = model.load(str(sd1))
    (tmp_path / "checkpoint-1").mkdir()
    model.write_into(opened, tmp_path)
    model.write_into(opened, tmp_path)
    assert (tmp_path / "checkpoint-1").is_dir()
    assert not list(tmp_path.glob(".*"))
    assert_equal_bits(model.load(str(tmp_path)), opened)


class Interrupted(BaseException):
    """Like KeyboardInterrupt, which pytest would take for itself."""


@pytest.mark.parametrize("moment", ["save_pretrained", "flush", "rename"])
def test_an_interrupted_save_leaves_the_old_folder(sd1: Path, tmp_path: Path, moment: str, monkeypatch):
    place = tmp_path / "model"
    opened = model.load(str(sd1))
    model.save(opened, place)
    before = hashes.of_model(place)
    with torch.no_grad():
        opened["unet"].conv_in.bias[0] += 1
    with monkeypatch.context() as patch:
        if moment == "save_pretrained":
            patch.setattr(type(opened["vae"]), moment, interrupt)
        if moment == "flush":
            patch.setattr(tensors, moment, interrupt)
        if moment == "rename":
            patch.setattr(Path, moment, interrupted_when_put_in_place(place))
        with pytest.raises(Interrupted):
            model.save(opened, place)
    assert hashes.of_model(place) == before
    assert list(tmp_path.iterdir()) == [place]


def interrupt(*_: object, **__: object) -> None:
    raise Interrupted


def interrupted_when_put_in_place(place: Path):
    rename = Path.rename

    def renamed(self: Path, target: Path) -> Path:
        if target == place and self.parent.name == tensors.NEW:
            raise Interrupted
        return rename(self, target)

    return renamed


KILLED = """
import os, signal, sys
import weakref
from pathlib import Path
from tenshot.io import tensors
rename, place, left = Path.rename, Path(sys.argv[1]), int(sys.argv[2])
def renamed(self, target):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return rename(self, target)
Path.rename = renamed
with tensors.replacing_folder(place) as temporary:
    (temporary / "file").write_text("new")
"""


@pytest.mark.parametrize("renames", [0, 1])
def test_a_kill_never_loses_the_old_folder(tmp_path: Path, renames: int):
    place = tmp_path / "folder"
    place.mkdir()
    (place / "file").write_text("old")
    source = str(Path(model.__file__).parents[2])
    ran = subprocess.run([sys.executable, "-c", KILLED, place, str(renames)], env=os.environ | {"PYTHONPATH": source})
    assert ran.returncode == -signal.SIGKILL
    assert (renames == 0) == place.is_dir()
    tensors.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (place / "file").read_text() == "old"


def test_replacing_a_folder_leaves_only_the_new_one(tmp_path: Path):
    for text in ("old", "new"):
        with tensors.replacing_folder(tmp_path / "folder") as temporary:
            (temporary / text).write_text(text)
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["folder", "folder/new"]


def test_a_damaged_file_is_a_refusal(tmp_path: Path):
    with pytest.raises(Refusal, match="no such file"):
        tensors.read(tmp_path / "nothing.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(Refusal, match="10 bytes"):
        tensors.shapes(tmp_path / "text.safetensors")


def test_what_is_put_away_comes_back_as_it_was(sd1: Path):
    opened = model.load(str(sd1))
    before, unet = opened["vae"], opened["unet"]
    opened.offload("vae")
    assert "vae" in opened.parts
    assert len(opened.parts) == 4
    assert opened["vae"] is not before
    assert opened["vae"] is opened["vae"]
    assert opened["unet"] is unet
    assert not opened["vae"].training
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), opened["vae"].parameters(), strict=True))


def test_what_is_put_away_leaves_the_memory(sd1: Path):
    opened = model.load(str(sd1))
    vae = weakref.ref(opened["vae"])
    opened.offload("vae")
    assert vae() is None
