"""Files go where user interfaces look for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tenshot.errors import Refusal
from tenshot.model import ASSETS
from tests.test_adapter_files import a_lora
from tests.test_checkpoints import run


@pytest.mark.parametrize(
    ("to", "where"),
    [
        ("webui", ("models/Stable-diffusion", "models/Lora", "embeddings", "models/VAE")),
        ("comfyui", ("models/checkpoints", "models/loras", "models/embeddings", "models/vae")),
    ],
)
def test_each_in_its_folder(to: str, where: tuple[str, ...], sd1: Path, tmp_path: Path):
    place = tmp_path / "ui"
    (place / "models").mkdir(parents=True)
    lora = a_lora(sd1, tmp_path / "az.safetensors")
    save_file({"emb_params": torch.zeros(2, 16)}, tmp_path / "word.safetensors")
    picture = next((ASSETS / "subjects" / "koala").glob("*.png"))
    for source in (sd1, lora, tmp_path / "word.safetensors", sd1 / "vae"):
        run(source, place, "--to", to, "--name", "mine", "--trigger", "az baby", "--preview", picture)
    for folder in where:
        assert load_file(place / folder / "mine.safetensors")
        assert json.loads((place / folder / "mine.json").read_text())["activation text"] == "az baby"
        assert Image.open(place / folder / "mine.png").mode == "RGB"
    assert any(name.startswith("lora_unet_") for name in load_file(place / where[1] / "mine.safetensors"))
    assert "model.diffusion_model.out.2.bias" in load_file(place / where[0] / "mine.safetensors")


def test_a_file_stays_a_file(sd1: Path, tmp_path: Path):
    (tmp_path / "models").mkdir()
    run(sd1, tmp_path / "one.safetensors")
    found = run(tmp_path / "one.safetensors", tmp_path, "--to", "webui")
    assert found["written"].endswith("models/Stable-diffusion/one.safetensors")
    one, other = load_file(tmp_path / "one.safetensors"), load_file(Path(found["written"]))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_cannot_be_is_refused_together(sd1: Path, tmp_path: Path):
    with pytest.raises(Refusal) as refused:
        run(sd1, tmp_path / "nowhere", "--to", "webui", "--name", "../x", "--preview", tmp_path / "none.png")
    assert len(refused.value.faults) == 3
