"""A checkpoint file is a model like its folder, wherever a model is named."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from tenshot.cli.main import main
from tenshot.core.errors import Refusal
from tenshot.model import model, resolve
from tests.dreambooth_runs import Bench, same_weights
from tests.test_checkpoints import equal, run


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TENSHOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tenshot" / "models"


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        *(("sd1", each) for each in ("safetensors", "ckpt")),
        *((each, "safetensors") for each in ("sd2_v", "sdxl")),
        *(pytest.param(each, "ckpt", marks=pytest.mark.slow) for each in ("sd2_v", "sdxl")),
    ],
)
def test_a_file_draws_what_its_folder_draws(name: str, suffix: str, tmp_path: Path, request: pytest.FixtureRequest):
    folder = request.getfixturevalue(name)
    file = tmp_path / f"mine.{suffix}"
    run(folder, file)
    words = ["--prompt", "a bear", "--steps", "2", "--seed", "1", "--width", "64", "--height", "64", "--device", "cpu"]
    for place in (folder, file):
        assert main(["generate", "--model", str(place), *words, "--out", str(tmp_path / f"{place.name}.png")]) == 0
    one, other = (Image.open(tmp_path / f"{place.name}.png") for place in (folder, file))
    assert one.tobytes() == other.tobytes()
    assert "Model: mine" in other.info["parameters"]


def test_training_on_a_file_is_training_on_its_folder(sd1: Path, pictures: Path, tmp_path: Path):
    run(sd1, tmp_path / "mine.safetensors")
    one, other = (
        Bench(place, pictures, tmp_path / place.name.replace(".", "-")).run("out")
        for place in (sd1, tmp_path / "mine.safetensors")
    )
    assert same_weights(one, other)


def test_it_is_made_once_and_again_when_the_file_changes(sd1: Path, tmp_path: Path, own_cache: Path):
    file = tmp_path / "mine.v1.safetensors"
    run(sd1, file)
    place = model.find(str(file))
    equal(sd1, place)
    assert resolve.model_hash(place) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert resolve.model_hash(sd1) is None
    mark = place / "mark"
    mark.touch()
    assert model.find(os.path.relpath(file)) == place and mark.exists()
    found = load_file(file)
    found["model.diffusion_model.out.2.bias"] += 1
    save_file(found, file, {"tenshot": resolve.checkpoint.tensor_files.opened(file).metadata["tenshot"]})
    assert model.find(str(file)) == place and not mark.exists()
    assert (model.load(str(file))["unet"].conv_out.bias - model.load(str(sd1))["unet"].conv_out.bias).mean() == 1
    assert len(list(own_cache.iterdir())) == 3  # the folder, what is known of it, and the lock


def test_those_not_used_for_longest_go(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    places = []
    for name in "abc":
        run(sd1, tmp_path / f"{name}.safetensors")
        places.append(model.find(str(tmp_path / f"{name}.safetensors")))
        os.utime(resolve.stamp_file(places[-1]), (1, "abc".index(name)))
    monkeypatch.setattr(resolve, "LIMIT", int(1.5 * sum(p.stat().st_size for p in places[0].rglob("*.*"))))
    model.find(str(tmp_path / "a.safetensors"))
    assert [place.is_dir() for place in places] == [True, False, True]
    (tmp_path / "c.safetensors").unlink()
    model.find(str(tmp_path / "a.safetensors"))
    assert [place.is_dir() for place in places] == [True, False, False]


def test_what_is_no_model_leaves_nothing(sd1: Path, tmp_path: Path, own_cache: Path):
    run(sd1, tmp_path / "one.safetensors")
    found = load_file(tmp_path / "one.safetensors")
    del found["model.diffusion_model.out.2.bias"]
    save_file(found, tmp_path / "bare.safetensors")
    save_file({"a": found["first_stage_model.quant_conv.bias"]}, tmp_path / "other.safetensors")
    (tmp_path / "text.ckpt").write_text("no tensors")
    told = {"bare.safetensors": "tenshot convert", "other.safetensors": "no checkpoint", "text.ckpt": "not a whole"}
    for name, says in {**told, "missing.ckpt": "no such model"}.items():
        place = tmp_path / name
        with pytest.raises(Refusal, match=says):
            model.find(str(place))
        assert main(["generate", "--model", str(place), "--prompt", "a", "--out", str(tmp_path / "no.png")]) == 2
    assert [path.name for path in own_cache.iterdir()] == [".lock"]
    assert not (tmp_path / "no.png").exists()


@pytest.mark.parametrize("name", ["source.json.safetensors", ".json.safetensors"])
def test_a_file_may_be_called_as_it_likes(sd1: Path, tmp_path: Path, name: str):
    run(sd1, tmp_path / name)
    for _ in range(2):
        assert (resolve.find(str(tmp_path / name)) / "model_index.json").is_file()
