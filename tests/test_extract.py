"""What is extracted is what was merged; what is resized is the nearest there is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tenshot.adapters import parsing
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.options import gather
from tenshot.extract.extract import ExtractOptions, ResizeOptions, extract, resize
from tenshot.io import tensor_files
from tests.test_adapter_files import a_lora, without_numbers
from tests.test_merge import run as merge


def run_extract(*words: object) -> dict:
    return extract(gather(ExtractOptions, [str(word) for word in words]), Events())


def run_resize(*words: object) -> dict:
    return resize(gather(ResizeOptions, [str(word) for word in words]), Events())


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_a_merged_lora_comes_back(name: str, tmp_path: Path, request: pytest.FixtureRequest):
    folder = request.getfixturevalue(name)
    one = a_lora(folder, tmp_path / "one.safetensors", rank=3)
    merge("--sd_model", folder, "--models", one, "--save_to", tmp_path / "merged")
    found = run_extract(tmp_path / "merged", "--base", folder, "--out", tmp_path / "back.safetensors", "--rank", 3)
    assert found["relative_error"] < 1e-4
    unet = json.loads((folder / "unet" / "config.json").read_text())
    before, after = (
        parsing.low_rank(tensor_files.opened(tmp_path / f"{n}.safetensors"), unet) for n in ("one", "back")
    )
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[k].difference(), after[k].difference(), atol=1e-4) for k in before)
    kept = run_extract(tmp_path / "merged", "--base", folder, "--out", tmp_path / "kept.safetensors", "--keep", 0.9)
    assert 0 < kept["relative_error"] <= 0.1**0.5


def test_a_model_extracted_from_itself_is_refused(sd1: Path, sdxl: Path, tmp_path: Path):
    with pytest.raises(Refusal, match="is the same as"):
        run_extract(sd1, "--base", sd1, "--out", tmp_path / "out.safetensors")
    with pytest.raises(Refusal, match="not the same as"):
        run_extract(sd1, "--base", sdxl, "--out", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("which", ("tuned", "base"))
def test_a_model_without_numbers_is_named(which: str, sd1: Path, tmp_path: Path):
    broken = tmp_path / "broken"
    shutil.copytree(sd1, broken)
    without_numbers(broken / "unet" / "diffusion_pytorch_model.safetensors")
    tuned, base = (broken, sd1) if which == "tuned" else (sd1, broken)
    with pytest.raises(Refusal, match=f"^{broken}: unet .* NaN"):
        run_extract(tuned, "--base", base, "--out", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_lora_without_numbers_is_named(sd1: Path, tmp_path: Path):
    one = without_numbers(a_lora(sd1, tmp_path / "one.safetensors"))
    with pytest.raises(Refusal, match=f"^{one}: NaN or infinite numbers in 1 places"):
        run_resize(one, "--rank", 2, "--out", tmp_path / "two.safetensors")
    assert not (tmp_path / "two.safetensors").exists()


def test_a_smaller_rank_is_the_nearest_one(sd1: Path, tmp_path: Path):
    one = a_lora(sd1, tmp_path / "one.safetensors", rank=4)
    found = run_resize(one, "--rank", 2, "--out", tmp_path / "two.safetensors")
    before, after = (parsing.low_rank(tensor_files.opened(p)) for p in (one, tmp_path / "two.safetensors"))
    for layer, each in before.items():
        u, s, v = torch.linalg.svd(each.difference().flatten(1), full_matrices=False)
        best = (u[:, :2] * s[:2] @ v[:2]).reshape(each.difference().shape)
        assert torch.allclose(after[layer].difference(), best, atol=1e-5)
    assert (found["rank"], 0 < found["relative_error"] < 1) == (2, True)
