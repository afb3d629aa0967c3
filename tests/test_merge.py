"""Merged models against adapters that are active; merged LoRAs against sums; models against arithmetic."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tenshot
from tenshot.adapters import factors, lora, parsing
from tenshot.cli.main import main
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.options import gather
from tenshot.io import tensor_files
from tenshot.merge.merge import MergeOptions, merge
from tenshot.model import model
from tenshot.model.model import Model
from tenshot.runtime.compiled_model import CompiledModel
from tests.test_adapter_files import a_lora, without_numbers
from tests.test_adapter_files import run as convert


def run(*words: object) -> dict:
    return merge(gather(MergeOptions, [str(word) for word in words]), Events())


@pytest.fixture(params=("sd1", pytest.param("sd2_v", marks=pytest.mark.slow), "sdxl"))
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@torch.no_grad()
def answers(opened: Model) -> torch.Tensor:
    """What the text encoders and the UNet say."""
    torch.manual_seed(5)
    side = opened["unet"].config.sample_size
    condition = opened.conditioning(["a photo of az baby"], (64, 64))
    return opened["unet"](torch.randn(1, 4, side, side), 300, **condition).sample


@cache
def plain(folder: Path) -> torch.Tensor:
    """What a model of conftest.py says, which nobody writes into."""
    return answers(model.load(str(folder)))


def adapted(folder: Path, *loras: tuple[Path, float]) -> CompiledModel:
    opened = tenshot.load(folder)
    opened.set_loras(dict(loras))
    return opened


def test_a_merged_model_is_the_base_with_its_adapters(folder: Path, tmp_path: Path):
    one = a_lora(folder, tmp_path / "one.safetensors", seed=1, rank=3, alpha=5)
    two = a_lora(folder, tmp_path / "two.safetensors", seed=2, rank=2, alpha=1, layers="transformer")
    run("--sd_model", folder, "--models", one, two, "--ratios", 0.8, -0.4, "--save_to", tmp_path / "merged")
    active = answers(adapted(folder, (one, 0.8), (two, -0.4)))
    assert (plain(folder) - active).abs().max() > 1e-2
    assert torch.allclose(answers(model.load(str(tmp_path / "merged"))), active, atol=2e-5)


def test_kohyas_names_merge_alike(sdxl: Path, tmp_path: Path):
    one = a_lora(sdxl, tmp_path / "one.safetensors")
    convert(one, tmp_path / "kohya.safetensors", "--config", sdxl)
    for name in ("one", "kohya"):
        run("--sd_model", sdxl, "--models", tmp_path / f"{name}.safetensors", "--save_to", tmp_path / f"{name}-merged")
    first, second = (answers(model.load(str(tmp_path / f"{name}-merged"))) for name in ("one", "kohya"))
    assert torch.equal(first, second)


def test_taking_one_away_again_leaves_the_other(sd1: Path, tmp_path: Path):
    one, two = (a_lora(sd1, tmp_path / f"{seed}.safetensors", seed=seed) for seed in (1, 2))
    run("--sd_model", sd1, "--models", two, "--save_to", tmp_path / "b")
    run("--sd_model", sd1, "--models", one, two, "--save_to", tmp_path / "ab")
    run("--sd_model", tmp_path / "ab", "--models", one, "--ratios", -1, "--save_to", tmp_path / "again")
    first, second = (model.load(str(tmp_path / name))["unet"].state_dict() for name in ("b", "again"))
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


WITHOUT_EFFECT = {
    "a block that nothing has": "--models {lora} --sd_model {model} --blocks up_block=0 --save_to out",
    "the same among LoRAs": "--models {lora} {lora} --blocks up_blocks.7=0 --config {model} --save_to out.safetensors",
    "blocks of models": "--models {model} --ratios 0.5 --sd_model {model} --blocks up_blocks=0 --save_to out",
    "text ratios of models": "--models {model} --ratios 0.5 --sd_model {model} --text_ratios 0 --save_to out",
    "a rank of a model": "--models {lora} --sd_model {model} --rank 4 --save_to out",
}


@pytest.mark.parametrize("line", WITHOUT_EFFECT.values(), ids=WITHOUT_EFFECT)
def test_what_would_have_no_effect_is_refused(line: str, sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    a_lora(sd1, tmp_path / "lora.safetensors")
    assert main(["merge", *line.format(lora="lora.safetensors", model=sd1).split()]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["lora.safetensors"]


def test_parts_and_blocks_have_their_own_ratios(sd1: Path, tmp_path: Path):
    one = a_lora(sd1, tmp_path / "one.safetensors")
    words = ("--sd_model", sd1, "--models", one, "--save_to", tmp_path / "merged", "--text_ratios", 0)
    run(*words, "--blocks", "down_blocks=0", "mid_block=0.5")
    base, merged = model.load(str(sd1)), model.load(str(tmp_path / "merged"))
    found = parsing.low_rank(tensor_files.opened(one))
    before, after = base["unet"].state_dict(), merged["unet"].state_dict()
    for (part, layer), each in found.items():
        if part == "unet":
            share = 0.0 if layer.startswith("down") else 0.5 if layer.startswith("mid") else 1.0
            expected = before[f"{layer}.weight"] + share * each.difference()
            assert torch.allclose(after[f"{layer}.weight"], expected, atol=1e-6)
    first, second = base["text_encoder"].state_dict(), merged["text_encoder"].state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_dora_is_merged_as_peft_applies_it(sd1: Path, tmp_path: Path):
    opened = model.load(str(sd1))
    torch.manual_seed(3)
    settings = {"r": 3, "lora_alpha": 3, "target_modules": opened.family.targets("unet", "all"), "use_dora": True}
    lora.attach(opened, lora.new({"unet": {**settings, "init_lora_weights": False}}))
    with torch.no_grad():
        for name, parameter in opened["unet"].named_parameters():
            if "magnitude" in name:
                parameter.mul_(1.3)
    told = {"unet": settings}
    lora.write(tmp_path / "dora.safetensors", lora.current(opened, told), opened.parts, opened.family)
    run("--sd_model", sd1, "--models", tmp_path / "dora.safetensors", "--save_to", tmp_path / "merged")
    assert torch.allclose(answers(model.load(str(tmp_path / "merged"))), answers(opened), atol=2e-5)


def test_loras_without_a_base_are_summed_exactly(sd1: Path, tmp_path: Path):
    one = a_lora(sd1, tmp_path / "one.safetensors", seed=1, rank=3, alpha=5)
    two = a_lora(sd1, tmp_path / "two.safetensors", seed=2, rank=2, alpha=7, layers="attention")
    found = run("--models", one, two, "--ratios", 0.8, 0.3, "--save_to", tmp_path / "sum.safetensors")
    assert found["relative_error"] == 0
    first, second, both = (parsing.low_rank(tensor_files.opened(p)) for p in (one, two, tmp_path / "sum.safetensors"))
    for layer, each in both.items():
        expected = 0.8 * first[layer].difference()
        expected = expected + 0.3 * second[layer].difference() if layer in second else expected
        assert torch.allclose(each.difference(), expected, atol=1e-5)
    small = run("--models", one, two, "--ratios", 0.8, 0.3, "--rank", 4, "--save_to", tmp_path / "small.safetensors")
    assert 0 < small["relative_error"] < 1
    ranks = {each.rank for each in parsing.low_rank(tensor_files.opened(tmp_path / "small.safetensors")).values()}
    assert ranks == {3, 4}
    whole = run("--models", one, two, "--ratios", 0.8, 0.3, "--rank", 5, "--save_to", tmp_path / "whole.safetensors")
    assert whole["relative_error"] < 1e-5


def test_truncation_is_the_best_there_is():
    torch.manual_seed(0)
    each = factors.Factors(torch.randn(6, 20), torch.randn(9, 6), 3.0)
    u, s, v = torch.linalg.svd(each.difference())
    best = u[:, :2] * s[:2] @ v[:2]
    assert torch.allclose(factors.truncated(each, 2).difference(), best, atol=1e-5)


def test_models_by_weighted_sum_and_difference(sd1: Path, tmp_path: Path):
    one, two = (a_lora(sd1, tmp_path / f"{seed}.safetensors", seed=seed) for seed in (1, 2))
    for name, file in (("a", one), ("b", two)):
        run("--sd_model", sd1, "--models", file, "--save_to", tmp_path / f"{name}.safetensors")
    a, b, base = (load_file(tmp_path / f"{n}.safetensors") for n in ("a", "b", "a"))
    given = ("--sd_model", tmp_path / "a.safetensors", "--config", sd1)
    run(*given, "--models", tmp_path / "b.safetensors", "--ratios", 0.25, "--save_to", tmp_path / "sum.safetensors")
    run(*given, "--models", tmp_path / "b.safetensors", sd1, "--method", "difference", "--ratios", 0.5, 0.5,
        "--save_to", tmp_path / "more.safetensors")  # fmt: skip
    mixed, more = load_file(tmp_path / "sum.safetensors"), load_file(tmp_path / "more.safetensors")
    convert(sd1, tmp_path / "plain.safetensors")
    plain = load_file(tmp_path / "plain.safetensors")
    for name in base:
        assert torch.allclose(mixed[name], 0.75 * a[name] + 0.25 * b[name], atol=1e-6)
        assert torch.allclose(more[name], a[name] + 0.5 * (b[name] - plain[name]), atol=1e-6)


def test_what_has_no_numbers_is_refused(sd1: Path, tmp_path: Path):
    one = without_numbers(a_lora(sd1, tmp_path / "one.safetensors"))
    two = without_numbers(a_lora(sd1, tmp_path / "two.safetensors"))
    with pytest.raises(Refusal) as refused:
        run("--sd_model", sd1, "--models", one, two, "--save_to", tmp_path / "merged")
    assert [each.where for each in refused.value.faults] == [str(one), str(two)]
    with pytest.raises(Refusal, match="NaN"):
        run("--models", one, two, "--save_to", tmp_path / "merged.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.safetensors", "two.safetensors"]


@pytest.mark.parametrize("dtype", (torch.float8_e4m3fn, torch.float8_e5m2), ids=str)
def test_models_in_eight_bit_floats_merge(dtype: torch.dtype, sd1: Path, tmp_path: Path):
    file = sd1 / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copytree(sd1, tmp_path / "small")
    save_file({n: t.to(dtype) for n, t in load_file(file).items()}, tmp_path / "small" / file.relative_to(sd1))
    run(
        "--sd_model", tmp_path / "small", "--models", tmp_path / "small", "--ratios", 0.5, "--save_to", tmp_path / "out"
    )
    before, after = (load_file(tmp_path / place / file.relative_to(sd1)) for place in ("small", "out"))
    assert all(after[name].dtype == dtype for name in before)
    assert all(torch.equal(after[name].float(), before[name].float()) for name in before)


@pytest.mark.parametrize("target", ("merged", "merged.safetensors", "merged.ckpt"))
def test_a_result_without_numbers_is_not_written(target: str, sd1: Path, tmp_path: Path):
    shutil.copytree(sd1, tmp_path / "half")
    without_numbers(tmp_path / "half" / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(Refusal, match=r"unet .* would hold NaN"):
        run("--sd_model", sd1, "--models", tmp_path / "half", "--ratios", 0.5, "--save_to", tmp_path / target)
    assert [path.name for path in tmp_path.iterdir()] == ["half"]


def test_every_file_that_cannot_be_read_is_named(sd1: Path, tmp_path: Path):
    """What the words show comes first, and what the files hold beside it."""
    (tmp_path / "text.safetensors").write_text("no tensors")
    (tmp_path / "file").write_text("")
    words = ["--models", tmp_path / "text.safetensors", "--save_to", tmp_path / "file" / "merged"]
    with pytest.raises(Refusal) as refused:
        run("--sd_model", tmp_path / "none", *words, "--models", tmp_path / "missing", "--ratios", 1, 2, 3)
    *shown, held = [each.where for each in refused.value.faults]
    assert shown == ["--ratios", "--sd_model", "--models", "--save_to"] and held == str(tmp_path / "text.safetensors")
    assert all(each.fits and each.do for each in refused.value.faults)
    with pytest.raises(Refusal) as refused:
        run("--sd_model", tmp_path / "file", *words)
    where = [each.where for each in refused.value.faults]
    assert where == ["--save_to", str(tmp_path / "file"), str(tmp_path / "text.safetensors")]
    assert all(each.fits and each.do for each in refused.value.faults)


def test_what_does_not_fit_is_refused(sd1: Path, sdxl: Path, tmp_path: Path):
    one = a_lora(sdxl, tmp_path / "one.safetensors")
    with pytest.raises(Refusal, match="is for Stable Diffusion XL"):
        run("--sd_model", sd1, "--models", one, "--save_to", tmp_path / "merged")
    save_file(load_file(one), tmp_path / "unsaid.safetensors")
    with pytest.raises(Refusal, match="are not in the model"):
        run("--sd_model", sd1, "--models", tmp_path / "unsaid.safetensors", "--save_to", tmp_path / "merged")
    with pytest.raises(Refusal, match="2 numbers for 1 files"):
        run("--sd_model", sd1, "--models", one, "--ratios", 1, 2, "--save_to", tmp_path / "merged")
    with pytest.raises(Refusal, match="not the same"):
        run("--sd_model", sd1, "--models", sdxl, "--save_to", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
