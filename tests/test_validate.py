"""Model folders as people have them: those that open, and everything that can be wrong with one, said at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from tenshot.core.errors import Fault, Refusal
from tenshot.core.events import Events
from tenshot.families import config_values, registry, validate
from tenshot.model import checkpoint, model
from tests.test_reading import THINGS

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.fixture
def folder(sd1: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Stable Diffusion 1.x to damage."""
    return Path(shutil.copytree(sd1, tmp_path / "model"))


def faults(folder: Path | str) -> tuple[Fault, ...]:
    with pytest.raises(Refusal) as refused:
        model.load(str(folder))
    return refused.value.faults


def places(folder: Path) -> list[str]:
    return [str(Path(fault.where).relative_to(folder)) for fault in faults(folder)]


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def rename(file: Path, new: Callable[[str], str]) -> None:
    """Give every tensor in `file` another name."""
    save_file({new(name): tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})


@pytest.mark.parametrize(("fixture", "family"), [("sd1", "sd1"), ("sd2_v", "sd2"), ("sdxl", "sdxl")])
def test_a_folder_that_diffusers_saved(fixture: str, family: str, request: pytest.FixtureRequest):
    folder = request.getfixturevalue(fixture)
    assert validate.examine(folder).name == family
    opened = model.load(str(folder))
    assert opened.process.prediction == ("v_prediction" if fixture == "sd2_v" else "epsilon")
    assert (opened.vae_scale_factor, opened.resolution) == (8, 64)
    written = load_file(folder / UNET)
    assert all(torch.equal(tensor, written[name]) for name, tensor in opened["unet"].state_dict().items())


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part(folder: Path, part: str):
    shutil.rmtree(folder / part)
    found = faults(folder)
    assert found
    assert all(Path(fault.where).relative_to(folder).parts[0] == part for fault in found)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_missing_configuration(folder: Path, part: str):
    (folder / part / "config.json").unlink()
    assert places(folder) == [f"{part}/config.json"]


def test_missing_weights_tell_what_is_there_instead(folder: Path):
    (folder / UNET).rename(folder / "unet/diffusion_pytorch_model.bin")
    (fault,) = faults(folder)
    assert "diffusion_pytorch_model.bin" in fault.found
    assert "safetensors" in fault.fits


@pytest.mark.parametrize("offset", [0, 5, 200, 40_000, -1])
@pytest.mark.parametrize("file", [UNET, VAE, TEXT])
def test_truncated_weights(folder: Path, file: str, offset: int):
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[:offset])
    (fault,) = faults(folder)
    assert fault.where == str(folder / file)
    assert f"{len(whole[:offset])} bytes" in fault.found


@pytest.mark.parametrize("text", ["", "[]", '{"_class_name": '])
@pytest.mark.parametrize(
    "file", ["model_index.json", "unet/config.json", "text_encoder/config.json", "tokenizer/tokenizer.json"]
)
def test_a_configuration_that_is_no_json_object(folder: Path, file: str, text: str):
    (folder / file).write_text(text)
    assert places(folder) == [file]


def test_a_configuration_that_makes_no_net(folder: Path):
    edit(folder / "vae/config.json", down_block_types=["NoSuchBlock"])
    (fault,) = faults(folder)
    assert fault.where == str(folder / "vae/config.json")
    assert "NoSuchBlock" in fault.found


def test_missing_tensors_are_counted_and_named(folder: Path):
    named = load_file(folder / UNET)
    lost = sorted(name for name in named if name.startswith("mid_block."))
    save_file({name: tensor for name, tensor in named.items() if name not in lost}, folder / UNET)
    (fault,) = faults(folder)
    assert fault.where == str(folder / "unet")
    assert fault.found.startswith(f"{len(lost)} of {len(named)} tensors are missing: mid_block.")


def test_wrong_shapes_are_one_fault(folder: Path):
    edit(folder / "text_encoder/config.json", intermediate_size=48)
    (fault,) = faults(folder)
    assert fault.where == str(folder / "text_encoder")
    assert "tensors have another shape" in fault.found
    assert "[32, 16] instead of [48, 16]" in fault.found


def test_parts_of_different_models(folder: Path, sd2_v: Path):
    shutil.rmtree(folder / "text_encoder")
    shutil.copytree(sd2_v / "text_encoder", folder / "text_encoder")
    (fault,) = faults(folder)
    assert fault.found == "text encoders give states of width 32, the denoiser wants 16"


@pytest.mark.parametrize("channels", [9, 8, 5])
def test_models_that_see_more_than_a_latent(folder: Path, channels: int):
    """Inpainting and InstructPix2Pix are known by their channels; a depth model is neither."""
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"), in_channels=channels)
    unet.save_pretrained(folder / "unet")
    if channels == 5:
        (fault,) = faults(folder)
        assert fault.found == "the denoiser takes 5 channels, the VAE gives 4"
    else:
        assert validate.examine(folder).name == "sd1"


def test_a_tokenizer_that_is_not_there(folder: Path):
    (folder / "tokenizer/tokenizer.json").unlink()
    (folder / "tokenizer/vocab.json").write_text("{}")
    assert [fault.found for fault in faults(folder)] == ["no tokenizer"]


def test_a_prediction_nobody_can_sample(folder: Path):
    edit(folder / "scheduler/scheduler_config.json", prediction_type="sample")
    (fault,) = faults(folder)
    assert fault.found == "prediction_type 'sample'"


@pytest.mark.parametrize("change", [{"_class_name": "UNet2DModel"}, {"addition_embed_type": "image"}])
def test_a_unet_of_no_known_family(folder: Path, change: dict[str, str]):
    edit(folder / "unet/config.json", **change)
    (fault,) = faults(folder)
    assert "no known family" in fault.found
    assert "Stable Diffusion XL" in fault.fits


def test_a_model_without_a_unet(folder: Path):
    shutil.rmtree(folder / "unet")
    (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline", "transformer": ["diffusers", "Flux"]}')
    (fault,) = faults(folder)
    assert "FluxPipeline" in fault.found


def test_no_folder(tmp_path: Path):
    (tmp_path / "weights.safetensors").write_bytes(b"")
    assert ["not a whole" in fault.found for fault in faults(tmp_path / "weights.safetensors")] == [True]
    assert ["no such file or folder here" in fault.found for fault in faults("somebody/some-model")] == [True]


def test_an_empty_folder_tells_all_that_is_missing(tmp_path: Path):
    assert {Path(fault.where).relative_to(tmp_path).parts[0] for fault in faults(tmp_path)} == {
        *("model_index.json", "unet", "vae", "text_encoder", "tokenizer", "scheduler")
    }


def test_every_fault_at_once_and_nothing_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch):
    for kind in (UNet2DConditionModel, CLIPTextModel, CLIPTokenizer):
        monkeypatch.setattr(kind, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    (folder / "unet/config.json").write_text("{")
    (folder / UNET).write_bytes((folder / UNET).read_bytes()[:-5])
    (folder / VAE).unlink()
    edit(folder / "text_encoder/config.json", vocab_size=7)
    (folder / "tokenizer/tokenizer.json").unlink()
    edit(folder / "scheduler/scheduler_config.json", prediction_type="sample")
    (folder / "model_index.json").unlink()
    configurations = ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"]
    assert sorted(places(folder)) == sorted([*configurations, UNET, "vae", "text_encoder", "tokenizer"])


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("shard", ["1TB", "20KB"])
@pytest.mark.parametrize(("part", "kind"), [("unet", UNet2DConditionModel), ("text_encoder", CLIPTextModel)])
def test_variants_and_shards(folder: Path, part: str, kind: Any, variant: str | None, shard: str):
    net = kind.from_pretrained(folder / part).half()
    shutil.rmtree(folder / part)
    net.save_pretrained(
        folder / part, variant=variant, max_shard_size="1MB" if part == "unet" and shard == "20KB" else shard
    )
    chosen, files = validate.weights(folder / part)
    assert chosen == variant
    assert (len(files) > 1) == (shard == "20KB")
    opened = model.load(str(folder), precision="fp16")[part].state_dict()
    assert all(torch.equal(tensor, opened[name]) for name, tensor in net.state_dict().items())


def test_a_missing_shard(folder: Path):
    net = UNet2DConditionModel.from_pretrained(folder / "unet")
    shutil.rmtree(folder / "unet")
    net.save_pretrained(folder / "unet", max_shard_size="1MB")
    validate.weights(folder / "unet")[1][1].unlink()
    (fault,) = faults(folder)
    assert "tensors are missing" in fault.found


def test_plain_weights_before_a_variant(folder: Path):
    shutil.copy(folder / UNET, folder / "unet/diffusion_pytorch_model.fp16.safetensors")
    shutil.copy(folder / UNET, folder / "unet/diffusion_pytorch_model.non_ema.safetensors")
    assert validate.weights(folder / "unet") == (None, [folder / UNET])
    (folder / UNET).unlink()
    assert validate.weights(folder / "unet")[0] == "fp16"


def test_old_names_of_the_vaes_attention(folder: Path):
    wanted = load_file(folder / VAE)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(name: str) -> str:
        return next((name.replace(f".{new}.", f".{o}.") for new, o in old.items() if f".{new}." in name), name)

    rename(folder / VAE, renamed)
    assert any(".proj_attn." in name for name in load_file(folder / VAE))
    opened = model.load(str(folder))["vae"].state_dict()
    assert opened.keys() == wanted.keys()
    assert all(torch.equal(opened[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_text_encoders_with_and_without_prefix(folder: Path, prefix: str):
    rename(folder / TEXT, lambda name: prefix + name.removeprefix("text_model."))
    written = load_file(folder / TEXT)
    opened = model.load(str(folder))["text_encoder"].state_dict()
    assert len(opened) == len(written)
    assert all(torch.equal(tensor, written[prefix + name]) for name, tensor in opened.items())


def test_a_tokenizer_of_vocabulary_and_merges(folder: Path):
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))
    (folder / "tokenizer/tokenizer.json").unlink()
    assert model.load(str(folder))["tokenizer"]("A cat").input_ids == tokenizer("A cat").input_ids


@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", "tokenizer/merges.txt", UNET, TEXT])
@pytest.mark.parametrize("thing", ["a pipe", "a device without end", "a socket", "a loop"])
def test_what_is_no_file_in_it_is_refused_by_name(folder: Path, name: str, thing: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    (folder / name).unlink(missing_ok=True)
    THINGS[thing](folder / name)
    assert any(place in (name, str(Path(name).parent)) for place in places(folder))


@pytest.mark.parametrize("name", ["model_index.json", "text_encoder/config.json", "tokenizer/tokenizer.json"])
@pytest.mark.parametrize("depth", [200, 100_000])
def test_nesting_without_end_is_refused_by_name(folder: Path, name: str, depth: int):
    (folder / name).write_text('{"a":' + "[" * depth + "]" * depth + "}")
    assert places(folder) == [name]


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_packed_numbers_are_refused_by_name(folder: Path, part: str):
    edit(folder / part / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    (fault,) = faults(folder)
    assert "bitsandbytes" in fault.found
    assert "fp16" in fault.do


def test_tensors_that_nothing_would_read_are_refused(folder: Path):
    save_file(load_file(folder / UNET) | {"conv_in.scale_weight": torch.ones(1)}, folder / UNET, {"format": "pt"})
    (fault,) = faults(folder)
    assert "conv_in.scale_weight" in fault.found


def test_what_text_encoders_are_stored_with_is_no_fault(folder: Path, tmp_path: Path):
    idle = {"logit_scale": torch.ones(()), "text_projection.weight": torch.ones(1, 1), "vision_model.x": torch.ones(1)}
    save_file(load_file(folder / TEXT) | idle, folder / TEXT, {"format": "pt"})
    found = checkpoint.of_folder(folder)
    assert not idle.keys() & found.parts["text_encoder"].keys()
    checkpoint.write_folder(found, tmp_path / "again", Events())
    assert validate.examine(tmp_path / "again").name == "sd1"


SCHEDULES: list[dict[str, Any]] = [
    {"num_train_timesteps": 2**62},
    {"num_train_timesteps": "1000"},
    {"num_train_timesteps": 0},
    {"beta_start": -0.5},
    {"beta_start": "x"},
    {"beta_end": 1e38},
    {"beta_schedule": []},
    {"timestep_spacing": "../../x"},
    {"steps_offset": "a"},
    {"trained_betas": [0.1, None]},
    {"_class_name": 3},
]


@pytest.mark.parametrize("change", SCHEDULES, ids=str)
def test_a_schedule_that_is_none(folder: Path, change: dict[str, Any]):
    edit(folder / "scheduler/scheduler_config.json", **change)
    assert places(folder) == ["scheduler/scheduler_config.json"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tokenizer", {"truncation": 3}),
        ("tokenizer", {"model": None}),
        ("tokenizer_config", {"pad_token": 3}),
        ("tokenizer_config", {"model_max_length": 10**40}),
        ("tokenizer_config", {"model_max_length": 1000}),
        ("tokenizer_config", {"model_max_length": "x"}),
        ("tokenizer_config", {"pad_token": "a word that the encoder does not know"}),
    ],
    ids=str,
)
def test_a_tokenizer_that_is_none(folder: Path, name: str, change: dict[str, Any]):
    edit(folder / "tokenizer" / f"{name}.json", **change)
    assert places(folder) == ["tokenizer"]


def test_a_tokenizer_that_does_not_say_how_long_a_text_may_be(folder: Path):
    (folder / "tokenizer" / "tokenizer_config.json").unlink()
    (fault,) = faults(folder)
    assert "max_position_embeddings is 77" in fault.found


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("unet", "mid_block_scale_factor", "x"),
        ("unet", "center_input_sample", "no"),
        ("unet", "norm_eps", []),
        ("unet", "act_fn", 3),
        ("unet", "down_block_types", "DownBlock2D"),
        ("vae", "scaling_factor", "0.18215"),
        ("vae", "scaling_factor", 1e400),
        ("text_encoder", "hidden_size", "../../x"),
        ("text_encoder", "layer_norm_eps", True),
    ],
)
def test_settings_of_another_kind_are_refused_by_name(part: str, name: str, value: object, sd1: Path, tmp_path: Path):
    """Most of them change no shape: they would end the first drawing, or give another picture without a word."""
    folder = shutil.copytree(sd1, tmp_path / "model")
    told = json.loads((folder / part / "config.json").read_text())
    (folder / part / "config.json").write_text(json.dumps(told | {name: value}))
    with pytest.raises(Refusal, match=name):
        validate.examine(folder)


@pytest.mark.parametrize("family", ("sd1", "sd2", "sdxl"))
def test_released_settings_are_not_strange(family: str):
    made = next(each for each in registry.FAMILIES if each.name == family)
    for part, config in made.released.items():
        told = json.loads(json.dumps(config)) | {"upcast_attention": None, "num_attention_heads": 12}
        assert config_values.strange(made.parts[part], told) == ""


BEYOND = {
    "a billion layers": ("unet", {"layers_per_block": 10**9}),
    "the same by block": ("unet", {"layers_per_block": [1, 10**9]}),
    "a picture of a billion pixels": ("unet", {"sample_size": 10**9}),
    "a shift in words": ("vae", {"shift_factor": "x"}),
    "a division by nothing": ("vae", {"scaling_factor": 0}),
    "layers of a text encoder": ("text_encoder", {"num_hidden_layers": 10**9}),
}


@pytest.mark.parametrize(("part", "change"), BEYOND.values(), ids=BEYOND)
def test_settings_beyond_any_net_are_refused_before_one_is_made(part: str, change: dict[str, Any], folder: Path):
    edit(folder / part / "config.json", **change)
    told = [fault.found for fault in faults(folder) if fault.where.startswith(str(folder / part))]
    assert next(iter(change)) in told[0]
