"""A tiny Stable Diffusion 3 goes through the verbs, with T5 and without; diffusers' pipeline draws the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import NormalDist

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

from tenshot import pipeline
from tenshot.core.errors import Refusal
from tenshot.model import model
from tenshot.pipeline import Request, SamplingSettings
from tenshot.train.engine.rng import CounterRNG
from tests.test_resume import kill_and_resume


@pytest.fixture(params=["sd3", "sd35"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@torch.no_grad()
def test_diffusers_draws_the_same(folder: Path):
    without = {} if (folder / "text_encoder_3").is_dir() else {"text_encoder_3": None, "tokenizer_3": None}
    theirs = StableDiffusion3Pipeline.from_pretrained(folder, **without)
    theirs.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(7))
    more = {"num_inference_steps": 3, "guidance_scale": 4.0, "height": 64, "width": 64, "negative_prompt": "a dog"}
    clean = theirs("a cat", latents=noise, output_type="latent", **more).images
    pictures = theirs("a cat", latents=noise, output_type="np", **more).images
    opened = model.load(str(folder))
    settings = SamplingSettings(sampler="Euler", steps=3, guidance=4.0)
    found = pipeline.latents(opened, [Request("a cat", 7, "a dog")], settings)
    assert torch.allclose(found, clean, atol=1e-5)
    drawn = opened.decode(found).permute(0, 2, 3, 1) / 2 + 0.5
    assert torch.allclose(drawn.clamp(0, 1), torch.from_numpy(pictures), atol=1e-4)


@torch.no_grad()
def test_latents_are_shifted_and_scaled(folder: Path):
    """https://github.com/Stability-AI/sd3-ref: (x - 0.0609) * 1.5305"""
    opened = model.load(str(folder))
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plain = opened["vae"].encode(picture).latent_dist
    mean, deviation = opened.encode(picture)
    assert torch.allclose(mean, (plain.mean - 0.0609) * 1.5305)
    assert torch.allclose(deviation, plain.std * 1.5305)
    assert torch.allclose(opened.decode(mean), opened["vae"].decode(plain.mean).sample, atol=1e-5)


@pytest.mark.parametrize("part", ["text_encoder_3", "tokenizer_3", "text_encoder_2", "transformer"])
def test_a_part_that_the_index_tells_of_is_missed(part: str, sd35: Path, tmp_path: Path):
    folder = shutil.copytree(sd35, tmp_path / "model")
    shutil.rmtree(folder / part)
    with pytest.raises(Refusal, match=part):
        model.load(str(folder))


def test_without_t5_where_the_index_says_so(sd35: Path, tmp_path: Path):
    folder = shutil.copytree(sd35, tmp_path / "model")
    for part in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(folder / part)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | dict.fromkeys(("text_encoder_3", "tokenizer_3"))))
    assert "text_encoder_3" not in model.load(str(folder)).parts


def test_a_saved_model_is_the_same(folder: Path, tmp_path: Path):
    opened = model.load(str(folder))
    model.save(opened, tmp_path / "copy")
    again = model.load(str(tmp_path / "copy"))
    assert again.parts.keys() == opened.parts.keys()
    prompt = "a photo of a cat."
    one, other = (each.conditioning([prompt], (64, 64)) for each in (opened, again))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "dreambooth"])
def test_killed_and_restarted_is_uninterrupted(method: str, folder: Path, tmp_path: Path):
    quick = ("--fork", "--kills", "2", "--steps", "9", "--side", "64")
    kill_and_resume("--method", method, "--model", str(folder), "--folder", str(tmp_path), *quick)


@torch.no_grad()
def test_the_loss_of_training_is_what_diffusers_scripts_compute(folder: Path, tmp_path: Path):
    """train_dreambooth_lora_sd3.py: sigmas of the scheduler at logit-normal places, noise less latents as target."""
    opened = model.load(str(folder))
    rng = CounterRNG(0, range(4))
    normal = [NormalDist().inv_cdf(u) for u in rng.stratified("timestep").tolist()]
    place = (torch.sigmoid(torch.tensor(normal)) * 1000).long()
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
    sigmas, times = scheduler.sigmas[place], scheduler.timesteps[place]
    assert torch.allclose(opened.process.sample_t(rng, "timestep"), times, rtol=1e-5)
    latents = torch.randn(4, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(4, 16, 8, 8, generator=torch.Generator().manual_seed(2))
    at = sigmas[:, None, None, None]
    noisy = (1 - at) * latents + at * noise
    text = opened.conditioning(["a cat"] * 4, (64, 64))
    answer = opened.denoiser(noisy, text["encoder_hidden_states"], text["pooled_projections"], times).sample
    expected = (answer - (noise - latents)).square().flatten(1).mean(1)
    shown = opened.process.add_noise(latents, noise, times)
    found = opened.predict(shown, times, text) - opened.process.target(latents, noise, times)
    assert torch.allclose(found.square().flatten(1).mean(1), expected, rtol=1e-4)
