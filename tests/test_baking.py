"""A DoRA becomes a plain LoRA: as near as singular values allow, and how near is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tenshot.adapters import adapter_files, parsing
from tenshot.core.errors import Refusal
from tests.test_adapter_files import a_lora
from tests.test_adapter_files import run as convert
from tests.test_loha_lokr import kohyas
from tests.test_merge import adapted, answers
from tests.test_weight_delta import UNET, kohya, with_magnitudes


def a_dora(folder: Path, file: Path, every: int = 2) -> Path:
    save_file(with_magnitudes(kohya(folder, file), folder, every), file)
    return file


def test_at_full_rank_it_is_the_same(sd1: Path, tmp_path: Path):
    file = a_dora(sd1, tmp_path / "dora.safetensors")
    told = convert(file, tmp_path / "plain.safetensors", "--bake_dora", sd1, "--rank", 600)
    assert told["relative_error"] < 1e-5 and told["form"] == "kohya"
    found = load_file(tmp_path / "plain.safetensors")
    assert not [name for name in found if "dora_scale" in name]
    plain, dora = (answers(adapted(sd1, (tmp_path / f"{name}.safetensors", 1.0))) for name in ("plain", "dora"))
    assert torch.allclose(plain, dora, atol=1e-4)


@pytest.mark.parametrize("form", ["kohya", "diffusers"])
def test_at_its_own_rank_it_is_the_nearest(form: str, sd1: Path, tmp_path: Path):
    file = a_dora(sd1, tmp_path / "dora.safetensors")
    told = convert(file, tmp_path / "plain.safetensors", "--bake_dora", sd1, "--form", form)
    before, after = (parsing.read(adapter_files.opened(tmp_path / f"{name}.safetensors")) for name in ("dora", "plain"))
    weights = load_file(sd1 / UNET)
    away = total = 0.0
    for (part, layer), each in before.items():
        made = after[part, layer]
        assert made.rank == each.rank and made.magnitude is None
        if each.magnitude is None:
            assert torch.equal(made.down, each.down) and torch.equal(made.up, each.up)
            continue
        weight = weights[f"{layer}.weight"].double()
        new = weight + each.difference().reshape(weight.shape).double()
        length = new.flatten(1).norm(dim=1)
        new *= (each.magnitude.double().flatten() / length).reshape(-1, *(1,) * (weight.ndim - 1))
        change = (new - weight).flatten(1)
        lost = torch.linalg.svdvals(change)[each.rank :].square().sum()
        assert (change - made.difference().flatten(1)).square().sum() == pytest.approx(lost.item(), rel=1e-3)
        away, total = away + lost.item(), total + change.square().sum().item()
    assert told["relative_error"] == pytest.approx((away / total) ** 0.5, rel=1e-3)
    assert 0 < told["relative_error"] < 1


def test_of_a_loha(sd1: Path, tmp_path: Path):
    file = kohyas(sd1, "loha", tmp_path / "dora.safetensors")
    save_file(with_magnitudes(load_file(file), sd1, every=1), file)
    told = convert(file, tmp_path / "plain.safetensors", "--bake_dora", sd1, "--rank", 600)
    assert told["relative_error"] < 1e-5
    plain, dora = (answers(adapted(sd1, (tmp_path / f"{name}.safetensors", 1.0))) for name in ("plain", "dora"))
    assert torch.allclose(plain, dora, atol=1e-4)


def test_what_cannot_be_baked_is_refused(sd1: Path, sd2_v: Path, tmp_path: Path):
    plain = a_lora(sd1, tmp_path / "plain.safetensors")
    file = a_dora(sd1, tmp_path / "dora.safetensors")
    for given, match in (
        ((plain, "--bake_dora", sd1), "it is no DoRA"),
        ((file, "--bake_dora", sd2_v), "for Stable Diffusion 1.x|have other shapes|not in the model"),
        ((sd1, "--bake_dora", sd1), "is no LoRA"),
        ((file, "--rank", 3), "without --bake_dora"),
    ):
        with pytest.raises(Refusal, match=match):
            convert(*given[:1], tmp_path / "out.safetensors", *given[1:])
    named = load_file(file)
    save_file({n: t.transpose(0, 1).contiguous() if "dora" in n and t.ndim > 1 else t for n, t in named.items()}, file)
    with pytest.raises(Refusal, match="magnitudes of inputs"):
        convert(file, tmp_path / "out.safetensors", "--form", "diffusers", "--config", sd1)
    assert not (tmp_path / "out.safetensors").exists()
