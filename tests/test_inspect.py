"""What a file is, and where it will load, said without opening a pickle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tenshot.cli.main import main
from tenshot.core.events import Events
from tenshot.export import compatibility
from tenshot.families import conversion, registry
from tenshot.families.base import Family
from tenshot.families.sd import SD1, SD2
from tenshot.families.sd3 import SD3
from tenshot.families.sdxl import SDXL
from tenshot.io import tensor_files
from tenshot.io.tensor_files import Container, Lazy
from tenshot.model import checkpoint
from tests.test_adapter_files import a_lora, without_numbers
from tests.test_checkpoints import run


@pytest.fixture
def told(capsys: pytest.CaptureFixture) -> Any:
    """What `tenshot inspect --json` answers."""

    def ask(file: Path) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["inspect", str(file), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return ask


def released(family: Any, config: dict[str, Any], place: Path) -> Container:
    """A checkpoint's denoiser of released size by its shapes alone."""
    kind = family.parts[family.denoiser]
    shapes = conversion.skeleton(kind, config)
    found = {name: Lazy(shape, torch.float16, lambda: torch.zeros(0)) for name, shape in shapes.items()}
    with torch.device("meta"):
        whole = dict(kind.from_config(config).config)
    lines = conversion.lines(family, family.denoiser, whole, found)
    return Container(place, "safetensors", {line.theirs: conversion.as_theirs(line, found) for line in lines})


def test_a_checkpoint(sd2_v: Path, tmp_path: Path, told: Any):
    run(sd2_v, tmp_path / "one.safetensors")
    found = told(tmp_path / "one.safetensors")
    assert (found["what"], found["family"]) == ("checkpoint", "Stable Diffusion 2.x")
    assert found["prediction"] == "v_prediction"
    assert found["loads_in"] == ["tenshot"]
    assert "32, 64 wide" in found["not_in"]["ComfyUI"]


def test_a_v_predicting_xl_without_its_yaml(sdxl: Path, tmp_path: Path):
    run(sdxl, tmp_path / "one.safetensors")
    tensors = load_file(tmp_path / "one.safetensors") | {"v_pred": torch.zeros(0)}
    save_file(tensors, tmp_path / "v.safetensors")
    source = tensor_files.opened(tmp_path / "v.safetensors")
    assert compatibility.WEBUI in compatibility.of_checkpoint(source, SDXL)["not_in"]


def as_released(monkeypatch: pytest.MonkeyPatch, name: str, widths: tuple[int, ...], text: int = 0) -> None:
    """As if the family of that name had been released with a denoiser of these widths, that reads text so wide."""

    def changed(each: Family) -> Family:
        denoiser = {**each.released[each.denoiser], **({each.text_width: text} if text else {})}
        return replace(each, sizes=(widths,), released={**each.released, each.denoiser: denoiser})

    known = (changed(each) if each.name == name else each for each in registry.FAMILIES)
    monkeypatch.setattr(registry, "FAMILIES", tuple(known))


@pytest.fixture
def tiny_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    as_released(monkeypatch, "sd1", tuple(range(8, 1281)))


def test_a_lora_of_a_size_that_nobody_has(sd1: Path, tmp_path: Path, told: Any):
    run(a_lora(sd1, tmp_path / "ours.safetensors"), tmp_path / "kohya.safetensors", "--config", sd1)
    found = told(tmp_path / "kohya.safetensors")
    assert found["loads_in"] == ["diffusers", "tenshot"] and "wide" in found["not_in"]["ComfyUI"]


def test_a_lora_without_numbers(sd1: Path, tmp_path: Path, told: Any, tiny_is_released: None):
    found = told(without_numbers(a_lora(sd1, tmp_path / "ours.safetensors")))
    assert found["what"] == "lora" and not found["loads_in"] and "NaN" in found["not_in"]["tenshot"]


def test_the_forms_of_a_lora(sd1: Path, sdxl: Path, tmp_path: Path, told: Any, tiny_is_released: None):
    ours = a_lora(sd1, tmp_path / "ours.safetensors", rank=3, alpha=5)
    found = told(ours)
    assert found["loads_in"] == ["diffusers", "tenshot"] and "47 of 79 layers of unet" in found["not_in"]["ComfyUI"]
    run(ours, tmp_path / "kohya.safetensors", "--config", sd1)
    found = told(tmp_path / "kohya.safetensors")
    assert found["loads_in"] == list(compatibility.ALL) and "not_in" not in found
    count = sum(found["layers"].values())
    assert (found["rank"], found["alpha"]) == ({"3": count}, {"5.0": count})
    run(a_lora(sdxl, tmp_path / "xl.safetensors"), tmp_path / "xl-kohya.safetensors", "--config", sdxl)
    assert "not_in" not in told(tmp_path / "xl-kohya.safetensors")


def test_pickles_are_not_opened(tmp_path: Path, told: Any):
    word = {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.zeros(1, 16)}, "name": "az"}
    torch.save(word, tmp_path / "new.pt")
    torch.save(word, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert compatibility.WEBUI in told(tmp_path / "new.pt")["not_in"]
    found = told(tmp_path / "old.pt")
    assert (found["what"], found["loads_in"]) == ("embedding", list(compatibility.ALL))


def test_two_tensors_are_no_embedding_for_webui(tmp_path: Path, told: Any):
    save_file({"clip_l": torch.zeros(1, 768), "clip_g": torch.zeros(1, 1280)}, tmp_path / "xl.safetensors")
    found = told(tmp_path / "xl.safetensors")
    assert found["family"] == "Stable Diffusion XL or Stable Diffusion 3" and list(found["not_in"]) == [
        compatibility.DIFFUSERS
    ]


def test_trigger_words_and_the_training(sd1: Path, tmp_path: Path, told: Any):
    ours = a_lora(sd1, tmp_path / "ours.safetensors")
    (tmp_path / "ui" / "models").mkdir(parents=True)
    run(ours, "--to", "webui", tmp_path / "ui", "--config", sd1, "--trigger", "az baby")
    assert told(tmp_path / "ui/models/Lora/ours.safetensors")["trigger_words"] == ["az baby"]
    tags = {"ss_tag_frequency": json.dumps({"10_az": {"az": 7, "hat": 2}}), "ss_steps": "300"}
    save_file(load_file(ours), tmp_path / "tagged.safetensors", tags)
    found = told(tmp_path / "tagged.safetensors")
    assert found["trigger_words"] == ["az", "hat"] and found["training"]["ss_steps"] == "300"


def test_folders(sd1: Path, tmp_path: Path, told: Any):
    assert told(sd1)["what"] == "model folder"
    assert told(sd1 / "vae")["what"] == "AutoencoderKL"
    (tmp_path / "run").mkdir()
    shutil.move(a_lora(sd1, tmp_path / "ours.safetensors"), tmp_path / "run" / "pytorch_lora_weights.safetensors")
    assert told(tmp_path / "run")["what"] == "lora"
    assert main(["inspect", str(tmp_path), "--json"]) == 2


@pytest.fixture
def full_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """What is said of a checkpoint whose UNet has the released size. spread: of the norm that ComfyUI looks at."""

    def ask(family: Family, said: str = "", signs: Sequence[str] = (), spread: float | None = None) -> dict[str, Any]:
        start, dialect = family.original[family.denoiser]
        source = released(family, dict(family.released[family.denoiser]), tmp_path / "one.safetensors")
        shapes = {name.removeprefix(start): lazy.shape for name, lazy in source.tensors.items()}
        denoiser = conversion.DIALECTS[dialect].config(shapes)
        monkeypatch.setattr(compatibility.conversion, "configured", lambda *_: {family.denoiser: denoiser})
        nothing = Lazy((0,), torch.float32, lambda: torch.zeros(0))
        tensors = {**source.tensors, **dict.fromkeys(signs, nothing)}
        if spread is not None:
            norm = torch.tensor([spread, -spread])  # whose deviation is that
            tensors[checkpoint.NORM] = Lazy((2,), torch.float32, lambda: norm)
        about = {"modelspec.prediction_type": said} if said else {}
        return compatibility.of_checkpoint(Container(source.place, "safetensors", tensors, about), family)

    return ask


@pytest.mark.parametrize(("family", "spread"), [(SD1, None), (SD2, 0.05), (SDXL, None)], ids=("sd1", "sd2", "sdxl"))
def test_released_sizes_load_everywhere(family: Family, spread: float | None, full_size: Callable[..., dict[str, Any]]):
    found = full_size(family, spread=spread)
    assert found["loads_in"] == list(compatibility.ALL) and "not_in" not in found
    assert found["comfyui_takes_it_for"] == "epsilon"


def test_a_released_sd3_loads_where_it_is_known(full_size: Callable[..., dict[str, Any]]):
    found = full_size(SD3)
    assert [*found["not_in"]] == [compatibility.WEBUI] and "since 1.10" in found["not_in"][compatibility.WEBUI]
    assert found["comfyui_takes_it_for"] == "flow_prediction"


def test_what_comfyui_takes_a_v_prediction_for(full_size: Callable[..., dict[str, Any]]):
    """SD1 never for one; SD2 by one norm's deviation; SDXL by a tensor v_pred: as its code has it."""
    comfy, web = compatibility.COMFY, compatibility.WEBUI
    one = full_size(SD1, "v", ("v_pred", "ztsnr"))["not_in"]
    assert "ModelSamplingDiscrete (v_prediction)" in one[comfy] and "every SD1" in one[comfy]
    assert "--to webui" in one[web]
    low = full_size(SD2, "v", spread=0.05)
    assert "0.05" in low["not_in"][comfy] and low["spread"] == pytest.approx(0.05)
    high = full_size(SD2, spread=0.2)
    assert high["comfyui_takes_it_for"] == "v_prediction" and comfy in high["loads_in"]
    assert "ModelSamplingDiscrete (eps)" in full_size(SD2, "epsilon", spread=0.2)["not_in"][comfy]
    assert comfy in full_size(SDXL, "v", ("v_pred",))["loads_in"]
    assert "no tensor v_pred" in full_size(SDXL, "v")["not_in"][comfy]


def test_handing_a_v_prediction_to_comfyui_says_what_it_takes_it_for(
    sd2_v: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    heard: list[str] = []
    monkeypatch.setattr(Events, "say", lambda _, text: heard.append(text))
    as_released(monkeypatch, "sd2", (32, 64), text=32)
    (tmp_path / "models").mkdir()
    run(sd2_v, "--to", "comfyui", tmp_path)
    assert any("ModelSamplingDiscrete" in text for text in heard)
