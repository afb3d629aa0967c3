"""The second pass at a higher resolution: against our own first pass and img2img, torch by hand, and diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from PIL import Image

import tenshot
from tenshot import pipeline
from tenshot.core.errors import Cancelled, Refusal, Slow
from tenshot.core.events import Events
from tenshot.core.size import Size
from tenshot.diffusion import sampling
from tenshot.diffusion.samplers import SAMPLERS
from tenshot.diffusion.upscalers import UPSCALERS
from tenshot.model import model
from tenshot.model.model import Model
from tenshot.pipeline import Request, SamplingSettings, SecondPass
from tests import artifacts

LARGE = Size(96, 128)
SIZE = Size(48, 64)
INTERPOLATED = {
    "Latent": {"mode": "bilinear"},
    "Latent (antialiased)": {"mode": "bilinear", "antialias": True},
    "Latent (bicubic)": {"mode": "bicubic"},
    "Latent (bicubic antialiased)": {"mode": "bicubic", "antialias": True},
    "Latent (nearest)": {"mode": "nearest"},
    "Latent (nearest-exact)": {"mode": "nearest-exact"},
}


@pytest.fixture(scope="module")
def opened(sd1: Path) -> Model:
    return model.load(str(sd1))


def settings(second: SecondPass | None, **more: Any) -> SamplingSettings:
    return SamplingSettings(**{"sampler": "Euler", "steps": 6, "guidance": 1.0, "size": SIZE, "second": second, **more})


def drawn(whole: Model, second: SecondPass | None, request: Request | None = None, **more: Any) -> torch.Tensor:
    return pipeline.latents(whole, [request or Request("a", 3)], settings(second, **more))


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@torch.no_grad()
def by_hand(whole: Model, clean: torch.Tensor, steps: int, last: int, text: str = "a") -> torch.Tensor:
    """Euler's `last` steps of `steps`, by diffusers' scheduler, with the noise that seed 3 has at that size."""
    scheduler = EulerDiscreteScheduler.from_config(dict(whole.scheduler_config), timestep_spacing="linspace")
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(steps - last)
    ids = whole["tokenizer"](text, padding="max_length", max_length=77, return_tensors="pt").input_ids
    told = whole["text_encoder"](ids).last_hidden_state
    noise = torch.randn(clean.shape[1:], generator=torch.Generator().manual_seed(3))[None]
    x = clean + noise * scheduler.sigmas[steps - last]
    for t in scheduler.timesteps[steps - last :]:
        answer = whole["unet"](scheduler.scale_model_input(x, t), t, told).sample
        x = scheduler.step(answer, t, x).prev_sample
    return x


def test_every_upscaler_of_latents_is_tried():
    assert UPSCALERS.keys() - {"Lanczos", "Nearest"} == INTERPOLATED.keys()


@pytest.mark.parametrize("upscaler", INTERPOLATED)
def test_latents_are_interpolated_and_drawn_on(opened: Model, upscaler: str):
    first = drawn(opened, None)
    larger = torch.nn.functional.interpolate(first, size=(12, 16), **INTERPOLATED[upscaler])
    found = drawn(opened, SecondPass(LARGE, upscaler, 5, 0.7))
    assert apart(found, by_hand(opened, larger, 7, 5)) < 1e-4
    assert apart(found, larger) > 0.1


@pytest.mark.parametrize(
    ("steps", "strength", "whole"), [(20, 0.7, 28), (20, 0.5, 40), (10, 0.3, 33), (7, 1.0, 7), (None, 0.7, 8)]
)
def test_as_many_steps_as_asked_at_the_end_of_a_longer_way(
    opened: Model, steps: int | None, strength: float, whole: int
):
    """WebUI: of int(steps / min(strength, .999)) steps the last ones."""
    count = steps or 6
    assert sampling.stretched(count, strength) == whole
    larger = torch.nn.functional.interpolate(drawn(opened, None), size=(12, 16), mode="bilinear")
    found = drawn(opened, SecondPass(LARGE, "Latent", steps, strength))
    assert apart(found, by_hand(opened, larger, whole, count)) < 1e-4


@pytest.mark.parametrize(("upscaler", "how"), [("Lanczos", Image.Resampling.LANCZOS), ("Nearest", 0)])
@pytest.mark.parametrize("place", ["sd1", "sdxl", "sd3"])
def test_pixels_are_scaled_and_drawn_on_as_img2img_does(
    place: str, upscaler: str, how: int, request: pytest.FixtureRequest
):
    """5 of stretched 8 steps: .6 of 8 are the last 5 as img2img counts."""
    whole = model.load(str(request.getfixturevalue(place)))
    given: dict[str, Any] = {"sampler": "Euler", "guidance": 4.0, "steps": 6}
    one = Request("a bear", 3, "blurry")
    (first,) = pipeline.images(whole, [one], settings(None, **given))
    larger = first.resize(LARGE.pillow, how)
    again = Request("a bear", 3, "blurry", larger)
    (expected,) = pipeline.images(
        whole, [again], settings(None, **given | {"steps": 8, "size": LARGE, "strength": 0.6})
    )
    (found,) = pipeline.images(whole, [one], settings(SecondPass(LARGE, upscaler, 5, 0.6), **given))
    assert sampling.stretched(5, 0.6) == 8 and found.size == LARGE.pillow
    assert (np.asarray(found) == np.asarray(expected)).all()
    assert (np.asarray(found) != np.asarray(larger)).any()


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_as_diffusers_draws_from_the_larger_picture(sd1: Path, opened: Model, guidance: float):
    one = Request("a bear", 3)
    (first,) = pipeline.images(opened, [one], settings(None, guidance=guidance))
    larger = first.resize(LARGE.pillow, Image.Resampling.LANCZOS)
    theirs = diffusers.StableDiffusionImg2ImgPipeline.from_pretrained(sd1, local_files_only=True)
    theirs.set_progress_bar_config(disable=True)
    theirs.scheduler = EulerDiscreteScheduler.from_config(theirs.scheduler.config, timestep_spacing="linspace")
    encode = theirs.vae.encode

    def mean(pixels: torch.Tensor) -> Any:  # they draw from the posterior, before the noise is drawn
        found = encode(pixels)
        found.latent_dist.sample = lambda *_: found.latent_dist.mean
        return found

    theirs.vae.encode = mean
    made = theirs(
        "a bear",
        larger,
        strength=0.625,  # 5 of 8
        num_inference_steps=8,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(3),
    ).images[0]
    (found,) = pipeline.images(opened, [one], settings(SecondPass(LARGE, "Lanczos", 5, 0.6), guidance=guidance))
    assert np.abs(np.asarray(found, dtype=int) - np.asarray(made, dtype=int)).max() <= 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_goes_twice(opened: Model, sampler: str):
    for upscaler in ("Latent", "Lanczos"):
        found = drawn(opened, SecondPass(LARGE, upscaler, 3, 0.5), sampler=sampler, steps=3)
        assert found.shape == (1, 4, 12, 16) and found.isfinite().all()


@pytest.mark.parametrize("upscaler", ["Latent", "Lanczos"])
def test_a_picture_is_the_same_alone_and_in_a_batch(opened: Model, upscaler: str):
    requests = [Request(f"picture {n % 2}", 100 + n, "ugly" if n % 2 else "", variation=(7, 0.2)) for n in range(4)]
    how = settings(SecondPass(LARGE, upscaler, 3, 0.5), sampler="Euler a", guidance=5.0, batch=3)
    together = pipeline.latents(opened, requests, how)
    alone = torch.cat([pipeline.latents(opened, [each], how) for each in requests])
    assert apart(together, alone) < 2e-2 and apart(together[:1], together[1:2]) > 0.1


def test_prompts_that_change_count_on_in_the_second_pass(opened: Model):
    """As WebUI: whole numbers of both passes together, and 1.5 is the middle of the second."""
    second = SecondPass(LARGE, "Latent", 4, 0.7)

    def said(prompt: str) -> torch.Tensor:
        return drawn(opened, second, Request(prompt, 3))

    larger = torch.nn.functional.interpolate(drawn(opened, None), size=(12, 16), mode="bilinear")
    after_the_first = said("[a:b:6]")
    assert apart(after_the_first, by_hand(opened, larger, 5, 4, "b")) < 1e-4
    assert torch.equal(said("[a:b:8]"), said("[a:b:1.5]")) and apart(said("[a:b:8]"), after_the_first) > 1e-3
    assert torch.equal(said("[a:b:30]"), said("a"))


def test_xl_is_told_the_size_of_each_pass(sdxl: Path):
    whole = model.load(str(sdxl))
    seen: list[tuple[int, ...]] = []
    net = whole.denoiser
    hook = net.register_forward_pre_hook(
        lambda _, given, named: seen.append((given[0].shape[-1], *named["added_cond_kwargs"]["time_ids"][0].tolist())),
        with_kwargs=True,
    )
    drawn(whole, SecondPass(LARGE, "Latent", 2, 0.7), steps=2)
    hook.remove()
    assert [each[0] for each in seen] == [8, 8, 16, 16]
    assert {each[1:3] for each in seen[:2]} == {tuple(SIZE)} and {each[1:3] for each in seen[2:]} == {tuple(LARGE)}


def test_no_picture_to_begin_with(opened: Model):
    with pytest.raises(ValueError, match="begin with"):
        drawn(opened, SecondPass(LARGE), Request("a", 3, image=Image.new("RGB", SIZE.pillow)))


def test_numbers_that_are_none_are_refused_between_the_passes(sd1: Path):
    whole = model.load(str(sd1))
    whole.vae.decoder.conv_out.bias.data[0] = float("nan")
    with pytest.raises(Refusal, match="black"):
        drawn(whole, SecondPass(LARGE, "Lanczos", 3, 0.5))


class Heard(Events):
    def __init__(self, most: int = 10**6, every: int = 0) -> None:
        self.most, self.every, self.told, self.shown = most, every, [], []

    def begin(self, job: str, total: int, done: int = 0) -> None:
        self.told.append((job, total))

    def advance(self, done: int, **figures: float) -> None:
        self.told.append(done)

    def cancelled(self) -> bool:
        return len(self.told) > self.most

    def watches(self, done: int) -> bool:
        return bool(self.every) and done % self.every == 0

    def drawing(self, done: int, total: int, images: Any) -> None:
        self.shown.append((done, total, [each.size for each in images], [np.asarray(each) for each in images]))


@pytest.mark.parametrize(("sampler", "total"), [("Euler", 2 * (6 + 3)), ("Heun", 2 * (11 + 5))])
def test_progress_counts_both_passes(opened: Model, sampler: str, total: int):
    heard = Heard()
    requests = [Request("a", seed) for seed in range(4)]
    pipeline.latents(opened, requests, settings(SecondPass(LARGE, "Latent", 3, 0.5), sampler=sampler, batch=3), heard)
    assert heard.told == [("drawing", total), *range(1, total + 1)]


def test_stopped_in_the_second_pass_keeps_what_is_whole(opened: Model):
    heard, found = Heard(most=9 + 8), []
    requests = [Request("a", seed) for seed in range(2)]
    how = settings(SecondPass(LARGE, "Latent", 3, 0.5), batch=1)
    with pytest.raises(Cancelled):
        for each in pipeline.stream(opened, requests, how, heard):
            found.append(each)
    assert [each.size for each in found] == [LARGE.pillow]


@pytest.mark.slow
@pytest.mark.parametrize("upscaler", ["Latent", "Lanczos"])
def test_sizes_that_are_not_compiled_are_torchs_and_said(sd1: Path, tmp_path: Path, upscaler: str):
    fast, plain = tenshot.load(artifacts.made(sd1, tmp_path / "fast")), tenshot.load(str(sd1))
    how = settings(SecondPass(LARGE, upscaler, 3, 0.5), size=None)
    with pytest.warns(Slow, match="no program for") as told:
        found = pipeline.images(fast, [Request("a", 3)], how)
    assert [str(each.message).split(":")[0] for each in told] == ["unet", "decoder"]
    (one,), (other,) = found, pipeline.images(plain, [Request("a", 3)], how)
    assert np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max() <= 2


def test_half_precision_goes_through_the_vae(sd1: Path):
    whole = model.load(str(sd1), precision="bf16")
    (found,) = pipeline.images(whole, [Request("a", 3)], settings(SecondPass(LARGE, "Lanczos", 2, 0.5)))
    assert found.size == LARGE.pillow
