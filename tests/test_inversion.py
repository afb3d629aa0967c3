"""Textual inversion from end to end: equal to a table with more rows, and read by diffusers' pipelines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from tenshot.adapters import embedding
from tenshot.core.errors import Refusal
from tenshot.core.shipped import ASSETS
from tenshot.io.image_folder import read_folder
from tenshot.model import model
from tenshot.train.data.captions import Captions
from tenshot.train.engine.rng import CounterRNG
from tenshot.train.methods import textual_inversion
from tests import plain_finetune, tiny
from tests.dreambooth_runs import PRIOR, Bench, losses

WORD = "<az>"


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    folder = tiny.pictures(tmp_path / "captioned", 3)
    for number in range(3):
        (folder / f"picture-{number}.txt").write_text(f"a photo of {WORD}, number {number}")
    return folder


@pytest.fixture
def bench(sd1: Path, captioned: Path, tmp_path: Path, bench: Bench) -> Bench:
    made = Bench(sd1, captioned, tmp_path, "inversion")
    made.base |= {"placeholder_token": [WORD], "initializer_token": ["toy"], "learning_rate": "1e-2"}
    return made


@pytest.mark.parametrize(
    ("family", "vectors"),
    [
        ("sd1", 4),
        ("sd2_v", 1),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("sd1", 1), ("sd2_v", 4))),
    ],
)
def test_losses_and_vectors_are_those_of_a_plain_implementation(
    family: str, vectors: int, bench: Bench, request: pytest.FixtureRequest
):
    bench.base["pretrained_model_name_or_path"] = str(request.getfixturevalue(family))
    options = bench.options("out", num_vectors=vectors)
    base = model.load(options.pretrained_model_name_or_path)
    rows = embedding.beginning(base, "toy", vectors)["text_encoder"]
    wanted, learned = plain_finetune.inversion(options, WORD, rows)
    folder = bench.run("out", num_vectors=vectors)
    assert losses(folder) == pytest.approx(wanted, rel=2e-4)
    found = load_file(folder / "az.safetensors")[WORD]
    torch.testing.assert_close(found, learned, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(found, rows, atol=1e-3)


def test_diffusers_reads_the_file_and_says_the_same(bench: Bench, sd1: Path):
    folder = bench.run("out", num_vectors=2)
    pipe = StableDiffusionPipeline.from_pretrained(sd1)
    pipe.load_textual_inversion(str(folder / "az.safetensors"))
    theirs = pipe.encode_prompt(f"a photo of {WORD}", "cpu", 1, False)[0]
    ours = embedding.add(model.load(str(sd1)), WORD, embedding.read(folder / "az.safetensors")[1])
    with torch.no_grad():
        said = ours.conditioning([f"a photo of {WORD}"], (64, 64))["encoder_hidden_states"]
    torch.testing.assert_close(said, theirs)


def test_both_encoders_of_sdxl_learn_and_pool_where_the_prompt_ends(bench: Bench, sdxl: Path):
    bench.base["pretrained_model_name_or_path"] = str(sdxl)
    folder = bench.run("out", num_vectors=2)
    named = load_file(folder / "az.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in named.items()} == {"clip_l": (2, 16), "clip_g": (2, 32)}
    plain = model.load(str(sdxl))
    with torch.no_grad():
        before = plain.conditioning(["a toy"], (64, 64))
        grown = embedding.add(plain, WORD, embedding.read(folder / "az.safetensors")[1])
        after = grown.conditioning(["a toy"], (64, 64))
    assert torch.equal(before["encoder_hidden_states"], after["encoder_hidden_states"])
    assert torch.equal(before["added_cond_kwargs"]["text_embeds"], after["added_cond_kwargs"]["text_embeds"])


def test_words_stand_for_themselves_only():
    opened = model.load("pocket")
    rows = embedding.beginning(opened, "cat", 2)
    opened = embedding.add(embedding.add(opened, "xq", rows), "xq-two", rows)
    assert opened.expand_tokens("xq boxqen xq, xq-two") == "xq xq_1 boxqen xq xq_1, xq-two xq-two_1"
    ids = opened["tokenizer"]("xq boxqen", add_special_tokens=False).input_ids
    plain = model.load("pocket")["tokenizer"]("boxqen", add_special_tokens=False).input_ids
    assert ids[1:] == plain
    with pytest.raises(Refusal, match="knows"):
        embedding.add(opened, "cat", rows)


def test_a_word_is_said_in_any_case_and_beside_any_letter(sd1: Path):
    opened = model.load(str(sd1))
    rows = embedding.beginning(opened, "toy", 2)
    opened = embedding.add(embedding.add(opened, WORD, rows), "xq", rows)
    assert opened.expand_tokens("<AZ> and XQ, not xqs") == "<az> <az>_1 and xq xq_1, not xqs"
    assert opened.expand_tokens("一張<az>的照片") == "一張 <az> <az>_1 的照片"
    first = opened["tokenizer"].convert_tokens_to_ids(WORD)
    assert first in opened["tokenizer"](opened.expand_tokens("my<Az>toy")).input_ids
    assert [model.mentions(text, "xq") for text in ("Xq", "xqs", "an xq-toy")] == [True, False, True]


def test_a_word_that_is_refused_late_is_no_obstacle(bench: Bench):
    bench.base["pretrained_model_name_or_path"] = "pocket"
    assert bench.refused("out", placeholder_token=["cat"], train_data_dir=str(ASSETS / "subjects" / "koala"))
    bench.run("out", train_data_dir=str(ASSETS / "subjects" / "koala"), max_train_steps="1")


def test_several_words(bench: Bench, captioned: Path):
    (captioned / "picture-0.txt").write_text("<az> beside <by>")
    folder = bench.run("out", placeholder_token=[WORD, "<by>"], initializer_token=["toy", "cup"])
    assert json.loads((folder / "manifest.json").read_text())["method"] == "textual-inversion"
    assert {path.name for path in folder.glob("*.safetensors")} == {"az.safetensors", "by.safetensors"}


def test_pictures_without_captions_are_spoken_of_in_many_ways(bench: Bench, pictures: Path):
    options = bench.options("out", train_data_dir=str(pictures))
    said = textual_inversion.METHOD.texts(options, Captions([""] * 5))
    heard = {text for step in range(40) for text in said.of([0, 1], CounterRNG(0, [2 * step, 2 * step + 1]))}
    assert heard == {saying.format(WORD) for saying in textual_inversion.SAYINGS["object"]}
    assert (bench.run("out", train_data_dir=str(pictures)) / "az.safetensors").is_file()


@pytest.mark.parametrize(("given", "where"), [
    ({"initializer_token": ["toy", "cup"]}, "--initializer_token"),
    ({"placeholder_token": ["<az>", "<az>"], "initializer_token": ["toy", "cup"]}, "--placeholder_token"),
    (PRIOR, "--with_prior_preservation"),
    ({"train_text_encoder": True}, "--train_text_encoder"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(given: dict, where: str, bench: Bench):
    assert bench.refused("out", **given) == [where]
    assert not (bench.folder / "out").exists()


def test_a_caption_without_the_word_is_refused(bench: Bench, captioned: Path):
    (captioned / "picture-0.txt").write_text("a photo of <AZ>")
    assert [*textual_inversion.METHOD.unsaid(bench.options("out"), read_folder(captioned))] == []
    (captioned / "picture-1.txt").write_text("a photo of nothing")
    assert bench.refused("out") == ["--placeholder_token"]
