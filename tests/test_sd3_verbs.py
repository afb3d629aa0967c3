"""Stable Diffusion 3 through the verbs that its other tests do not come to: words, extracts, merges, UIs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file

from tenshot.adapters import embedding, parsing
from tenshot.cli.main import main
from tenshot.families import sd3 as family
from tenshot.io import tensor_files
from tenshot.model import model

WORD = "<az>"


@pytest.fixture(params=["sd3", "sd35"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Any:
    def ask(*words: object) -> dict[str, Any]:
        capsys.readouterr()
        assert main([*map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return ask


@pytest.fixture
def tuned(folder: Path, tmp_path: Path) -> Path:
    """The model with two ranks more in some layers of its transformer and of both CLIPs."""
    place = shutil.copytree(folder, tmp_path / "tuned")
    dice = torch.Generator().manual_seed(0)
    for part, layers in (
        (
            "transformer",
            ("transformer_blocks.0.attn.to_q", "transformer_blocks.1.norm1_context.linear", "norm_out.linear"),
        ),
        ("text_encoder", ("text_model.encoder.layers.0.mlp.fc1",)),
        ("text_encoder_2", ("text_model.encoder.layers.1.self_attn.v_proj",)),
    ):
        (file,) = (place / part).glob("*.safetensors")
        named = load_file(file)
        for layer in layers:
            name = next(
                name
                for name in named
                if name.removeprefix("text_model.") == f"{layer}.weight".removeprefix("text_model.")
            )
            rows, columns = named[name].shape
            named[name] += torch.randn(rows, 2, generator=dice) @ torch.randn(2, columns, generator=dice) / 8
        save_file(named, file, {"format": "pt"})
    return place


def answer(place: Path) -> torch.Tensor:
    """Of diffusers' own pipeline: what its transformer says to a prompt."""
    without = {} if (place / "text_encoder_3").is_dir() else {"text_encoder_3": None, "tokenizer_3": None}
    pipe = StableDiffusion3Pipeline.from_pretrained(place, **without)
    x = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        states, _, pooled, _ = pipe.encode_prompt("a cat", None, None, do_classifier_free_guidance=False)
        return pipe.transformer(x, states, pooled, torch.tensor([500.0])).sample


@pytest.mark.parametrize("rank", [2, 1])
def test_what_training_changed_is_extracted_and_merged_again(
    rank: int, folder: Path, tuned: Path, tmp_path: Path, told: Any
):
    found = told("extract", tuned, "--base", folder, "--out", tmp_path / "it.safetensors", "--rank", rank)
    assert found["family"] == "Stable Diffusion 3" and found["layers"] == 5
    assert (found["relative_error"] < 1e-4) == (rank == 2)
    told("merge", "--sd_model", folder, "--models", tmp_path / "it.safetensors", "--save_to", tmp_path / "again")
    assert torch.allclose(answer(tmp_path / "again"), answer(tuned), atol=1e-4) == (rank == 2)
    assert not torch.allclose(answer(folder), answer(tuned), atol=1e-3)


def test_loras_are_resized_and_merged_with_one_another(folder: Path, tuned: Path, tmp_path: Path, told: Any):
    one, two, three = (tmp_path / f"{name}.safetensors" for name in ("one", "two", "three"))
    told("extract", tuned, "--base", folder, "--out", one, "--rank", 2)
    resized = told("resize", one, "--out", two, "--rank", 1)
    assert resized["rank"] == 1 and 0 < resized["relative_error"] < 1
    told("merge", "--models", one, two, "--ratios", 0.5, 0.25, "--save_to", three)
    first, second, both = (parsing.low_rank(tensor_files.opened(file)) for file in (one, two, three))
    assert first.keys() == second.keys() == both.keys()
    for layer, each in both.items():
        expected = 0.5 * first[layer].difference() + 0.25 * second[layer].difference()
        assert torch.allclose(each.difference(), expected, atol=1e-5)
    seen = told("inspect", three)
    assert seen["family"] == "Stable Diffusion 3" and "left_out" not in seen
    assert seen["training"]["ss_base_model_version"] == {"sd3": "medium", "sd35": "5-medium"}[folder.name]


def test_words_are_learned_for_both_clips(folder: Path, pictures: Path, tmp_path: Path, told: Any):
    words = ["--placeholder_token", WORD, "--initializer_token", "cat", "--num_vectors", 2, "--learning_rate", 0.1]
    quick = ["--max_train_steps", 2, "--device", "cpu", "--report_to", "none", "--output_dir", tmp_path / "out"]
    for ui in ("webui", "comfyui"):
        (tmp_path / ui / "models").mkdir(parents=True)
    export = ["--export", *(f"{ui}:{tmp_path / ui}" for ui in ("webui", "comfyui"))]
    base = ["--pretrained_model_name_or_path", folder, "--train_data_dir", pictures]
    told("train", "textual-inversion", *base, *words, *quick, *export)
    file = tmp_path / "out" / "az.safetensors"
    named = load_file(file)
    assert {name: tensor.shape for name, tensor in named.items()} == {"clip_l": (2, 16), "clip_g": (2, 24)}
    for place in ("webui/embeddings", "comfyui/models/embeddings"):
        assert all(
            torch.equal(each, named[name]) for name, each in load_file(tmp_path / place / "az.safetensors").items()
        )
    pair = told("convert", file, tmp_path / "pair", "--form", "diffusers")
    assert pair["word"] == WORD and embedding.read(tmp_path / "pair")[1].keys() == {"text_encoder", "text_encoder_2"}
    # A tensor for each CLIP is what its layer is given; T5 reads the prompt without the word.
    opened = model.load(str(folder))
    plain = opened.encode_prompt(["a photo of "])
    opened = embedding.add(opened, *embedding.read(file))
    given = {}
    for part, name in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")):
        opened[part].get_input_embeddings().register_forward_hook(
            lambda module, ids, out, name=name: given.setdefault(name, out[0])
        )
    found = opened.encode_prompt([f"a photo of {WORD}"])
    for name, tensor in named.items():
        rows = [place for place, row in enumerate(given[name]) if any(torch.equal(row, each) for each in tensor)]
        assert len(rows) == 2 and rows[1] == rows[0] + 1
    states = [each["encoder_hidden_states"] for each in (plain, found)]
    assert not torch.allclose(states[0][:, :77], states[1][:, :77])
    assert torch.equal(states[0][:, 77:], states[1][:, 77:])
    encoders = opened.text_encoders
    assert encoders.keys() == {part for part in opened.parts if part.startswith("text_encoder")}
    assert all(opened.tokenizer(part) is opened[part.replace("text_encoder", "tokenizer")] for part in encoders)


def test_t5_is_not_told_words_that_the_clips_learned():
    """As in ComfyUI, whose T5 leaves out what has no vectors of its width."""

    class Clip:
        all_special_tokens = ("<|endoftext|>",)

        def get_added_vocab(self) -> dict[str, int]:
            return {"<|endoftext|>": 1, "<az>": 2, "<az>_1": 3}

    prompts = ["a photo of <az> <az>_1, in snow", "<az> <az>_1", "a <|endoftext|>"]
    assert family.said_to_t5(Clip(), prompts) == ["a photo of , in snow", "", "a <|endoftext|>"]


def test_a_model_goes_to_every_user_interface(folder: Path, tmp_path: Path, told: Any):
    assert told("inspect", folder)["prediction"] == "flow_prediction"
    for ui, place in (("webui", "models/Stable-diffusion"), ("comfyui", "models/checkpoints")):
        (tmp_path / ui / "models").mkdir(parents=True)
        told("convert", folder, "--to", ui, tmp_path / ui, "--name", "it")
        file = tmp_path / ui / place / "it.safetensors"
        seen = told("inspect", file)
        assert (seen["what"], seen["family"]) == ("checkpoint", "Stable Diffusion 3")
        assert not file.with_suffix(".yaml").exists()
        told("convert", file, tmp_path / f"back-{ui}")
        assert torch.equal(answer(tmp_path / f"back-{ui}"), answer(folder))
