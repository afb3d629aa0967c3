"""The yaml beside v-prediction checkpoints; the original programs' own code, where it is there, makes its nets of it.

`pip install --no-deps stable-diffusion-sdkit einops omegaconf antlr4-python3-runtime` brings that code (ldm).
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file

from tenshot.model import model
from tests import tiny
from tests.test_checkpoints import run


def exported(folder: Path, place: Path, to: str = "webui") -> Path:
    (place / "models").mkdir(parents=True)
    return Path(run(folder, "--to", to, place)["written"])


def test_only_v_prediction_has_one_and_only_where_it_is_read(sd1: Path, sd2_v: Path, tmp_path: Path):
    assert exported(sd2_v, tmp_path / "v").with_suffix(".yaml").is_file()
    assert not exported(sd1, tmp_path / "eps").with_suffix(".yaml").exists()
    assert not exported(sd2_v, tmp_path / "comfy", "comfyui").with_suffix(".yaml").exists()


def test_a_v_predicting_xl_has_one(sdxl: Path, tmp_path: Path):
    folder = shutil.copytree(sdxl, tmp_path / "v")
    schedule = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    told = schedule | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(told))
    file = exported(folder, tmp_path / "ui")
    found = yaml.safe_load(file.with_suffix(".yaml").read_text())["model"]["params"]
    assert found["denoiser_config"]["params"]["scaling_config"]["target"].endswith(".VScaling")
    assert len(found["conditioner_config"]["params"]["emb_models"]) == 5
    assert {"v_pred", "ztsnr"} <= load_file(file).keys()


@pytest.fixture
def instantiate(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The original code's way from a configuration to a net; what only its training needs is left out."""
    pytest.importorskip("ldm")
    lightning = types.ModuleType("pytorch_lightning")
    lightning.LightningModule = torch.nn.Module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pytorch_lightning", lightning)
    return importlib.import_module("ldm.util").instantiate_from_config


def wide(folder: Path) -> Path:
    """A Stable Diffusion 2.x whose widths the original code can take: it has 32 groups everywhere."""
    tiny.sd2_v(folder)
    torch.manual_seed(5)
    changes = {"unet": {}, "vae": {"block_out_channels": (32, 32, 64, 64)}}
    for kind, part in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae")):
        config = {**kind.load_config(folder / part), "norm_num_groups": 32, **changes[part]}
        kind.from_config(config).save_pretrained(folder / part)
    return folder


@torch.no_grad()
def test_the_original_code_makes_the_same_nets_of_it(instantiate: Any, tmp_path: Path):
    folder = wide(tmp_path / "wide")
    file = exported(folder, tmp_path / "ui")
    told, found = yaml.safe_load(file.with_suffix(".yaml").read_text())["model"]["params"], load_file(file)
    opened = model.load(str(folder))
    nets = {}
    for part, start in (("unet_config", "model.diffusion_model."), ("first_stage_config", "first_stage_model.")):
        nets[part] = instantiate(told[part]).eval()
        nets[part].load_state_dict({n.removeprefix(start): t for n, t in found.items() if n.startswith(start)})
    torch.manual_seed(0)
    x, text, picture = torch.randn(2, 4, 8, 8), torch.randn(2, 7, 32), torch.randn(1, 3, 64, 64)
    expected = opened["unet"](x, 500, text).sample
    assert torch.allclose(nets["unet_config"](x, torch.tensor([500, 500]), context=text), expected, atol=1e-5)
    vae = nets["first_stage_config"]
    assert torch.allclose(vae.decode(x), opened["vae"].decode(x).sample, atol=1e-5)
    assert torch.allclose(vae.encode(picture).mean, opened["vae"].encode(picture).latent_dist.mean, atol=1e-5)
