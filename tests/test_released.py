"""Checkpoints as they were released: their noise schedules, and models that see more than latents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file

import tenshot
from tenshot.cli.main import main
from tenshot.diffusion import sampling
from tenshot.diffusion.process import DDPM
from tenshot.model import checkpoint, model
from tests import tiny

NOISE = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
    "clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
}  # fmt: skip
#: scheduler/scheduler_config.json of stable-diffusion-v1-5, stable-diffusion-2-1-base, stable-diffusion-2-1 and
#: stable-diffusion-xl-base-1.0, as published with the weights.
RELEASED = {
    "v1-5": {"_class_name": "PNDMScheduler", **NOISE, "prediction_type": "epsilon"},
    "2-1-base": {"_class_name": "PNDMScheduler", **NOISE, "prediction_type": "epsilon"},
    "2-1": {"_class_name": "DDIMScheduler", **NOISE, "prediction_type": "v_prediction"},
    "xl": {
        "_class_name": "EulerDiscreteScheduler", **NOISE, "prediction_type": "epsilon", "timestep_spacing": "leading",
    },
}  # fmt: skip
STEPS, COUNT = 1000, 20


def foreign(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint of that kind as others write it: tensors, and nothing else in the header."""
    folder = request.getfixturevalue({"v1-5": "sd1", "xl": "sdxl"}.get(name, "sd2_v"))
    assert main(["convert", str(folder), str(tmp_path / "ours.safetensors")]) == 0
    named = load_file(tmp_path / "ours.safetensors")
    named.pop("v_pred", None)
    if name == "2-1":
        named["v_pred"] = torch.zeros(0)
    save_file(named, tmp_path / f"{name}.safetensors")
    return tmp_path / f"{name}.safetensors"


def schedule(file: Path) -> dict[str, Any]:
    source = checkpoint.tensor_files.opened(file)
    family = checkpoint.family_of(source)
    assert family is not None
    return checkpoint.schedule_of(source, family)


@pytest.mark.parametrize("name", RELEASED)
def test_a_foreign_checkpoint_gets_the_released_schedule(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    found = schedule(foreign(name, request, tmp_path))
    wanted = RELEASED[name]
    kind = getattr(diffusers, wanted["_class_name"])
    assert found["_class_name"] == wanted["_class_name"]
    # What diffusers makes of either, its defaults with it: nothing that is left out may mean something else.
    ours, theirs = (dict(kind.from_config(each).config) for each in (found, wanted))
    for each in (ours, theirs):
        each.pop("_use_default_values", None)
    assert ours == theirs
    for other in ("DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "PNDMScheduler"):
        a, b = (getattr(diffusers, other).from_config(each) for each in (found, wanted))
        a.set_timesteps(COUNT)
        b.set_timesteps(COUNT)
        assert torch.equal(a.timesteps, b.timesteps) and torch.equal(a.alphas_cumprod, b.alphas_cumprod)
        assert a.config.get("clip_sample", False) is b.config.get("clip_sample", False) is False


@pytest.mark.parametrize("name", RELEASED)
def test_samplers_start_where_the_released_schedule_says(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """steps_offset 1 with leading spacing: of 20 steps the first is 951, the last 1, counted by hand."""
    found = schedule(foreign(name, request, tmp_path))
    steps = sampling.sampler("DDIM", COUNT, found, DDPM).run(torch.ones(1, 1, 1, 1), [])
    seen, first = next(steps)
    times = [first, *(steps.send(torch.zeros_like(seen))[1] for _ in range(COUNT - 1))]
    assert times == pytest.approx([STEPS // COUNT * n + 1 for n in range(COUNT)][::-1], abs=1e-6)
    assert DDPM.from_config(found).prediction == RELEASED[name]["prediction_type"]


def test_zero_terminal_snr_is_told_by_its_sign(sdxl: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    file = foreign("xl", request, tmp_path)
    save_file(load_file(file) | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, file)
    found = schedule(file)
    assert found["prediction_type"] == "v_prediction" and found["rescale_betas_zero_snr"] is True


@pytest.fixture(scope="module", params=(9, 8))
def wide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """A tiny model for inpainting, and one that edits."""
    folder = tiny.sd1(tmp_path_factory.mktemp("wide") / "model")
    net = tiny._unet(16, attention_head_dim=2, in_channels=request.param)
    net.save_pretrained(folder / "unet")
    return request.param, folder


@torch.no_grad()
def test_they_see_that_all_is_to_be_painted(wide: tuple[int, Path]) -> None:
    channels, folder = wide
    opened = tenshot.load(str(folder))
    plain = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    torch.manual_seed(0)
    x, states = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 16)
    if channels == 9:  # as diffusers' inpainting pipeline has it: latents, mask, and the latents of what is left over
        under = vae.encode(torch.zeros(2, 3, 64, 64)).latent_dist.mean * vae.config.scaling_factor
        seen = torch.cat([x, torch.ones(2, 1, 8, 8), under], 1)
    else:
        seen = torch.cat([x, torch.zeros(2, 4, 8, 8)], 1)
    wanted = plain(seen, 500, states).sample
    assert torch.allclose(opened["unet"](x, 500, states).sample, wanted, atol=1e-5)
    assert torch.allclose(opened["unet"](seen, 500, states).sample, wanted, atol=1e-5)  # and whoever gives all of it


@pytest.mark.usefixtures("sketches")
def test_they_are_converted_merged_drawn_with_and_trained(
    wide: tuple[int, Path], tmp_path: Path, pictures: Path
) -> None:
    channels, folder = wide
    file = tmp_path / "one.safetensors"
    assert main(["convert", str(folder), str(file)]) == 0
    assert load_file(file)["model.diffusion_model.input_blocks.0.0.weight"].shape[1] == channels
    assert main(["convert", str(file), str(tmp_path / "back")]) == 0
    named = json.loads((tmp_path / "back" / "model_index.json").read_text())["_class_name"]
    assert named == {9: "StableDiffusionInpaintPipeline", 8: "StableDiffusionInstructPix2PixPipeline"}[channels]
    getattr(diffusers, named).from_pretrained(tmp_path / "back", safety_checker=None)
    for part in ("unet", "vae"):
        name = "diffusion_pytorch_model.safetensors"
        one, two = (load_file(place / part / name) for place in (folder, tmp_path / "back"))
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    train = ["--pretrained_model_name_or_path", str(folder), "--instance_data_dir", str(pictures)]
    train += [
        "--instance_prompt",
        "a photo of az cat",
        "--max_train_steps",
        "2",
        "--device",
        "cpu",
        "--report_to",
        "none",
    ]
    train += ["--learning_rate", "1e-2", "--validation_prompt", "a cat", "--validation_steps", "2"]
    assert main(["train", "lora", *train, "--output_dir", str(tmp_path / "lora")]) == 0
    merged = ["--models", str(tmp_path / "lora"), "--save_to", str(tmp_path / "merged")]
    assert main(["merge", "--sd_model", str(folder), *merged]) == 0
    draw = ["--prompt", "a cat", "--steps", "2", "--seed", "1", "--out", str(tmp_path / "x.png")]
    assert main(["generate", "--model", str(tmp_path / "merged"), *draw]) == 0
    assert model.load(str(tmp_path / "merged"))["unet"].config.in_channels == channels
