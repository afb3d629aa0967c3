"""Guidance in a part of the steps: which, against diffusers' guiders; and what is asked of the denoiser then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.guiders import ClassifierFreeGuidance

from tenshot import pipeline
from tenshot.cli.main import main
from tenshot.io.png import read_infotext
from tenshot.model import model
from tenshot.pipeline import Request, SamplingSettings

SETTINGS = SamplingSettings("Euler", 10, 5.0, batch=2)
TWO = [Request("a cat", 1, "bad"), Request("a dog", 2)]


class Counted(model.Model):
    """Notes how many rows each evaluation has."""

    def predict(self, x, t, conditioning, control=None):
        self.rows.append(len(x))
        return super().predict(x, t, conditioning, control)


def counted(sd1: Path) -> Counted:
    opened = model.load(str(sd1))
    found = Counted(opened.family, opened.parts, opened.scheduler_config, opened.place)
    object.__setattr__(found, "rows", [])
    return found


@pytest.mark.parametrize("interval", [(0, 0.8), (0.2, 1), (0.15, 0.67), (0, 0.05)])
def test_the_steps_are_those_of_diffusers_guiders(interval: tuple[float, float], sd1: Path):
    opened = counted(sd1)
    pipeline.latents(opened, TWO, replace(SETTINGS, interval=interval))
    guider = ClassifierFreeGuidance(5.0, start=interval[0], stop=interval[1])
    expected = []
    for step in range(10):
        guider.set_state(step, 10, torch.tensor(999 - 100 * step))
        expected.append(4 if guider._is_cfg_enabled() else 2)
    assert opened.rows == expected


def test_a_sampler_that_asks_twice_is_guided_by_steps(sd1: Path):
    opened = counted(sd1)
    pipeline.latents(opened, TWO, replace(SETTINGS, sampler="Heun", steps=4, interval=(0.25, 0.75)))
    assert opened.rows == [2, 2, 4, 4, 4, 4, 2]


def test_outside_of_it_the_prompt_alone_counts(sd1: Path):
    opened = model.load(str(sd1))
    without = pipeline.latents(opened, TWO, replace(SETTINGS, guidance=1.0))
    assert torch.equal(pipeline.latents(opened, TWO, replace(SETTINGS, interval=(0, 0))), without)
    whole = pipeline.latents(opened, TWO, SETTINGS)
    assert torch.equal(pipeline.latents(opened, TWO, replace(SETTINGS, interval=(0, 1))), whole)
    part = pipeline.latents(opened, TWO, replace(SETTINGS, interval=(0, 0.5)))
    assert not torch.equal(part, whole) and not torch.equal(part, without)


def test_several_prompts_are_led_throughout(sd1: Path):
    opened, both = counted(sd1), [Request("a cat AND a dog", 1)]
    pipeline.latents(opened, both, replace(SETTINGS, interval=(0, 0.5)))
    assert opened.rows == [3] * 10


def test_it_is_an_option_and_drawn_again(sd1: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    draw = ["generate", "--steps", "4", "--device", "cpu", "--out", str(tmp_path / "one.png")]
    assert main([*draw, "--model", str(sd1), "--prompt", "a cat", "--seed", "3", "--guidance_end", "0.5"]) == 0
    text = read_infotext(tmp_path / "one.png") or ""
    assert "Guidance end: 0.5" in text and "Guidance start" not in text
    again = [
        "generate",
        "--from",
        str(tmp_path / "one.png"),
        *draw[3:-1],
        str(tmp_path / "two.png"),
        "--model",
        str(sd1),
    ]
    assert main(again) == 0
    assert read_infotext(tmp_path / "two.png") == text
    assert (tmp_path / "two.png").read_bytes() == (tmp_path / "one.png").read_bytes()
    wrong = ["--model", str(sd1), "--prompt", "a cat", "--guidance_start", "0.6", "--guidance_end", "0.5"]
    assert main([*draw[:-1], str(tmp_path / "three.png"), *wrong]) == 2
    assert "--guidance_end: 0.5, and --guidance_start is 0.6" in capsys.readouterr().err
    without = ["--model", str(sd1), "--prompt", "a cat", "--guidance_scale", "1", "--guidance_end", "0.5"]
    assert main([*draw[:-1], str(tmp_path / "four.png"), *without]) == 0
    assert "--guidance_end have no effect" in capsys.readouterr().err
