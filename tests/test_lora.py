"""LoRA from end to end: equal to factors multiplied out by hand, and read by diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict

import tenshot
from tenshot.adapters import lora
from tenshot.core import device
from tenshot.families import text_model
from tenshot.io import tensors
from tenshot.model import model
from tenshot.train.engine import quantize
from tenshot.train.methods import lora_weights as training
from tests import plain_finetune, tiny
from tests.dreambooth_runs import PRIOR, Bench, losses, same_weights

SETTINGS = {
    "alone": {},
    "transformer": {"layers": "transformer", "rank": "3", "lora_alpha": "6"},
    "all": {"layers": "all", "train_text_encoder": True, "train_batch_size": "2"},
}
MORE = {"dora": {"use_dora": True}, "rslora": {"use_rslora": True, "rank": "9"}}


def cases(settings: Iterable[str], *families: str) -> list[object]:
    """Stable Diffusion 1 in every way; of the other families, where it is most that is trained."""
    return [
        pytest.param(family, each, marks=pytest.mark.slow if family != "sd1" and each != "all" else ())
        for family in ("sd1", *families)
        for each in settings
    ]


@pytest.fixture
def bench(sd1: Path, pictures: Path, tmp_path: Path, bench: Bench) -> Bench:
    return Bench(sd1, pictures, tmp_path, "lora")


def begun(bench: Bench, **given: Any) -> dict[str, dict[str, torch.Tensor]]:
    """The factors that a run starts with."""
    options = bench.options("begun", **given)
    base = model.load(options.pretrained_model_name_or_path)
    torch.manual_seed(device.seed_of(options.seed, "new weights"))
    trainable = training.LoraTrainable(base, options)
    return lora.current(base, trainable.settings).weights


@pytest.mark.parametrize("start", [None, "gaussian", "kaiming"])
def test_it_begins_as_diffusers_scripts_do_or_as_peft_does(start: str | None, bench: Bench, sd1: Path):
    """Layer by layer in the order of the net, from one seed."""
    options = bench.options("begun", rank="3", lora_alpha="6", **({"init_lora_weights": start} if start else {}))
    begins = begun(bench, rank="3", lora_alpha="6", **({"init_lora_weights": start} if start else {}))["unet"]
    plain = UNet2DConditionModel.from_pretrained(sd1 / "unet")
    torch.manual_seed(device.seed_of(options.seed, "new weights"))
    scripts = {"r": 3, "lora_alpha": 6, "target_modules": ["to_q", "to_k", "to_v", "to_out.0"]}
    plain.add_adapter(LoraConfig(**scripts, init_lora_weights=True if start == "kaiming" else "gaussian"))
    expected = get_peft_model_state_dict(plain)
    assert begins.keys() == expected.keys()
    assert all(torch.equal(begins[name], tensor) for name, tensor in expected.items())
    deviation = torch.cat([tensor.flatten() for name, tensor in begins.items() if "lora_A" in name]).std().item()
    assert (deviation == pytest.approx(1 / 3, rel=0.1)) == (start != "kaiming")


@pytest.mark.parametrize(("family", "settings"), cases(SETTINGS, "sd2_v", "sdxl"))
def test_losses_and_factors_are_those_of_a_plain_implementation(
    family: str, settings: str, bench: Bench, request: pytest.FixtureRequest
):
    given = SETTINGS[settings]
    if family == "sdxl":
        given = {name: value for name, value in given.items() if name != "train_text_encoder"}
    bench.base["pretrained_model_name_or_path"] = str(request.getfixturevalue(family))
    options = bench.options("out", **given)
    strength = (options.lora_alpha or options.rank) / options.rank
    wanted, factors = plain_finetune.lora(options, begun(bench, **given), strength)
    folder = bench.run("out", **given)
    assert losses(folder) == pytest.approx(wanted, rel=2e-4)
    found = lora.read(folder / lora.FILE).weights
    assert found.keys() == factors.keys()
    for part, named in factors.items():
        have = {text_model.bare(name): tensor for name, tensor in found[part].items()}
        for name, tensor in named.items():
            apart = have[text_model.bare(name)] - tensor.detach()
            assert (
                apart.norm() < 2e-3 * tensor.detach().norm()
            )  # where a gradient is almost zero, AdamW doubles rounding


@pytest.mark.parametrize(("family", "settings"), cases(SETTINGS | MORE, "sdxl"))
def test_diffusers_reads_the_file_and_answers_as_the_trained_model(
    family: str, settings: str, bench: Bench, request: pytest.FixtureRequest
):
    given = (SETTINGS | MORE)[settings]
    place = request.getfixturevalue(family)
    bench.base["pretrained_model_name_or_path"] = str(place)
    folder = bench.run("out", **given, learning_rate="1e-2")
    pipe = DiffusionPipeline.from_pretrained(place)
    before = answer(pipe.unet, pipe.unet.config)
    pipe.load_lora_weights(str(folder))
    again = tenshot.load(place)
    again.set_loras({folder / lora.FILE: 1})
    theirs, ours = answer(pipe.unet, pipe.unet.config), answer(again["unet"], again["unet"].config)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, ours, atol=1e-4)
    if "train_text_encoder" in given:
        ids = pipe.tokenizer(["az"], padding="max_length", max_length=77, return_tensors="pt").input_ids
        states = [encoder(ids).last_hidden_state for encoder in (pipe.text_encoder, again["text_encoder"])]
        torch.testing.assert_close(*states, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def answer(unet: Any, config: Any) -> torch.Tensor:
    dice = torch.Generator().manual_seed(5)
    latents = torch.randn(1, 4, 8, 8, generator=dice)
    more = {"encoder_hidden_states": torch.randn(1, 77, config.cross_attention_dim, generator=dice)}
    if config.addition_embed_type:
        embeds = torch.randn(1, 32, generator=dice)
        more["added_cond_kwargs"] = {"text_embeds": embeds, "time_ids": torch.ones(1, 6)}
    return unet(latents, 500, **more).sample


def test_blocks_have_their_own_ranks_and_rates(bench: Bench):
    given = {"rank": "2", "block_ranks": {"mid_block": 5}, "block_rates": {"up_blocks": 1e-9}, "learning_rate": "1e-2"}
    folder = bench.run("out", **given)
    before, after = begun(bench, **given)["unet"], lora.read(folder / lora.FILE).weights["unet"]
    ranks = {name.split(".")[0]: tensor.shape[0] for name, tensor in after.items() if ".lora_A." in name}
    assert ranks == {"down_blocks": 2, "mid_block": 5, "up_blocks": 2}
    moved = {name: (tensor - before[name]).abs().max().item() for name, tensor in after.items() if "lora_B" in name}
    assert max(far for name, far in moved.items() if name.startswith("up_blocks")) < 1e-8
    assert max(far for name, far in moved.items() if name.startswith("down_blocks")) > 1e-3


def test_names_of_blocks_are_whole_and_of_any_version_of_transformers():
    assert training.inside("text_encoder.text_model.encoder.layers.1", "text_encoder.encoder.layers.1.mlp.fc1")
    assert training.inside("encoder.layers.1", "text_encoder.text_model.encoder.layers.1.mlp.fc1")
    assert not training.inside("layers.1", "text_encoder.encoder.layers.11.mlp.fc1")


def test_text_encoder_blocks_have_their_own_rates(bench: Bench):
    given = {"train_text_encoder": True, "block_rates": {"text_encoder.text_model": 1e-9}, "learning_rate": "1e-2"}
    folder = bench.run("out", **given)
    after = lora.read(folder / lora.FILE).weights["text_encoder"]
    assert max(tensor.abs().max().item() for name, tensor in after.items() if "lora_B" in name) < 1e-8


def test_factors_under_the_names_of_older_scripts(bench: Bench):
    folder = bench.run("out", train_text_encoder=True)
    older = {}
    for name, tensor in tensors.read(folder / lora.FILE).items():
        down, up = (".lora.down.", ".lora.up.") if name.startswith("unet") else (
            ".lora_linear_layer.down.", ".lora_linear_layer.up.")  # fmt: skip
        older[name.replace(".lora_A.", down).replace(".lora_B.", up)] = tensor
    tensors.write(folder / "older.safetensors", older)
    one, other = lora.read(folder / lora.FILE), lora.read(folder / "older.safetensors")
    assert one.weights.keys() == other.weights.keys()
    assert all(one.weights[part].keys() == other.weights[part].keys() for part in one.weights)


def test_a_file_can_be_trained_further(bench: Bench):
    first = bench.run("first", rank="2", lora_alpha="4", layers="transformer")
    folder = bench.run("further", start_from=str(first / lora.FILE), learning_rate="1e-9", adam_weight_decay="0")
    one, other = lora.read(first / lora.FILE), lora.read(folder / lora.FILE)
    assert one.settings == other.settings
    for name, tensor in one.weights["unet"].items():
        torch.testing.assert_close(tensor, other.weights["unet"][name], rtol=0, atol=1e-7)
    again = bench.run("again", start_from=str(first), learning_rate="1e-9", adam_weight_decay="0")
    assert same_weights(again, folder, lora.FILE)  # from the folder that it lies in
    (bench.folder / "other").mkdir()
    tensors.write(bench.folder / "other" / lora.FILE, {n: 2 * t for n, t in tensors.read(first / lora.FILE).items()})
    given = {"learning_rate": "1e-9", "adam_weight_decay": "0", "start_from": str(bench.folder / "other")}
    assert bench.refused("again", **given) == ["--output_dir"]  # another run
    more = {"rank": "8", "init_lora_weights": "kaiming", "train_text_encoder": True}
    refused = bench.refused("more", start_from=str(first / lora.FILE), **more)
    assert refused == ["--rank", "--init_lora_weights", "--start_from"]


def test_the_model_itself_stays(bench: Bench):
    folder = bench.run("out", **PRIOR, train_text_encoder=True)
    assert not (folder / "unet").exists()
    assert {path.suffix for path in folder.glob("*.safetensors")} == {".safetensors"}
    checkpoint = tensors.read(folder / "checkpoint-3" / "unet.safetensors")
    assert all("lora_" in name for name in checkpoint)


def test_the_running_average_is_what_is_saved(bench: Bench):
    folder = bench.run("out", use_ema=True, ema_decay="0.5")
    average = tensors.read(folder / "checkpoint-3" / "unet.ema.safetensors")
    saved = lora.read(folder / lora.FILE).weights["unet"]
    assert all(torch.equal(saved[name.replace(".default.", ".")], tensor) for name, tensor in average.items())
    assert not same_weights(folder, bench.run("live"), lora.FILE)


def test_faults_are_told_at_once(bench: Bench, pictures: Path):
    given = {"train_data_dir": str(pictures), "block_ranks": {"middle": 4}, "text_encoder_lr": "1e-4"}
    where = bench.refused("out", **given)
    assert set(where) >= {"--instance_data_dir", "--instance_prompt", "--block_ranks", "--text_encoder_lr"}
    assert not (bench.folder / "out").exists()


def test_a_file_of_another_model_is_refused(bench: Bench, sdxl: Path):
    folder = bench.run("out")
    bench.base["pretrained_model_name_or_path"] = str(sdxl)
    assert bench.refused("further", start_from=str(folder / lora.FILE))


def test_class_pictures_are_learned_beside(bench: Bench):
    assert losses(bench.run("with", **PRIOR)) != losses(bench.run("without"))


def test_captioned_pictures(bench: Bench):
    own = tiny.pictures(bench.folder / "own", 2)
    for number in range(2):
        (own / f"picture-{number}.txt").write_text(f"picture number {number}")
    bench.base.pop("instance_data_dir")
    bench.base.pop("instance_prompt")
    bench.run("out", train_data_dir=str(own))
    (own / "picture-0.txt").unlink()
    assert bench.refused("other", train_data_dir=str(own)) == ["--train_data_dir"]


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_base_in_few_bits_learns_nearly_the_same(kind: str, bench: Bench, monkeypatch: pytest.MonkeyPatch):
    library = pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(quantize, "LEAST", 64)
    folder = bench.run("thin", quantize_base=kind, layers="transformer")
    assert losses(folder) == pytest.approx(losses(bench.run("plain", layers="transformer")), rel=0.1)
    base = model.load(bench.base["pretrained_model_name_or_path"])
    quantize.quantize(base["unet"], kind)
    thin = library.nn.Linear4bit if kind == "nf4" else library.nn.Linear8bitLt
    assert sum(isinstance(layer, thin) for layer in base["unet"].modules()) > 10
    assert (folder / lora.FILE).is_file()
