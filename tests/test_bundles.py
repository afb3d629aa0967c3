"""Learned words within a LoRA's file are known when drawing, and never lost on the way to another file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tenshot.adapters import embedding, lora
from tenshot.cli.main import main
from tenshot.core.errors import Refusal
from tenshot.model import model
from tests.test_adapter_files import a_lora
from tests.test_adapter_files import run as convert
from tests.test_extract import run_resize as resize
from tests.test_merge import run as merge

LAYOUTS = ("clip_l", "emb_params", "string_to_param.*")


def bundled(folder: Path, file: Path, layout: str = "clip_l", word: str = "<az>", seed: int = 0) -> Path:
    """A LoRA of kohya's names with a word of two vectors within."""
    plain = file.with_name(f"plain-{file.name}")
    a_lora(folder, plain, layers="attention")
    convert(plain, file, "--form", "kohya", "--config", folder)
    torch.manual_seed(seed)
    widths = {"clip_l": 16}
    if folder.name == "sdxl":
        widths = {"clip_l": 32, "clip_g": 32}
    found = {layout if len(widths) == 1 else each: torch.randn(2, width) for each, width in widths.items()}
    words = {f"bundle_emb.{word}.{name}": tensor for name, tensor in found.items()}
    save_file(
        load_file(file) | words, file, {"ss_base_model_version": "sdxl_base_v1-0" if len(widths) > 1 else "sd_v1"}
    )
    return file


def draw(folder: Path, target: Path, *words: object) -> bytes:
    from PIL import Image

    given = ["--model", str(folder), "--prompt", "a photo of <az>", "--steps", "2", "--seed", "1", "--device", "cpu"]
    assert main(["generate", *given, *map(str, words), "--out", str(target)]) == 0
    return Image.open(target).tobytes()


@pytest.mark.parametrize("layout", [*LAYOUTS[::2], pytest.param(LAYOUTS[1], marks=pytest.mark.slow)])
def test_the_word_is_known_when_drawing(layout: str, sd1: Path, tmp_path: Path):
    file = bundled(sd1, tmp_path / "it.safetensors", layout)
    rows = load_file(file)[f"bundle_emb.<az>.{layout}"]
    embedding.write(tmp_path / "az.safetensors", "<az>", {"text_encoder": rows})
    given = ("--lora", tmp_path / "plain-it.safetensors", "--embedding", tmp_path / "az.safetensors")
    within = draw(sd1, tmp_path / "1.png", "--lora", file)
    assert within == draw(sd1, tmp_path / "2.png", *given)
    assert within != draw(sd1, tmp_path / "3.png", *given[:2])


def test_a_word_that_no_prompt_says_is_told_once(sd1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = bundled(sd1, tmp_path / "it.safetensors")
    words = ["--model", sd1, "--prompt", "bear", "--steps", 1, "--lora", f"{file}=0.3", f"{file}=0.4"]
    assert main(["generate", *map(str, words), "--out", str(tmp_path / "1.png")]) == 0
    assert capsys.readouterr().err.count("no prompt says '<az>'") == 1


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_merged_it_is_written_beside(name: str, tmp_path: Path, request: pytest.FixtureRequest):
    folder = request.getfixturevalue(name)
    file = bundled(folder, tmp_path / "it.safetensors")
    told = merge("--sd_model", folder, "--models", file, "--save_to", tmp_path / "merged")
    word, rows = embedding.read(Path(told["words"]["<az>"]))
    assert word == "<az>" and rows.keys() == lora.read(file).words["<az>"].keys()
    assert all(torch.equal(each, rows[part]) for part, each in lora.read(file).words["<az>"].items())
    with pytest.raises(Refusal, match=r"az\.safetensors exists"):
        merge("--sd_model", folder, "--models", file, "--save_to", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_other_files_of_a_lora_keep_it(sd1: Path, tmp_path: Path):
    file = bundled(sd1, tmp_path / "it.safetensors")
    word = {name: tensor for name, tensor in load_file(file).items() if name.startswith("bundle_emb")}
    convert(file, tmp_path / "kohya.safetensors", "--form", "kohya", "--config", sd1)
    resize(file, "--rank", 2, "--config", sd1, "--out", tmp_path / "resized.safetensors")
    merge("--models", file, file, "--config", sd1, "--save_to", tmp_path / "sum.safetensors")
    for name in ("kohya", "resized", "sum"):
        found = load_file(tmp_path / f"{name}.safetensors")
        assert all(torch.equal(found[name], tensor) for name, tensor in word.items())
    told = convert(file, tmp_path / "diffusers.safetensors", "--form", "diffusers", "--config", sd1)
    assert embedding.read(Path(told["words"]["<az>"]))[0] == "<az>"
    (tmp_path / "models").mkdir()
    told = convert(file, "--to", "comfyui", tmp_path, "--config", sd1)
    assert told["words"] == {"<az>": str(tmp_path / "models" / "embeddings" / "az.safetensors")}


def test_two_meanings_of_one_word_are_refused(sd1: Path, tmp_path: Path):
    one, two = (bundled(sd1, tmp_path / f"{seed}.safetensors", seed=seed) for seed in (0, 1))
    for more in (("--sd_model", sd1), ("--config", sd1)):
        with pytest.raises(Refusal, match="'<az>', and so does a file before it"):
            merge(*more, "--models", one, two, "--save_to", tmp_path / "out.safetensors")
    with pytest.raises(Refusal, match="holds learned words: <az>"):
        lora.to_train(lora.read(one), one)


def test_inspect_says_the_word(sd1: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["inspect", str(bundled(sd1, tmp_path / "it.safetensors")), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["words"] == ["<az>"]


def test_a_compiled_or_open_model_is_told_of_it(sd1: Path, tmp_path: Path):
    from tenshot.core.errors import Noted
    from tenshot.runtime import compiled_model

    opened = compiled_model.load(sd1)
    with pytest.warns(Noted, match="holds the learned word <az>"):
        opened.set_loras({bundled(sd1, tmp_path / "it.safetensors"): 1.0})
    assert model.load(str(sd1)).placeholder_tokens == {}
