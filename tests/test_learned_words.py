"""Learned words as diffusers, AUTOMATIC1111 and ComfyUI write and read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from tenshot.adapters import embedding
from tenshot.core.errors import Refusal
from tenshot.core.shipped import ASSETS
from tenshot.export.compatibility import ALL, COMFY, DIFFUSERS, WEBUI
from tenshot.model import model
from tests.test_adapter_files import pipeline, run
from tests.test_adapters import draw
from tests.test_inspect import told as told

WORD = "<az>"


def vectors(width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, width, generator=torch.Generator().manual_seed(seed))


def save(file: Path, width: int, name: str = WORD, seed: int = 0) -> Path:
    file.parent.mkdir(exist_ok=True)
    save_file({name: vectors(width, seed)}, file)
    return file


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """What diffusers' script for Stable Diffusion XL leaves, in the tiny model's widths."""
    save(tmp_path / "pair" / "learned_embeds.safetensors", 16)
    save(tmp_path / "pair" / "learned_embeds_2.safetensors", 32, seed=1)
    return tmp_path / "pair"


def test_the_word_is_the_tensors_name(sd1: Path, tmp_path: Path):
    file = save(tmp_path / "learned_embeds.safetensors", 16)
    assert embedding.read(file)[0] == WORD
    plain, said = (draw(sd1, tmp_path / f"{n}.png", embedding=e) for n, e in (("plain", []), ("said", [str(file)])))
    assert abs(said - plain).max() > 1
    theirs = pipeline(sd1)
    theirs.load_textual_inversion(str(file))
    found = run(file)
    assert Path(found["written"]).name == "az.safetensors" and found["word"] == WORD
    ours = pipeline(sd1)
    ours.load_textual_inversion(found["written"])
    one, other = (pipe.encode_prompt(f"a {WORD}", "cpu", 1, False)[0] for pipe in (theirs, ours))
    assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["emb_params", "*"])
def test_a_tensor_that_says_no_word_leaves_it_to_the_file(name: str, tmp_path: Path):
    assert embedding.read(save(tmp_path / "az.safetensors", 16, name))[0] == "az"


def test_names_that_no_tensor_can_have(tmp_path: Path):
    for word in embedding.TAKEN:
        embedding.write(tmp_path / "a.safetensors", word, {"text_encoder": vectors(16)})
        read, rows = embedding.read(tmp_path / "a.safetensors")
        assert (read, torch.equal(rows["text_encoder"], vectors(16))) == (word, True)


@pytest.mark.parametrize("named", ["folder", "first", "second", "both", "other names"])
def test_two_files_are_one_word(named: str, pair: Path, sdxl: Path, tmp_path: Path):
    files = [pair / "learned_embeds.safetensors", pair / "learned_embeds_2.safetensors"]
    if named == "other names":
        files = [file.rename(tmp_path / f"{number}.safetensors") for number, file in enumerate(files[::-1])]
    given = {"folder": [pair], "first": files[:1], "second": files[1:], "both": files, "other names": files}[named]
    ((word, _, rows),) = embedding.read_all(given)
    assert word == WORD
    assert torch.equal(rows["text_encoder"], vectors(16)) and torch.equal(rows["text_encoder_2"], vectors(32, 1))
    plain = draw(sdxl, tmp_path / "plain.png")
    assert abs(draw(sdxl, tmp_path / "said.png", embedding=[str(each) for each in given]) - plain).max() > 1


def test_the_pair_becomes_what_user_interfaces_read_and_back(pair: Path, sdxl: Path, tmp_path: Path):
    found = run(pair, tmp_path / "az.safetensors")
    assert found["word"] == WORD
    two = load_file(tmp_path / "az.safetensors")
    assert torch.equal(two["clip_l"], vectors(16)) and torch.equal(two["clip_g"], vectors(32, 1))
    run(tmp_path / "az.safetensors", tmp_path / "back", "--form", "diffusers")
    pipe = StableDiffusionXLPipeline.from_pretrained(sdxl)
    for number in ("", "_2"):
        encoder, tokenizer = getattr(pipe, f"text_encoder{number}"), getattr(pipe, f"tokenizer{number}")
        told = {"weight_name": f"learned_embeds{number}.safetensors", "text_encoder": encoder, "tokenizer": tokenizer}
        pipe.load_textual_inversion(str(tmp_path / "back"), **told)
        row = encoder.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(WORD)]
        assert torch.equal(row, (two["clip_g"] if number else two["clip_l"])[0])


def test_half_a_pair_and_strange_widths_are_refused(sd1: Path, sdxl: Path, tmp_path: Path):
    one = save(tmp_path / "a" / "learned_embeds.safetensors", 16)
    two = save(tmp_path / "b" / "learned_embeds_2.safetensors", 32)
    wide = save(tmp_path / "c" / "az.safetensors", 1280)
    for file in (one, two, wide):
        with pytest.raises(Refusal, match="both"):
            draw(sdxl, tmp_path / "out.png", embedding=[str(file)])
    for file in (two, wide):
        with pytest.raises(Refusal, match="second text encoder"):
            run(file, tmp_path / "out.safetensors")
        with pytest.raises(Refusal):
            draw(sd1, tmp_path / "out.png", embedding=[str(file)])
    with pytest.raises(Refusal, match="too"):
        draw(sd1, tmp_path / "out.png", embedding=[str(one), str(save(tmp_path / "d" / "x.safetensors", 16))])
    assert not list(tmp_path.glob("out.*"))


def test_a_word_without_numbers_is_refused(sd1: Path, tmp_path: Path, told: Any):
    file = tmp_path / "az.safetensors"
    save_file({WORD: torch.full((1, 16), float("nan"))}, file)
    for act in (lambda: draw(sd1, tmp_path / "out.png", embedding=[str(file)]), lambda: run(file, tmp_path / "b.pt")):
        with pytest.raises(Refusal, match="NaN"):
            act()
    assert not told(file)["loads_in"]


@pytest.mark.parametrize("values", [torch.zeros(0, 768), torch.zeros(3, 0), torch.zeros(2, 768, dtype=torch.int64)])
def test_a_word_of_nothing_is_refused(values: torch.Tensor, tmp_path: Path, told: Any):
    save_file({WORD: values}, tmp_path / "az.safetensors")
    with pytest.raises(Refusal, match="floating-point"):
        embedding.read(tmp_path / "az.safetensors")
    assert not told(tmp_path / "az.safetensors")["loads_in"]


def test_inspect_says_what_it_is_called_where(tmp_path: Path, told: Any):
    found = told(save(tmp_path / "a" / "az.safetensors", 768))
    assert found["family"] == "Stable Diffusion 1.x" and found["loads_in"] == list(ALL)
    assert found["in_the_prompt"] == {WEBUI: "az", COMFY: "embedding:az", DIFFUSERS: WORD, "tenshot": WORD}
    assert DIFFUSERS in told(save(tmp_path / "b" / "az.safetensors", 768, "emb_params"))["not_in"]
    assert not told(save(tmp_path / "c" / "learned_embeds_2.safetensors", 1280))["loads_in"]
    assert told(save(tmp_path / "d" / "az.safetensors", 16))["loads_in"] == [DIFFUSERS, "tenshot"]
    save(tmp_path / "c" / "learned_embeds.safetensors", 768)
    assert "joins them" in told(tmp_path / "c")["not_in"][WEBUI]


def test_an_ordinary_folder_trains_in_float32(tmp_path: Path):
    """transformers opens a text encoder in the type that its configuration names; in float16 words learn to NaN."""
    from transformers import CLIPTextModel

    run("pocket", tmp_path / "half", "--dtype", "fp16")
    model.save(model.load("pocket", precision="fp16"), tmp_path / "saved")
    for folder in (ASSETS / "pocket", tmp_path / "half", tmp_path / "saved"):
        assert CLIPTextModel.from_pretrained(folder / "text_encoder").dtype == torch.float32
    stored = load_file(tmp_path / "half" / "text_encoder" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
