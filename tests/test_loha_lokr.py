"""LoHa and LoKr against peft's own; test_lycoris.py has them against LyCORIS'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from tenshot.adapters import lora, lora_keys, parsing
from tenshot.cli.main import main
from tenshot.core.errors import Refusal
from tenshot.io import tensor_files
from tenshot.model import model
from tests.test_adapter_files import a_lora
from tests.test_adapter_files import run as convert
from tests.test_extract import run_resize as resize
from tests.test_merge import adapted, answers, plain
from tests.test_merge import run as merge

SHAPES = {
    "loha": (peft.LoHaConfig, {"use_effective_conv2d": False}),
    "loha, kernels apart": (peft.LoHaConfig, {"use_effective_conv2d": True}),
    "lokr": (peft.LoKrConfig, {}),
    "lokr, both in factors": (peft.LoKrConfig, {"decompose_both": True, "decompose_factor": 8, "r": 2}),
    "lokr, kernels apart": (peft.LoKrConfig, {"use_effective_conv2d": True, "decompose_factor": 2}),
    "lokr, both whole": (peft.LoKrConfig, {"r": 100, "alpha": 100}),
}


def theirs(folder: Path, shape: str) -> Any:
    """A UNet in which peft's adapter is active, with random weights."""
    kind, more = SHAPES[shape]
    opened = model.load(str(folder))
    torch.manual_seed(7)
    given: dict[str, Any] = {
        "r": 3,
        "alpha": 5,
        "target_modules": opened.family.targets("unet", "all"),
        "init_weights": False,
    }
    config = kind(**(given | more))
    peft.inject_adapter_in_model(config, opened["unet"])
    return opened, config


def kohyas(folder: Path, shape: str, file: Path) -> Path:
    """The same as a file that a training by LyCORIS leaves."""
    return written(*theirs(folder, shape), file)


def written(opened: Any, config: Any, file: Path) -> Path:
    named = {}
    for name, tensor in peft.get_peft_model_state_dict(opened["unet"]).items():
        layer, _, kind = name.rpartition(".")
        start = lora_keys.kohya("unet", layer, None)
        named[f"{start}.{kind}"] = tensor.detach().clone()
        named[f"{start}.alpha"] = torch.tensor(float(config.alpha))
    save_file(named, file, {"ss_network_module": "lycoris.kohya"})
    return file


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_applied_as_peft_applies_it(shape: str, sd1: Path, tmp_path: Path):
    opened, config = theirs(sd1, shape)
    file, expected = written(opened, config, tmp_path / "it.safetensors"), answers(opened)
    assert (plain(sd1) - expected).abs().max() > 1e-2
    found = answers(adapted(sd1, (file, 1.0)))
    assert torch.allclose(found, expected, atol=2e-5)
    merge("--sd_model", sd1, "--models", file, "--save_to", tmp_path / "merged")
    assert torch.equal(answers(model.load(str(tmp_path / "merged"))), found)


@pytest.mark.parametrize("shape", ["loha", pytest.param("lokr", marks=pytest.mark.slow)])
def test_beside_a_lora_and_taken_off_again(shape: str, sd1: Path, tmp_path: Path):
    file = kohyas(sd1, shape, tmp_path / "it.safetensors")
    one = a_lora(sd1, tmp_path / "one.safetensors")
    merge("--sd_model", sd1, "--models", one, file, "--ratios", 0.7, -0.5, "--save_to", tmp_path / "merged")
    merged = answers(model.load(str(tmp_path / "merged")))
    for order in (((one, 0.7), (file, -0.5)), ((file, -0.5), (one, 0.7))):
        opened = adapted(sd1, *order)
        assert torch.allclose(answers(opened), merged, atol=2e-5)
    opened.clear_loras()
    base = model.load(str(sd1))["unet"].state_dict()
    assert all(torch.equal(tensor, base[name]) for name, tensor in opened["unet"].state_dict().items())


def test_generate_takes_it(sd1: Path, tmp_path: Path):
    file = kohyas(sd1, "lokr", tmp_path / "it.safetensors")
    merge("--sd_model", sd1, "--models", file, "--ratios", 0.6, "--save_to", tmp_path / "merged")
    words = ["--prompt", "a bear", "--steps", "2", "--seed", "1", "--device", "cpu"]
    given = (["--model", str(sd1), "--lora", f"{file}=0.6"], ["--model", str(tmp_path / "merged")])
    pictures = []
    for number, each in enumerate(given):
        assert main(["generate", *each, *words, "--out", str(tmp_path / f"{number}.png")]) == 0
        pictures.append(load_picture(tmp_path / f"{number}.png"))
    assert pictures[0] == pictures[1]


def load_picture(file: Path) -> bytes:
    from PIL import Image

    return Image.open(file).tobytes()


@pytest.mark.parametrize("shape", ["loha", "lokr, kernels apart"])
def test_it_goes_to_user_interfaces_as_it_is(shape: str, sd1: Path, tmp_path: Path):
    file = kohyas(sd1, shape, tmp_path / "it.safetensors")
    (tmp_path / "models").mkdir()
    told = convert(file, "--to", "webui", tmp_path, "--config", sd1)
    before, after = load_file(file), load_file(told["written"])
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert tensor_files.opened(Path(told["written"])).metadata["ss_network_module"] == "lycoris.kohya"
    with pytest.raises(Refusal, match="tenshot resize"):
        convert(file, tmp_path / "out.safetensors", "--form", "diffusers")
    with pytest.raises(Refusal, match="tenshot resize"):
        merge("--models", file, file, "--save_to", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_resized_it_is_the_nearest_lora(sd1: Path, tmp_path: Path):
    file = kohyas(sd1, "loha", tmp_path / "it.safetensors")
    whole = resize(
        file, "--rank", 9, "--config", sd1, "--out", tmp_path / "whole.safetensors"
    )  # 3 x 3: as a LoRA it has rank 9
    assert whole["relative_error"] < 1e-5
    less = resize(file, "--rank", 3, "--config", sd1, "--out", tmp_path / "less.safetensors")
    found = parsing.low_rank(tensor_files.opened(tmp_path / "less.safetensors"))
    for layer, each in parsing.read(tensor_files.opened(file)).items():
        u, s, v = torch.linalg.svd(each.difference().flatten(1), full_matrices=False)
        best = u[:, :3] * s[:3] @ v[:3]
        assert torch.allclose(found[layer].difference().flatten(1), best, atol=1e-5)
    assert 0 < less["relative_error"] < 1


def test_inspect_names_it(sd1: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    file = kohyas(sd1, "loha", tmp_path / "it.safetensors")
    assert main(["inspect", str(file), "--json"]) == 0
    told = capsys.readouterr().out
    assert '"LoHa"' in told and "auto_v3" in told


@pytest.mark.parametrize("lost", ["hada_w1_b", "hada_w2_a"])
def test_torn_ones_are_refused(lost: str, sd1: Path, tmp_path: Path):
    file = kohyas(sd1, "loha", tmp_path / "it.safetensors")
    found = load_file(file)
    found = {name: tensor for name, tensor in found.items() if not name.endswith(f"conv1.{lost}")}
    save_file(found, tmp_path / "torn.safetensors")
    with pytest.raises(Refusal, match="belong together"):
        lora.read(tmp_path / "torn.safetensors")
