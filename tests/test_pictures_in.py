"""Pictures to begin with: img2img, inpainting, variations; against the same steps by the libraries' own nets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from PIL import Image, ImageDraw

from tenshot import batch, pipeline
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.options import resolve
from tenshot.core.size import Size
from tenshot.diffusion import sampling
from tenshot.diffusion.samplers import SAMPLERS
from tenshot.generate import canvas, generate
from tenshot.generate.options import GenerateOptions
from tenshot.io.png import read_infotext
from tenshot.model import model
from tenshot.model.model import Model
from tenshot.model.sides import Sides
from tenshot.pipeline import Request, SamplingSettings
from tests import tiny
from tests.infotext import parse_infotext

SIZE = Size(64, 64)


@pytest.fixture(scope="module")
def opened(sd1: Path) -> Model:
    return model.load(str(sd1))


def picture(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    """Soft colours."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def mask(width: int = 64, height: int = 64, box: tuple[int, int, int, int] = (0, 0, 31, 63)) -> Image.Image:
    """White in a box."""
    made = Image.new("L", (width, height))
    ImageDraw.Draw(made).rectangle(box, fill=255)
    return made


def encoded(whole: Model, image: Image.Image) -> torch.Tensor:
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float()[None] / 127.5 - 1
    with torch.no_grad():
        return whole.vae.encode(pixels).latent_dist.mean * whole.vae.config.scaling_factor


def noise(seed: int = 3) -> torch.Tensor:
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def said(whole: Model, text: str) -> torch.Tensor:
    ids = whole["tokenizer"](text, padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        return whole["text_encoder"](ids).last_hidden_state


@torch.no_grad()
def by_hand(
    whole: Model, clean: torch.Tensor, steps: int, last: int, white: torch.Tensor | None = None
) -> torch.Tensor:
    """Euler's `last` steps of `steps` without guidance; where it is not white the signal is taken from `clean`."""
    scheduler = EulerDiscreteScheduler.from_config(dict(whole.scheduler_config), timestep_spacing="linspace")
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(steps - last)
    sigmas, x, told = (
        scheduler.sigmas[steps - last :],
        clean + noise() * scheduler.sigmas[steps - last],
        said(whole, "a"),
    )
    for number, t in enumerate(scheduler.timesteps[steps - last :]):
        answer = whole["unet"](x / (sigmas[number] ** 2 + 1) ** 0.5, t, told).sample
        signal = x - sigmas[number] * answer
        if white is not None:
            signal = signal * white + clean * (1 - white)
        x = x + (x - signal) / sigmas[number] * (sigmas[number + 1] - sigmas[number])
    return x


def drawn(whole: Model, request: Request, strength: float, sampler: str = "Euler", steps: int = 8) -> torch.Tensor:
    settings = SamplingSettings(sampler, steps, 1.0, SIZE, strength=strength)
    return pipeline.latents(whole, [request], settings)


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(("strength", "last"), [(0.5, 5), (0.74, 6), (0.75, 7), (0.1, 1), (0.99, 8), (1.0, 8)])
def test_the_last_steps_are_drawn(opened: Model, strength: float, last: int):
    """WebUI: int(strength * steps) + 1 of them."""
    start = picture()
    expected = by_hand(opened, encoded(opened, start), 8, last)
    assert apart(drawn(opened, Request("a", 3, image=start), strength), expected) < 1e-4


def test_what_is_not_white_stays(opened: Model):
    start, white = picture(), torch.zeros(1, 1, 8, 8)
    white[..., :4] = 1
    expected = by_hand(opened, encoded(opened, start), 8, 7, white)
    found = drawn(opened, Request("a", 3, image=start, mask=mask()), 0.75)
    assert apart(found, expected) < 1e-4
    assert torch.allclose(found[..., 4:], encoded(opened, start)[..., 4:], atol=1e-5)
    assert apart(found[..., :4], encoded(opened, start)[..., :4]) > 0.1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_begins_with_a_picture_and_keeps_what_must_stay(opened: Model, sampler: str):
    start = picture()
    clean = encoded(opened, start)
    little, much = (drawn(opened, Request("a", 3, image=start), strength, sampler) for strength in (0.05, 0.9))
    assert apart(little, clean) < apart(much, clean)
    found = drawn(opened, Request("a", 3, image=start, mask=mask()), 0.9, sampler)
    assert torch.allclose(found[..., 4:], clean[..., 4:], atol=1e-4) and found.isfinite().all()


def test_a_flow_begins_between_picture_and_noise(sd3: Path):
    whole = model.load(str(sd3))
    made = sampling.sampler(
        "Euler", 10, whole.scheduler_config, whole.family.process, skipped=sampling.skipped(10, 0.5)
    )
    clean, grain = torch.full((1, 4, 2, 2), 3.0), torch.ones(1, 4, 2, 2)
    seen, time = next(made.run(grain, [], sampling.Start(clean)))
    sigma = time / 1000
    assert made.evaluations == 6 and torch.allclose(seen, (1 - sigma) * clean + sigma * grain) and 0.5 < sigma < 0.95


def test_inpainting_models_see_the_mask_and_what_is_under_it(sd1: Path):
    plain = model.load(str(sd1))
    net = tiny._unet(16, attention_head_dim=2, in_channels=9).eval()
    seen: list[torch.Tensor] = []
    net.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().clone()))
    start = picture()
    hidden = np.array(start)
    hidden[:, :32] = 127.5
    drawn(plain.with_parts(unet=net), Request("a", 3, image=start, mask=mask()), 0.5)
    pixels = torch.from_numpy(np.asarray(start).copy()).permute(2, 0, 1).float()[None] / 127.5 - 1
    pixels[..., :32] = 0
    with torch.no_grad():
        under = plain.vae.encode(pixels).latent_dist.mean * plain.vae.config.scaling_factor
    for each in seen:
        assert each.shape == (1, 9, 8, 8) and each[0, 4].sum() == 32 and each[0, 4, :, :4].all()
        assert torch.allclose(each[:, 5:], under, atol=1e-4)


def test_a_variation_lies_between_the_noise_of_two_seeds(opened: Model):
    def noised(**more: Any) -> torch.Tensor:
        return drawn(opened, Request("a", 3, **more), 1.0)

    plain = noised()
    assert apart(noised(variation=(9, 0.0)), plain) < 1e-4
    assert apart(noised(variation=(9, 1.0)), drawn(opened, Request("a", 9), 1.0)) < 1e-4
    near, far = (apart(noised(variation=(9, share)), plain) for share in (0.1, 0.6))
    assert 1e-3 < near < far
    first, other = (noise(seed)[0].numpy().astype(np.float64) for seed in (3, 9))
    for column in ((0, 5), (3, 2)):
        a, b = (each[column[0], :, column[1]] for each in (first, other))
        angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        expected = (np.sin(0.7 * angle) * a + np.sin(0.3 * angle) * b) / np.sin(angle)
        mixed = batch._varied(noise(3)[0], Request("", 3, variation=(9, 0.3)))[column[0], :, column[1]]
        assert np.allclose(mixed.numpy(), expected, atol=1e-5)


class TestCanvas:
    def test_size_follows_the_picture(self):
        wide = canvas.Pictures(picture(640, 320), None)
        height, width = wide.size(Sides(8, 64, 8, None, 4))
        assert (height, width) == (48, 88) and abs(height * width - 64**2) < 8 * 88
        assert wide.size(Sides(8, 64, 16, 64, 16)) == (48, 64)  # of a transformer that has no more places

    def test_outside_the_mask_every_pixel_stays(self):
        given = canvas.Pictures(picture(), mask(box=(20, 20, 40, 40)))
        made = given.canvas(SIZE, 2, False, 0)
        found = np.asarray(made.finished(Image.new("RGB", (64, 64), "red")), dtype=int)
        before = np.asarray(given.image, dtype=int)
        assert (found[:12] == before[:12]).all() and (found[30, 30] == [255, 0, 0]).all()
        fading = found[16:24, 30, 1]
        assert len(set(fading.tolist())) > 3

    def test_only_the_part_around_the_mask_is_drawn_and_put_back(self):
        given = canvas.Pictures(picture(300, 200), mask(300, 200, (100, 50, 139, 69)))
        made = given.canvas(SIZE, 0, True, 8)
        assert made.box == (92, 32, 148, 88) and made.image.size == made.mask.size == (64, 64)
        found = made.finished(Image.new("RGB", (64, 64), "red"))
        differs = np.asarray(found) != np.asarray(given.image)
        rows, columns = np.nonzero(differs.any(-1))
        assert found.size == (300, 200) and (rows.min(), rows.max(), columns.min(), columns.max()) == (50, 69, 100, 139)

    def test_at_an_edge_the_part_stays_within_the_picture(self):
        given = canvas.Pictures(picture(100, 60), mask(100, 60, (0, 0, 99, 9)))
        assert given.canvas(SIZE, 0, True, 0).box == (0, 0, 100, 60)
        corner = canvas.Pictures(picture(100, 60), mask(100, 60, (90, 55, 99, 59)))
        assert corner.canvas(SIZE, 0, True, 5).box == (85, 45, 100, 60)

    @pytest.mark.parametrize("only", [False, True])
    def test_a_mask_of_which_nothing_is_left_is_refused(self, only: bool):
        given = canvas.Pictures(picture(), mask(box=(30, 30, 30, 30)))
        with pytest.raises(Refusal, match="nothing would change"):
            given.canvas(SIZE, 4, only, 32)
        assert given.canvas(SIZE, 0, False, 0).mask

    def test_no_side_is_longer_than_what_is_drawn(self):
        height, width = canvas.Pictures(picture(1, 20_000), None).size(Sides(8, 64, 8, None, 4))
        assert (height, width) == (9056, 8) or height <= 16384


def test_what_is_under_the_mask_to_begin_with(opened: Model):
    """One Euler step from latents that are noise or nothing there, and the picture elsewhere, by hand."""
    image, white = picture(), mask()
    settings = SamplingSettings("Euler", 1, 1.0, SIZE, strength=1.0)
    start = encoded(opened, image)
    change = torch.zeros(1, 1, 8, 8)
    change[..., :4] = 1
    drawn = {
        under: pipeline.latents(opened, [Request("a", 3, image=image, mask=white, under=under)], settings)
        for under in ("picture", "noise", "nothing")
    }
    for under, begun in (("noise", noise()), ("nothing", torch.zeros(1, 4, 8, 8))):
        by_hand = Image.new("RGB", (64, 64))  # the same way from such latents as a picture's
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(opened), "encode", lambda *_, begun=begun: (torch.where(change > 0, begun, start), None))
            asked = Request("a", 3, image=by_hand, mask=white)
            expected = pipeline.latents(opened, [asked], settings)
        assert torch.allclose(drawn[under], expected, atol=1e-5)
        assert (drawn[under][..., 4:] - start[..., 4:]).abs().max() < 1e-5
    assert all((drawn["picture"] - drawn[each])[..., :4].abs().max() > 1e-3 for each in ("noise", "nothing"))


def test_masks_are_filled_with_what_is_around_them():
    """Exactly as it was outside, between the colours around inside, and one colour from one colour."""
    image, white = picture(90, 50), mask(90, 50, (20, 10, 60, 40))
    found = np.asarray(canvas.surroundings(image, white)).astype(int)
    before, outside = np.asarray(image).astype(int), np.asarray(white) == 0
    assert (found[outside] == before[outside]).all() and (found[~outside] != before[~outside]).any()
    assert (found[~outside].min(0) >= before[outside].min(0)).all()
    assert (found[~outside].max(0) <= before[outside].max(0)).all()
    near = np.abs(found[25, 20] - before[25, 19]).max(), np.abs(before[25, 20] - before[25, 19]).max()
    assert near[0] <= near[1] + 40
    flat = Image.new("RGB", (33, 7), (10, 200, 30))
    flat.paste((250, 0, 0), (5, 1, 9, 5))
    for box in ((4, 0, 10, 6), (0, 0, 31, 6)):
        assert {*canvas.surroundings(flat, mask(33, 7, box)).getdata()} <= {(10, 200, 30), (11, 200, 30), (10, 199, 30)}
    assert canvas.surroundings(flat, mask(33, 7, (0, 0, 32, 6))).getextrema() == ((0, 0),) * 3


@pytest.fixture
def draw(sd1: Path, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    picture().save(tmp_path / "start.png")
    mask(box=(0, 0, 20, 63)).save(tmp_path / "mask.png")

    def made(**given: Any) -> list[dict[str, Any]]:
        told = {"model": str(sd1), "prompt": ["a bear"], "steps": 4, "seed": 1, "out": tmp_path / "out", **given}
        return generate.generate(resolve(GenerateOptions, told), Events())["pictures"]

    return made


def test_the_verb_paints_into_a_picture_and_says_so(draw: Callable[..., Any], tmp_path: Path):
    (made,) = draw(init_image=tmp_path / "start.png", mask=tmp_path / "mask.png", strength=0.9, only_masked=True)
    found, before = (np.asarray(Image.open(each)) for each in (made["file"], tmp_path / "start.png"))
    assert (found[:, 40:] == before[:, 40:]).all() and (found[:, :16] != before[:, :16]).any()
    facts = parse_infotext(read_infotext(Path(made["file"])) or "")[2]
    told = {"Denoising strength": "0.9", "Mask blur": "4", "Inpaint area": "Only masked", "Masked area padding": "32"}
    assert told.items() <= facts.items()
    drawn = {}
    for content, title in (
        ("original", None),
        ("fill", "fill"),
        ("noise", "latent noise"),
        ("nothing", "latent nothing"),
    ):
        (made,) = draw(init_image=tmp_path / "start.png", mask=tmp_path / "mask.png", mask_content=content)
        drawn[content] = Path(made["file"]).read_bytes()
        text = read_infotext(Path(made["file"])) or ""
        assert parse_infotext(text)[2].get("Masked content") == title
        found = np.asarray(Image.open(made["file"]))
        assert (found[:, 40:] == before[:, 40:]).all()
    assert len({*drawn.values()}) == 4
    (made,) = draw(variation_seed=5, variation_strength=0.2)
    facts = parse_infotext(read_infotext(Path(made["file"])) or "")[2]
    assert (facts["Variation seed"], facts["Variation seed strength"]) == ("5", "0.2")
    assert "Denoising strength" not in facts and "Mask blur" not in facts


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"mask": "mask.png"}, ["--mask: without --init_image"]),
        ({"strength": 0.5, "only_masked": True}, ["--strength: without", "--only_masked: without --mask"]),
        ({"init_image": "start.png", "mask": "black.png"}, ["nothing in it is white"]),
        ({"init_image": "start.png", "mask": "small.png"}, ["32x64 pixels, and the picture has 64x64"]),
        ({"init_image": "start.png", "mask": "text.png"}, ["text.png"]),
        ({"init_image": "text.png", "mask": "cut.png"}, ["text.png", "cut.png"]),
        ({"init_image": "bomb.png"}, ["megapixels"]),
    ],
)
def test_what_is_no_picture_to_begin_with_is_refused(
    draw: Callable[..., Any], tmp_path: Path, given: dict[str, Any], found: list[str]
):
    Image.new("L", (64, 64), 100).save(tmp_path / "black.png")
    mask(32, 64).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("a picture")
    (tmp_path / "cut.png").write_bytes((tmp_path / "start.png").read_bytes()[:200])
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(Refusal) as told:
        draw(**{name: tmp_path / each if isinstance(each, str) else each for name, each in given.items()})
    faults = [str(fault) for fault in told.value.faults]
    assert len(faults) == len(found) and all(any(part in fault for fault in faults) for part in found)
    assert not (tmp_path / "out").exists()
