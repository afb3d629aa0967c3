"""Model folders and files of the original layout, there and back; diffusers' own reader agrees."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from transformers import T5Tokenizer

from tenshot import pipeline
from tenshot.cli.main import main
from tenshot.convert.convert import convert
from tenshot.convert.options import ConvertOptions
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.options import gather
from tenshot.core.size import Size
from tenshot.model import model, tokenizers
from tenshot.pipeline import Request, SamplingSettings

FAMILIES = ("sd1", "sd2_v", "sdxl", "sd3", "sd35")
PIPELINES = {"sdxl": StableDiffusionXLPipeline, "sd3": StableDiffusion3Pipeline, "sd35": StableDiffusion3Pipeline}


def run(*words: object) -> dict:
    return convert(gather(ConvertOptions, [str(word) for word in words]), Events())


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def weights(opened: model.Model) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": tensor for part in opened.family.nets for name, tensor in opened[part].state_dict().items()
    }


def equal(one: Path | model.Model, other: Path | model.Model) -> None:
    first, second = (weights(model.load(str(each)) if isinstance(each, Path) else each) for each in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def drawn(opened: model.Model) -> bytes:
    settings = SamplingSettings(steps=2, size=Size(64, 64))
    return pipeline.images(opened, [Request("a photo of az baby", 1)], settings)[0].tobytes()


def test_there_and_back_is_bit_exact(folder: Path, tmp_path: Path):
    file, back, again = tmp_path / "one.safetensors", tmp_path / "back", tmp_path / "again.safetensors"
    run(folder, file)
    run(file, back)
    run(back, again)
    before, after = (model.load(str(place)) for place in (folder, back))
    equal(before, after)
    there, here = load_file(file), load_file(again)
    assert there.keys() == here.keys()
    assert all(torch.equal(there[name], here[name]) for name in there)
    assert drawn(before) == drawn(after)
    assert before.process.prediction == after.process.prediction


def test_diffusers_reads_the_same_from_the_file(folder: Path, tmp_path: Path):
    file = tmp_path / "one.safetensors"
    run(folder, file)
    opened = model.load(str(folder))
    kind = PIPELINES.get(folder.name, StableDiffusionPipeline)
    # diffusers 0.42 beside transformers 5 leaves T5's words without memory, and SD3 wants T5 named where there is none.
    t5 = {part: opened.parts.get(part) for part in ("text_encoder_3", "tokenizer_3") if "sd3" in folder.name}
    theirs = kind.from_single_file(str(file), config=str(folder), local_files_only=True, **t5)
    for part in (opened.family.denoiser, "vae"):
        expected = opened[part].state_dict()
        found = getattr(theirs, part).state_dict()
        assert all(torch.equal(found[name], expected[name]) for name in expected), part
    ids = torch.tensor([[5, 6, 7, 8]])
    for part in opened.family.encoders:
        if "2" not in folder.name + part:  # diffusers' reader of OpenCLIP's layout misses what transformers 5 renamed
            assert torch.equal(getattr(theirs, part)(ids)[0], opened[part](ids)[0]), part


def test_the_names_are_the_original_ones(sdxl: Path, tmp_path: Path):
    file = tmp_path / "one.safetensors"
    run(sdxl, file)
    found = load_file(file)
    for name in (
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.label_emb.0.0.weight",
        "model.diffusion_model.middle_block.1.transformer_blocks.1.attn2.to_k.weight",
        "first_stage_model.decoder.up.0.block.0.conv1.weight",
        "first_stage_model.encoder.mid.attn_1.q.weight",
        "conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
        "conditioner.embedders.1.model.ln_final.weight",
        "conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight",
        "conditioner.embedders.1.model.text_projection",
    ):
        assert name in found
    assert found["first_stage_model.encoder.mid.attn_1.q.weight"].shape[2:] == (1, 1)


def test_clips_tokenizer_is_clips():
    made = tokenizers.from_metadata({}, "!", 49408, "file")
    assert made("a photo of an astronaut riding a horse").input_ids == [
        49406, 320, 1125, 539, 550, 18376, 6765, 320, 4558, 49407,
    ]  # fmt: skip
    assert (made.pad_token_id, made.eos_token_id, len(made)) == (0, 49407, 49408)


def test_t5s_tokenizer_is_t5s(tmp_path: Path):
    """The numbers are those of the documentation of transformers (T5, training)."""
    made = tokenizers.from_metadata({}, "<pad>", tokenizers.T5_TOKENS, "file", T5Tokenizer)
    assert made("translate English to German: The house is wonderful.").input_ids == [
        13959, 1566, 12, 2968, 10, 37, 629, 19, 1627, 5, 1,
    ]  # fmt: skip
    assert (made.pad_token_id, made.eos_token_id, len(made), made.model_max_length) == (0, 1, 32100, 512)
    assert made("  lead and trail ").input_ids == made("lead and trail").input_ids  # as sentencepiece has it
    made.save_pretrained(tmp_path / "tokenizer_3")
    assert tokenizers.as_metadata(tmp_path / "tokenizer_3", "<pad>", T5Tokenizer) == {}
    with pytest.raises(Refusal, match="an encoder of 97 tokens"):
        tokenizers.from_metadata({}, "<pad>", 97, "file", T5Tokenizer)


def test_halves_only_what_is_floating(sd1: Path, tmp_path: Path):
    run(sd1, tmp_path / "one.safetensors", "--dtype", "fp16")
    kept = {name: each.dtype for name, each in load_file(tmp_path / "one.safetensors").items()}
    assert set(kept.values()) == {torch.float16}


def test_a_pickle_is_read_and_written(sd1: Path, tmp_path: Path):
    run("--model_path", sd1, "--checkpoint_path", tmp_path / "one.ckpt")
    assert (tmp_path / "one.ckpt").read_bytes()[:2] == b"\x80\x02"
    run(tmp_path / "one.ckpt", tmp_path / "back", "--config", sd1)
    equal(sd1, tmp_path / "back")


def test_the_running_average_is_a_choice(sd1: Path, tmp_path: Path):
    run(sd1, tmp_path / "one.safetensors")
    found = load_file(tmp_path / "one.safetensors")
    start = "model.diffusion_model."
    for name in [name for name in found if name.startswith(start)]:
        found["model_ema." + name.removeprefix("model.").replace(".", "")] = found[name] + 1
    found["model_ema.decay"] = torch.tensor(0.9999)
    save_file(found, tmp_path / "two.safetensors")
    plain = run(tmp_path / "two.safetensors", tmp_path / "plain", "--config", sd1)
    equal(sd1, tmp_path / "plain")
    assert {"reason": "how the running average was kept", "tensors": 1} in plain["ledger"]["left_over"]
    run(tmp_path / "two.safetensors", tmp_path / "average", "--config", sd1, "--ema")
    before, after = (model.load(str(place))["unet"].conv_in.weight for place in (sd1, tmp_path / "average"))
    assert torch.equal(after, before + 1)


def test_what_is_missing_or_strange_is_refused_at_once(sd1: Path, tmp_path: Path):
    run(sd1, tmp_path / "one.safetensors")
    found = load_file(tmp_path / "one.safetensors")
    del found["model.diffusion_model.out.2.bias"]
    found["something.else"] = torch.zeros(1)
    save_file(found, tmp_path / "two.safetensors")
    with pytest.raises(Refusal) as refused:
        run(tmp_path / "two.safetensors", tmp_path / "back", "--config", sd1)
    assert "out.2.bias" in str(refused.value) and "something.else" in str(refused.value)
    assert not (tmp_path / "back").exists()


def test_old_names_of_the_autoencoder_are_read(sd1: Path, tmp_path: Path):
    run(sd1, tmp_path / "one.safetensors")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    copy = shutil.copytree(sd1, tmp_path / "old")
    file = copy / "vae" / "diffusion_pytorch_model.safetensors"
    found = load_file(file)
    for new, former in old.items():
        found = {name.replace(f"attentions.0.{new}.", f"attentions.0.{former}."): each for name, each in found.items()}
    save_file(found, file, {"format": "pt"})
    assert isinstance(AutoencoderKL.from_pretrained(copy / "vae"), AutoencoderKL)
    run(copy, tmp_path / "two.safetensors")
    one, two = load_file(tmp_path / "one.safetensors"), load_file(tmp_path / "two.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_command_line(sd1: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["convert", str(sd1), str(tmp_path / "one.safetensors"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["what"] == "checkpoint"
    assert main(["convert", str(sd1), str(tmp_path / "one.safetensors")]) == 2
    assert "exists" in capsys.readouterr().err
