"""Files go where user interfaces look for them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.shipped import ASSETS
from tenshot.inspect.inspect import InspectOptions, inspect
from tests.dreambooth_runs import Bench
from tests.test_adapter_files import a_lora
from tests.test_checkpoints import run
from tests.test_merge import run as merge


@pytest.mark.parametrize(
    ("to", "where"),
    [
        ("webui", ("models/Stable-diffusion", "models/Lora", "embeddings", "models/VAE")),
        ("comfyui", ("models/checkpoints", "models/loras", "models/embeddings", "models/vae")),
    ],
)
def test_each_in_its_folder(to: str, where: tuple[str, ...], sd1: Path, tmp_path: Path):
    place = tmp_path / "ui"
    (place / "models").mkdir(parents=True)
    lora = a_lora(sd1, tmp_path / "az.safetensors")
    save_file({"emb_params": torch.zeros(2, 16)}, tmp_path / "word.safetensors")
    picture = next((ASSETS / "subjects" / "koala").glob("*.png"))
    for source in (sd1, lora, tmp_path / "word.safetensors", sd1 / "vae"):
        run(source, "--to", to, place, "--name", "mine", "--trigger", "az baby", "--preview", picture)
    for folder in where:
        assert load_file(place / folder / "mine.safetensors")
        assert json.loads((place / folder / "mine.json").read_text())["activation text"] == "az baby"
        assert Image.open(place / folder / "mine.png").mode == "RGB"
    assert any(name.startswith("lora_unet_") for name in load_file(place / where[1] / "mine.safetensors"))
    assert "model.diffusion_model.out.2.bias" in load_file(place / where[0] / "mine.safetensors")


def test_a_file_stays_a_file(sd1: Path, tmp_path: Path):
    (tmp_path / "models").mkdir()
    run(sd1, tmp_path / "one.safetensors")
    found = run(tmp_path / "one.safetensors", "--to", "webui", tmp_path)
    assert found["written"].endswith("models/Stable-diffusion/one.safetensors")
    one, other = load_file(tmp_path / "one.safetensors"), load_file(Path(found["written"]))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_cannot_be_is_refused_together(sd1: Path, tmp_path: Path):
    with pytest.raises(Refusal) as refused:
        run(sd1, "--to", "webui", tmp_path / "nowhere", "--name", "../x", "--preview", tmp_path / "none.png")
    assert len(refused.value.faults) == 3


@pytest.mark.parametrize("content", [b"no picture", b"\x89PNG\r\n\x1a\n cut", b""])
def test_a_preview_that_is_no_picture_is_refused_before_anything_is_written(content: bytes, sd1: Path, tmp_path: Path):
    place = tmp_path / "ui"
    (place / "models").mkdir(parents=True)
    (tmp_path / "a.png").write_bytes(content)
    for source in (a_lora(sd1, tmp_path / "az.safetensors"), sd1):
        with pytest.raises(Refusal, match=r"a\.png"):
            run(source, "--to", "webui", place, "--preview", tmp_path / "a.png")
    assert not [path for path in place.rglob("*") if path.is_file()]


def interface(folder: Path) -> Path:
    (folder / "models").mkdir(parents=True)
    return folder


@pytest.mark.usefixtures("sketches")
@pytest.mark.parametrize(
    ("way", "given", "file", "trigger"),
    [
        ("dreambooth", {}, "models/Stable-diffusion/mine", "a photo of az baby"),
        pytest.param("full", {}, "models/Stable-diffusion/mine", "", marks=pytest.mark.slow),
        ("lora", {"train_text_encoder": True}, "models/Lora/mine", "a photo of az baby"),
        ("inversion", {"placeholder_token": ["<az>"], "initializer_token": ["toy"]}, "embeddings/az", "az"),
    ],
)
def test_a_training_ends_with_it(
    way: str, given: dict, file: str, trigger: str, sd1: Path, pictures: Path, tmp_path: Path
):
    web, comfy = interface(tmp_path / "web"), interface(tmp_path / "comfy")
    bench = Bench(sd1, pictures, tmp_path, way)
    asked = {"export": [f"webui:{web}", f"comfyui:{comfy}"], "validation_prompt": "a bear", "validation_steps": "3"}
    if way == "full":
        asked["train_data_dir"] = str(shutil.copytree(pictures, tmp_path / "captioned"))
        for each in (tmp_path / "captioned").glob("*.png"):
            each.with_suffix(".txt").write_text("a photo")
    folder = bench.run("mine", **given, **asked)
    made = web / f"{file}.safetensors"
    (other,) = comfy.rglob("*.safetensors")
    assert other.read_bytes() == made.read_bytes()
    assert json.loads(made.with_suffix(".json").read_text())["activation text"] == trigger
    assert Image.open(made.with_suffix(".png")).size == (64, 64)
    file_of = {"lora": "pytorch_lora_weights.safetensors", "inversion": "az.safetensors"}
    more = ("--config", sd1) if way == "lora" else ()
    by_hand = run(
        folder / file_of.get(way, ""), "--to", "webui", interface(tmp_path / "hand"), "--name", made.stem, *more
    )
    one, two = load_file(Path(by_hand.get("file", by_hand.get("written")))), load_file(made)
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    if way != "inversion":
        told = inspect(InspectOptions(file=made), Events())
        assert told.get("trigger_words", [""])[0] == (trigger or "a photo")
        assert told["training"]["ss_steps"] == "3" and told["training"]["ss_num_train_images"] == "5"
    again = bench.refused("other", **given, **asked, output_dir=str(tmp_path / "x" / "mine"))
    assert again == ["--export", "--export"]


def test_what_cannot_be_handed_over_is_refused_with_the_rest(sd1: Path, pictures: Path, tmp_path: Path):
    bench = Bench(sd1, pictures, tmp_path)
    wrong = ["webui", "forge:x", f"comfyui:{tmp_path / 'nowhere'}"]
    where = bench.refused("mine", export=wrong, instance_data_dir=str(tmp_path / "none"))
    assert where.count("--export") == 3 and "--instance_data_dir" in where
    assert not (tmp_path / "mine").exists()


def test_a_merge_ends_with_it(sd1: Path, tmp_path: Path):
    web, lora = interface(tmp_path / "web"), a_lora(sd1, tmp_path / "one.safetensors")
    into = ("--sd_model", sd1, "--models", lora, "--save_to", tmp_path / "model", "--export", f"webui:{web}")
    assert merge(*into)["exported"] == [str(web / "models/Stable-diffusion/model.safetensors")]
    run(tmp_path / "model", tmp_path / "model.safetensors")
    assert (web / "models/Stable-diffusion/model.safetensors").read_bytes() == (
        tmp_path / "model.safetensors"
    ).read_bytes()
    both = ("--models", lora, lora, "--save_to", tmp_path / "both.safetensors", "--export", f"webui:{web}")
    assert merge(*both)["exported"] == [str(web / "models/Lora/both.safetensors")]
    assert any(name.startswith("lora_unet_") for name in load_file(web / "models/Lora/both.safetensors"))
    (tmp_path / "both.safetensors").unlink()
    with pytest.raises(Refusal, match="exists"):
        merge(*both)
    assert not (tmp_path / "both.safetensors").exists()
