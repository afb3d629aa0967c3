"""Drawing, compared with diffusers' own pipelines: the same numbers in, the same pictures out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from tenshot import pipeline
from tenshot.core.errors import Cancelled
from tenshot.core.events import Events
from tenshot.core.size import Size
from tenshot.diffusion.samplers import SAMPLERS
from tenshot.families.base import ZEROS
from tenshot.model import model
from tenshot.pipeline import Request, SamplingSettings

STEPS = 4
PROMPT = "A tiny bear, on a hill"
SCHEDULERS = {
    "Euler a": (diffusers.EulerAncestralDiscreteScheduler, {"timestep_spacing": "linspace"}),
    "DDIM": (diffusers.DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}),
    "Heun": (diffusers.HeunDiscreteScheduler, {"timestep_spacing": "linspace"}),
}
SD, XL = diffusers.StableDiffusionPipeline, diffusers.StableDiffusionXLPipeline


@pytest.fixture(params=["sd1", "sd2_v", "sdxl"])
def place(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def pixels(images: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image, dtype=np.int16) for image in images])


def theirs(place: Path, sampler: str, seed: int, **more: Any) -> np.ndarray:
    """diffusers' own picture, [height, width, 3]."""
    kind = XL if (place / "text_encoder_2").is_dir() else SD
    pipeline = kind.from_pretrained(place, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    scheduler, changes = SCHEDULERS[sampler]
    schedule = json.loads((place / "scheduler/scheduler_config.json").read_text())
    pipeline.scheduler = scheduler.from_config({k: v for k, v in schedule.items() if k[0] != "_"} | changes)
    generator = torch.Generator("cpu").manual_seed(seed)
    return pixels(pipeline(PROMPT, num_inference_steps=STEPS, generator=generator, **more).images)[0]


def ours(place: Path, sampler: str, seed: int, negative: str = "", **more: Any) -> np.ndarray:
    settings = SamplingSettings(sampler, STEPS, **more)
    return pixels(pipeline.images(model.load(str(place)), [Request(PROMPT, seed, negative)], settings))[0]


def assert_same_picture(one: np.ndarray, other: np.ndarray) -> None:
    """Equal but for rounding: another batch size sums in another order, which moves a rare pixel by one level."""
    assert one.shape == other.shape
    assert one.std() > 4
    assert np.abs(one - other).max() <= 1
    assert (one != other).mean() < 0.002


@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_the_same_picture_as_diffusers(place: Path, sampler: str, guidance: float):
    wanted = theirs(place, sampler, 11, guidance_scale=guidance)
    assert_same_picture(ours(place, sampler, 11, guidance=guidance), wanted)


def test_the_same_picture_with_a_negative_prompt(place: Path):
    wanted = theirs(place, "Euler a", 5, guidance_scale=7.5, negative_prompt="blurry")
    assert_same_picture(ours(place, "Euler a", 5, "blurry"), wanted)
    assert np.abs(ours(place, "Euler a", 5) - wanted).max() > 1


def test_the_same_oblong_picture(place: Path):
    wanted = theirs(place, "DDIM", 5, guidance_scale=7.5, height=48, width=80)
    drawn = ours(place, "DDIM", 5, size=Size(48, 80))
    assert drawn.shape == (48, 80, 3)
    assert_same_picture(drawn, wanted)


def test_xl_without_negative_prompt_where_it_means_the_empty_text(sdxl: Path, tmp_path: Path):
    place = Path(shutil.copytree(sdxl, tmp_path / "model"))
    index = json.loads((place / "model_index.json").read_text())
    (place / "model_index.json").write_text(json.dumps(index | {ZEROS: False}))
    drawn = ours(place, "DDIM", 5)
    assert_same_picture(drawn, theirs(place, "DDIM", 5, guidance_scale=7.5))
    assert np.abs(drawn - ours(sdxl, "DDIM", 5)).max() > 1


def test_a_picture_is_the_same_alone_and_in_a_batch(place: Path):
    opened = model.load(str(place))
    requests = [Request(f"picture {n % 3}", 100 + n, "ugly" if n % 2 else "") for n in range(5)]
    together = pixels(pipeline.images(opened, requests, SamplingSettings("Euler a", STEPS, batch=3)))
    alone = pixels([pipeline.images(opened, [request], SamplingSettings("Euler a", STEPS))[0] for request in requests])
    assert_same_picture(together, alone)
    assert len({picture.tobytes() for picture in together}) == 5


def test_the_same_call_gives_the_same_bits(sd1: Path):
    opened, requests = model.load(str(sd1)), [Request("a", 1), Request("b", 2)]
    one, two = (pipeline.latents(opened, requests, SamplingSettings(steps=STEPS)) for _ in range(2))
    assert torch.equal(one, two)


def test_latents_decode_to_the_pictures(sd1: Path):
    opened, settings = model.load(str(sd1)), SamplingSettings("Euler", 2, batch=2)
    requests = [Request("a", seed) for seed in range(3)]
    latents = pipeline.latents(opened, requests, settings)
    assert latents.shape == (3, 4, 8, 8)
    assert latents.dtype == torch.float32
    images = pipeline.decode(opened, latents, 2)
    assert (pixels(images) == pixels(pipeline.images(opened, requests, settings))).all()
    with torch.no_grad():
        decoded = opened["vae"].decode(latents / opened["vae"].config.scaling_factor).sample
    wanted = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()
    assert np.abs(pixels(images) - wanted).max() <= 1


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws(sd1: Path, sampler: str, steps: int):
    drawn = pipeline.latents(model.load(str(sd1)), [Request("a", 1), Request("b", 2)], SamplingSettings(sampler, steps))
    assert drawn.isfinite().all()
    assert drawn[0].ne(drawn[1]).any()


class Heard(Events):
    def __init__(self, most: int = 10**6) -> None:
        self.most, self.told = most, []

    def begin(self, job: str, total: int, done: int = 0) -> None:
        self.told.append((job, total))

    def advance(self, done: int, **figures: float) -> None:
        self.told.append(done)

    def end(self) -> None:
        self.told.append("end")

    def cancelled(self) -> bool:
        return len(self.told) > self.most


@pytest.mark.parametrize(("sampler", "calls"), [("Euler", 3), ("Heun", 5), ("PLMS", 4)])
def test_every_denoising_step_is_told(sd2_v: Path, sampler: str, calls: int):
    heard = Heard()
    pipeline.images(
        model.load(str(sd2_v)), [Request("a", n) for n in range(3)], SamplingSettings(sampler, 3, batch=2), heard
    )
    assert heard.told == [("drawing", 2 * calls), *range(1, 2 * calls + 1), "end"]


def test_a_listener_can_stop_between_steps(sd1: Path):
    heard = Heard(most=3)
    got = []
    with pytest.raises(Cancelled, match="drawing"):
        got.extend(pipeline.stream(model.load(str(sd1)), [Request("a", 1)], SamplingSettings("Euler", 5), heard))
    assert not got
    assert heard.told == [("drawing", 5), 1, 2, 3, "end"]


def test_no_requests_no_pictures(sd1: Path):
    assert pipeline.images(model.load(str(sd1)), [], SamplingSettings()) == []
