"""The second pass of the verb that draws: its options, what it refuses, and infotext both ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tenshot import generation_parameters, pipeline
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.options import gather
from tenshot.generate import generate, plan
from tenshot.generate.options import GenerateOptions
from tenshot.io.png import read_infotext
from tenshot.model import model
from tests.infotext import parse_infotext

Draw = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def draw(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Draw:
    monkeypatch.chdir(tmp_path)

    def made(*words: str, events: Events | None = None) -> list[dict[str, Any]]:
        given = ["--model", str(sd1), "--steps", "4", "--seed", "1", *words]
        if "--from" not in words:
            given += ["--prompt", "a bear"]
        return generate.generate(gather(GenerateOptions, given), events or Events())["pictures"]

    return made


def told(file: str) -> dict[str, str]:
    return parse_infotext(read_infotext(Path(file)) or "")[2]


def pixels(file: str) -> np.ndarray:
    return np.asarray(Image.open(file))


def test_the_verb_draws_says_and_draws_again(draw: Draw, sd1: Path, tmp_path: Path):
    words = ["--width=64", "--height=48", "--hires_scale=1.5", "--hires_strength=0.55", "--hires_steps=3"]
    (made,) = draw(*words, "--hires_upscaler", "Latent (bicubic)", "--sampler", "Euler a", "--out", "a.png")
    assert Image.open(made["file"]).size == (96, 72)
    facts = told(made["file"])
    assert {
        **{"Size": "64x48", "Steps": "4", "Denoising strength": "0.55", "Hires upscale": "1.5"},
        **{"Hires steps": "3", "Hires upscaler": "Latent (bicubic)"},
    }.items() <= facts.items()
    words = ["--model", str(sd1), "--from", "a.png", "--out", "b.png"]
    (again,) = generate.generate(gather(GenerateOptions, words), Events())["pictures"]
    assert (pixels(again["file"]) == pixels(made["file"])).all() and told("b.png") == facts


def test_the_second_pass_is_img2img_of_the_larger_first(draw: Draw):
    (first,) = draw("--out", "first.png")
    with Image.open(first["file"]) as image:
        image.resize((128, 128), Image.Resampling.LANCZOS).save("larger.png")
    words = ["--hires_scale", "2", "--hires_upscaler", "Lanczos", "--hires_steps", "5", "--hires_strength", "0.6"]
    (found,) = draw(*words, "--out", "found.png")
    size = ["--width", "128", "--height", "128", "--init_image", "larger.png", "--strength", "0.6"]
    (expected,) = draw("--steps", "8", *size, "--out", "expected.png")
    assert (pixels(found["file"]) == pixels(expected["file"])).all()


def test_one_is_none_and_sides_are_multiples(draw: Draw):
    (plain,), (same,) = draw("--out", "a.png"), draw("--hires_scale", "1", "--out", "b.png")
    assert (pixels(plain["file"]) == pixels(same["file"])).all() and "Hires upscale" not in told(same["file"])
    heard = Said()
    (made,) = draw("--hires_scale", "1.3", "--out", "c.png", events=heard)
    assert Image.open(made["file"]).size == (80, 80)
    assert heard.said == ["the second pass draws 80x80: sides are multiples of 8"]


class Said(Events):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def test_sd3_has_sides_of_whole_patches_and_places_for_so_many(sd3: Path, tmp_path: Path):
    whole = model.load(str(sd3))
    multiple = whole.sides.multiple
    most = multiple * whole.denoiser.config.pos_embed_max_size
    words = ["--model", str(sd3), "--prompt", "a", "--steps", "2", "--out", str(tmp_path)]

    def drew(*more: str) -> Image.Image:
        (made,) = generate.generate(gather(GenerateOptions, [*words, *more]), Events())["pictures"]
        return Image.open(made["file"])

    side = int(whole.resolution * 1.4) // multiple * multiple
    assert drew("--hires_scale", "1.4").size == (side, side) and side > whole.resolution
    assert drew("--width", str(most), "--height", str(multiple)).size == (most, multiple)
    with pytest.raises(Refusal) as refused:
        drew("--width", "72", "--height", str(most + multiple))
    assert [each.do for each in refused.value.faults] == [f"--height {most}", "--width 64"]
    with pytest.raises(Refusal, match=f"up to {most}"):
        drew("--hires_scale", "8", "--width", str(most))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--hires_steps", "3"], ["--hires_steps: without --hires_scale"]),
        (["--hires_scale", "1", "--hires_upscaler", "Lanczos"], ["--hires_upscaler: without --hires_scale"]),
        (["--hires_scale", "2", "--init_image", "start.png"], ["--hires_scale: a second pass with --init_image"]),
        (["--hires_scale", "2", "--hires_upscaler", "Latnet"], ["did you mean Latent?"]),
        (["--hires_scale", "9", "--hires_strength", "0"], ["--hires_scale", "--hires_strength"]),
        (
            ["--hires_scale", "8", "--width", "4096", "--hires_strength", "0.003"],
            ["32768x512", "the last of 1333"],
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_drawn(
    draw: Draw, words: list[str], found: list[str], monkeypatch: pytest.MonkeyPatch
):
    Image.new("RGB", (64, 64)).save("start.png")
    monkeypatch.setattr(pipeline, "stream", lambda *_: pytest.fail("it is drawing"))
    with pytest.raises(Refusal) as refused:
        draw(*words)
    assert all(each in str(refused.value) for each in found) and not Path("out").exists()


WEBUI = "a\nSteps: 4, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 768x512, RNG: CPU, Denoising strength: 0.4, "


@pytest.mark.parametrize(
    ("facts", "scale", "upscaler", "steps", "said"),
    [
        (
            "Hires upscale: 2, Hires steps: 10, Hires upscaler: Latent (nearest-exact)",
            2,
            "Latent (nearest-exact)",
            10,
            [],
        ),
        ("Hires upscale: 1.75, Hires upscaler: None", 1.75, "Lanczos", 0, []),
        ("Hires upscale: 2", 2, "Latent", 0, []),
        ("Hires resize: 1024x0, Hires upscaler: 4x-UltraSharp", 4 / 3, "Lanczos", 0, ["4x-UltraSharp"]),
        ("Hires resize: 1536x1024, Hires sampler: DDIM", 2, "Latent", 0, ["Hires sampler: DDIM"]),
        ("Hires resize: 1024x1024", None, "Latent", 0, ["of 1024x1024"]),
        ("Hires upscale: 1", None, "Latent", 0, ["of 768x512"]),
    ],
)
def test_second_passes_of_webui_are_read(
    facts: str, scale: Any, upscaler: str, steps: int, said: list[str], draw: Draw
):
    about = PngInfo()
    about.add_text("parameters", WEBUI + facts)
    Image.new("RGB", (8, 8)).save("webui.png", pnginfo=about)
    heard: list[str] = []
    found = gather(GenerateOptions, ["--from", "webui.png"], heard.append)
    assert (found.hires_scale, found.hires_upscaler, found.hires_steps) == (scale, upscaler, steps)
    assert found.hires_strength == (0.4 if scale else 0.7)
    assert len(heard) == len(said) and all(part in each for part, each in zip(said, heard, strict=True))


def test_a_size_that_was_asked_comes_out():
    for width in (512, 768, 832, 896):
        for to in range(900, 3000, 7):
            scale = generation_parameters._scale({"Size": f"{width}x512", "Hires resize": f"{to}x0"})
            assert isinstance(scale, float) and int(width * scale) == to


def test_every_controlnet_sees_both_sizes_and_edges_are_softer_then(sd1: Path, tmp_path: Path):
    pytest.importorskip("cv2")
    places = [tmp_path / "net0", tmp_path / "net1"]
    whole = model.load(str(sd1))
    for number, place in enumerate(places):
        torch.manual_seed(number)
        diffusers.ControlNetModel.from_unet(
            whole.denoiser, conditioning_embedding_out_channels=(4, 8, 8, 8)
        ).save_pretrained(place)
    Image.effect_mandelbrot((90, 60), (-2, -1.5, 1, 1.5), 50).save(tmp_path / "map.png")
    words = ["--model", str(sd1), "--prompt", "a", "--hires_scale", "2", "--control_image", str(tmp_path / "map.png")]
    words += [word for place in places for word in ("--controlnet", f"{place}=0.5@0-0.6")]
    words += ["--control_preprocessor", "canny", "--control_preprocessor", "none", "--steps", "2"]
    options = gather(GenerateOptions, words)
    read = plan.read(options, Events())
    planned = read.planned(read.load(Events()), Events())
    one, how = planned.pictures[0].request, planned.settings
    side = whole.resolution
    assert [each.size for each in (*one.control, *one.enlarged)] == [(side, side)] * 2 + [(2 * side, 2 * side)] * 2
    assert [each.mode for each in how.control] == ["balanced", "balanced"]
    assert how.second and [each.mode for each in how.second.control] == ["prompt", "balanced"]
    plain = replace(how, second=replace(how.second, control=()))
    with_them, without = (pipeline.latents(planned.opened, [one], each) for each in (how, plain))
    assert with_them.isfinite().all()
    assert [each.net for each in how.second.control] == [each.net for each in how.control]
    assert with_them.shape == without.shape
