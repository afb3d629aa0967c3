"""Numbers that are none, or are more than a format holds, never leave in silence."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tenshot.cli.main import main
from tests.test_adapter_files import a_lora

UP = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.lora_B.weight"


@pytest.fixture
def work(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    a_lora(sd1, tmp_path / "lora.safetensors")
    shutil.copytree(sd1, tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def altered(source: str, target: str, change: Any) -> None:
    found = load_file(source)
    save_file({name: tensor.contiguous() for name, tensor in (found | change(found)).items()}, target)


def refused(line: str, *words: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert main(line.split()) == 2
    said = "".join(capsys.readouterr())
    assert all(word in said for word in words), said
    assert sorted(Path().rglob("*")) == before


LARGE = 1e6  # of float32 and bfloat16, and beyond float16


def test_what_half_precision_cannot_hold_is_not_written(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unet = "m/unet/diffusion_pytorch_model.safetensors"
    altered(unet, unet, lambda found: {"conv_out.bias": found["conv_out.bias"] + LARGE})
    altered("lora.safetensors", "large.safetensors", lambda found: {name: LARGE + found[name] for name in found})
    save_file({"emb_params": torch.full((1, 16), LARGE)}, "az.safetensors")
    for line in (
        "convert m half.safetensors --dtype fp16",
        "convert m half --dtype fp16",
        "convert m/unet half.safetensors --dtype fp16",
        "convert large.safetensors half.safetensors --dtype fp16 --config m",
        "convert az.safetensors half.safetensors --dtype fp16",
        "merge --sd_model m --models lora.safetensors --precision fp16 --save_to half",
    ):
        refused(line, "float16", capsys=capsys)
    assert main(["convert", "m", "half.safetensors", "--dtype", "bf16"]) == 0


FACTORS = {
    "whole numbers": (lambda up: up.to(torch.int8), "whole numbers"),
    "booleans": (lambda up: up > 0, "whole numbers"),
    "a product beyond float32": (lambda up: torch.full_like(up, 1e38), "finite"),
}


@pytest.mark.parametrize(("change", "words"), FACTORS.values(), ids=FACTORS)
def test_factors_that_make_no_weights(change: Any, words: str, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    down = UP.replace("lora_B", "lora_A")
    altered("lora.safetensors", "bad.safetensors", lambda found: {UP: change(found[UP]), down: 100 + found[down]})
    refused("resize bad.safetensors --rank 1 --config m --out small.safetensors", words, capsys=capsys)
    refused("merge --sd_model m --models bad.safetensors --save_to merged", words, capsys=capsys)
    refused("generate --model m --prompt a --steps 1 --lora bad.safetensors --out p", words, capsys=capsys)


def test_an_alpha_of_several_numbers(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "lora_unet_conv_in.alpha"
    halves = {"lora_unet_conv_in.lora_down.weight": torch.ones(2, 4, 3, 3)}
    halves["lora_unet_conv_in.lora_up.weight"] = torch.ones(32, 2, 1, 1)
    save_file({**halves, name: torch.tensor([1.0, 2.0])}, "bad.safetensors")
    refused("merge --sd_model m --models bad.safetensors --save_to merged", "alpha", "conv_in", capsys=capsys)
    save_file({**halves, name: torch.tensor([2.0])}, "good.safetensors")
    assert main(["merge", "--sd_model", "m", "--models", "good.safetensors", "--save_to", "merged"]) == 0


@pytest.mark.parametrize(("part", "told"), [("unet", "denoiser"), ("vae", "VAE")])
def test_a_picture_of_no_numbers_is_not_drawn_black(
    part: str, told: str, work: Path, capsys: pytest.CaptureFixture[str]
):
    file = f"m/{part}/diffusion_pytorch_model.safetensors"
    name = {"unet": "conv_out.bias", "vae": "decoder.conv_out.bias"}[part]
    altered(file, file, lambda found: {name: torch.full_like(found[name], torch.nan)})
    refused("generate --model m --prompt a --steps 1 --out p", told, "black", capsys=capsys)


def test_a_magnitude_that_does_not_fit_is_told(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = UP.replace("lora_B.weight", "lora_magnitude_vector")
    altered("lora.safetensors", "bad.safetensors", lambda found: {name: torch.ones(3)})
    refused("merge --sd_model m --models bad.safetensors --save_to merged", "magnitude of 3", capsys=capsys)
