"""LoRAs as peft saves them, their strength in adapter_config.json: applied and merged as peft itself does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from tenshot.adapters import lora
from tenshot.cli.main import main
from tenshot.core.errors import Noted, Refusal
from tenshot.model import model
from tests.test_adapter_files import run as convert
from tests.test_extract import run_resize as resize
from tests.test_merge import adapted, answers, plain
from tests.test_merge import run as merge

SETTINGS: dict[str, dict[str, Any]] = {
    "patterns": {
        "rank_pattern": {"to_q": 2, "down_blocks.*to_k": 3},
        "alpha_pattern": {"attn2.to_q": 3, ".*conv1": 7.5},
    },
    "patterns, rslora": {"rank_pattern": {"to_q": 9}, "alpha_pattern": {"to_q": 5}, "use_rslora": True},
    "dora": {"use_dora": True},
    "bias": {"lora_bias": True, "target_modules": ["to_out.0", "conv1"]},
    "linear layers": {"target_modules": "all-linear", "fan_in_fan_out": True},
}
SIBLINGS: dict[str, dict[str, Any]] = {
    "alpha": {},
    "rslora": {"use_rslora": True},
    "regex": {"target_modules": r".*attentions.*to_[qv]", "bias": "none"},
}


def saved(folder: Path, target: Path, part: str = "unet", kind: Any = peft.LoraConfig, **more: Any) -> Any:
    """peft's folder with random weights, and the model in which peft has them active."""
    opened = model.load(str(folder))
    torch.manual_seed(7)
    usual = {"r": 4, "target_modules": opened.family.targets(part, "all"), "init_weights": False, "alpha": 32}
    if kind is peft.LoraConfig:
        usual = {"init_lora_weights": False, "lora_alpha": 32, **{k: usual[k] for k in ("r", "target_modules")}}
    net = peft.get_peft_model(opened[part], kind(**(usual | more)))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "magnitude" in name:
                parameter.mul_(1.2)
            if any(each in name for each in ("lora_B", "hada_w1_a", "lokr_w1")):
                parameter.mul_(0.2)
    net.save_pretrained(target)
    return opened


@pytest.mark.parametrize("given", [*SETTINGS, *(pytest.param(each, marks=pytest.mark.slow) for each in SIBLINGS)])
def test_as_strong_as_in_peft(given: str, sd1: Path, tmp_path: Path):
    expected = answers(saved(sd1, tmp_path / "it", **(SETTINGS | SIBLINGS)[given]))
    assert (plain(sd1) - expected).abs().max() > 1e-2
    found = answers(adapted(sd1, (tmp_path / "it", 1.0)))
    assert torch.allclose(found, expected, atol=1e-4)
    assert torch.equal(answers(adapted(sd1, (tmp_path / "it" / "adapter_model.safetensors", 1.0))), found)
    merge("--sd_model", sd1, "--models", tmp_path / "it", "--save_to", tmp_path / "merged")
    assert torch.equal(answers(model.load(str(tmp_path / "merged"))), found)


@pytest.mark.parametrize(("kind", "more"), [
    (peft.LoHaConfig, {"alpha_pattern": {"to_q": 3}}),
    (peft.LoKrConfig, {}),
    (peft.LoKrConfig, {"r": 100, "alpha": 30}),
])  # fmt: skip
def test_loha_and_lokr_of_peft(kind: Any, more: dict[str, Any], sd1: Path, tmp_path: Path):
    expected = answers(saved(sd1, tmp_path / "it", kind=kind, **{"use_effective_conv2d": False, **more}))
    assert torch.allclose(answers(adapted(sd1, (tmp_path / "it", 1.0))), expected, rtol=1e-4, atol=1e-4)


def test_torchs_own_file_and_the_text_encoders(sd1: Path, tmp_path: Path):
    expected = answers(saved(sd1, tmp_path / "text", "text_encoder"))
    found = load_file(tmp_path / "text" / "adapter_model.safetensors")
    torch.save(found, tmp_path / "text" / "adapter_model.bin")
    (tmp_path / "text" / "adapter_model.safetensors").unlink()
    assert (plain(sd1) - expected).abs().max() > 1e-4
    assert torch.allclose(answers(adapted(sd1, (tmp_path / "text", 1.0))), expected, atol=1e-4)


def test_a_folder_with_one_for_each_part(sd1: Path, tmp_path: Path):
    for part in ("unet", "text_encoder"):
        saved(sd1, tmp_path / "both" / part, part)
    apart = [(tmp_path / "both" / part, 1.0) for part in ("unet", "text_encoder")]
    assert torch.equal(answers(adapted(sd1, (tmp_path / "both", 1.0))), answers(adapted(sd1, *apart)))


@pytest.mark.parametrize("text", ["[", "[1]", "[" * 99_999])
def test_a_header_that_is_damaged_in_one_part_is_refused(text: str, sd1: Path, tmp_path: Path):
    for part in ("unet", "text_encoder"):
        saved(sd1, tmp_path / "both" / part, part)
    file = tmp_path / "both" / "text_encoder" / "adapter_model.safetensors"
    save_file(load_file(file), file, {"lora_adapter_metadata": text})
    with pytest.raises(Refusal, match=r"text_encoder.*no JSON object"):
        lora.read(tmp_path / "both")


def test_other_verbs_take_the_folder(sd1: Path, tmp_path: Path):
    saved(sd1, tmp_path / "it", **SETTINGS["patterns"])
    expected = answers(adapted(sd1, (tmp_path / "it", 1.0)))
    convert(tmp_path / "it", tmp_path / "kohya.safetensors", "--form", "kohya", "--config", sd1)
    resize(tmp_path / "it", "--rank", 4, "--config", sd1, "--out", tmp_path / "resized.safetensors")
    merge("--models", tmp_path / "it", "--config", sd1, "--save_to", tmp_path / "merged.safetensors")
    for name in ("kohya", "resized", "merged"):
        assert torch.allclose(answers(adapted(sd1, (tmp_path / f"{name}.safetensors", 1.0))), expected, atol=2e-4)


@pytest.mark.parametrize(("name", "value"), [
    ("init_lora_weights", "pissa"), ("init_lora_weights", "olora"), ("layer_replication", [[0, 1]]),
    ("peft_type", "BOFT"), ("lora_alpha", "much"), ("rank_pattern", [3]), ("alpha_pattern", {"(": 3}),
])  # fmt: skip
def test_what_its_settings_make_another_thing_is_refused(name: str, value: Any, sd1: Path, tmp_path: Path):
    saved(sd1, tmp_path / "it", target_modules=["to_q"])
    file = tmp_path / "it" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))
    with pytest.raises(Refusal, match=name if name != "alpha_pattern" else "pattern"):
        lora.read(tmp_path / "it")


def test_without_its_settings_it_is_refused(sd1: Path, tmp_path: Path):
    saved(sd1, tmp_path / "it", target_modules=["to_q"])
    shutil.copy(tmp_path / "it" / "adapter_model.safetensors", tmp_path / "alone.safetensors")
    with pytest.raises(Refusal, match=r"no adapter_config\.json beside it"):
        lora.read(tmp_path / "alone.safetensors")


def test_inspect_tells_its_strength(sd1: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    saved(sd1, tmp_path / "it", target_modules=["to_q"])
    shutil.copy(tmp_path / "it" / "adapter_model.safetensors", tmp_path / "alone.safetensors")
    told = []
    for place in (tmp_path / "it", tmp_path / "alone.safetensors"):
        assert main(["inspect", str(place), "--json"]) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0]["alpha"] == {"32.0": told[0]["layers"]["unet"]}
    assert "how strong it is cannot be told" in told[1]["strength_unknown"]


def test_an_alpha_of_zero_is_the_rank_and_is_said(sd1: Path, tmp_path: Path):
    torch.manual_seed(0)
    start = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {
        f"{start}.lora_down.weight": torch.randn(2, 64, 1, 1),
        f"{start}.lora_up.weight": torch.randn(64, 2, 1, 1),
    }
    for name, alpha in (("zero", 0.0), ("two", 2.0)):
        save_file(tensors | {f"{start}.alpha": torch.tensor(alpha)}, tmp_path / f"{name}.safetensors")
    with pytest.warns(Noted, match="alpha is 0 in 1 layers: it is taken for the rank"):
        zero = lora.read(tmp_path / "zero.safetensors").found
    two = lora.read(tmp_path / "two.safetensors").found
    for layer, each in zero.items():
        assert torch.equal(each.difference(), two[layer].difference()) and each.difference().any()
