"""A picture drawn again from its infotext: Tenshot's own, and what WebUI and Civitai write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.options import gather
from tenshot.generate import generate
from tenshot.generate.options import GenerateOptions
from tenshot.io import infotext

#: As WebUI 1.10 writes it, and as pictures on Civitai have it.
WEBUI = """a (cat:1.2), <lora:az:0.8>
two lines
Negative prompt: blurry,
worst quality
Steps: 25, Sampler: DPM++ 2M SDE, Schedule type: Karras, CFG scale: 6.5, Seed: 3210, Size: 512x768, \
Model hash: 6ce0161689, Model: v1-5-pruned, VAE hash: 735e4c3a44, VAE: vae.pt, Clip skip: 2, \
Lora hashes: "az: 0123456789ab", Version: v1.10.1"""
CIVITAI = """masterpiece
Steps: 30, Sampler: Euler a, CFG scale: 7, Seed: 77, Size: 832x1216, Clip skip: 2, \
Created Date: 2024-05-01T10:11:12.1Z, \
Civitai resources: [{"type":"checkpoint","modelVersionId":290640,"modelName":"Pony, v6"}], \
Civitai metadata: {}"""


def saved(path: Path, text: str, key: str = "parameters") -> Path:
    about = PngInfo()
    about.add_text(key, text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=about)
    return path


def read(path: Path, *words: str) -> tuple[GenerateOptions, list[str]]:
    said: list[str] = []
    return gather(GenerateOptions, ["--from", str(path), *words], said.append), said


def drawn(words: Sequence[str]) -> Path:
    options = gather(GenerateOptions, [*words])
    (made,) = generate.generate(options, Events())["pictures"]
    return Path(made["file"])


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_webui_infotext_is_read():
    found = infotext.parsed(WEBUI)
    assert found.prompt == "a (cat:1.2), <lora:az:0.8>\ntwo lines"
    assert found.negative_prompt == "blurry,\nworst quality"
    assert found.facts["Lora hashes"] == "az: 0123456789ab" and found.facts["Version"] == "v1.10.1"
    assert len(found.facts) == 13


def test_values_that_are_json_are_whole():
    found = infotext.parsed(CIVITAI)
    assert found.facts["Civitai resources"].endswith('"Pony, v6"}]') and found.facts["Civitai metadata"] == "{}"
    assert found.facts["Created Date"].startswith("2024") and found.facts["Size"] == "832x1216"
    broken = infotext.parsed("a\nSteps: 3, Bad: [{, Seed: 4")
    assert broken.facts == {"Steps": "3", "Bad": "[{", "Seed": "4"}


@pytest.mark.parametrize(
    "text", ["", "a", "a: b, c", "a\nSteps: x", "a\nSteps: 3", "Steps: 3,", "\n\n", "Negative prompt: b"]
)
def test_a_prompt_is_no_line_of_facts(text: str):
    found = infotext.parsed(text)
    assert not found.facts and (found.prompt, found.negative_prompt) != (None, None)


@pytest.mark.parametrize("count", [1000, 100_000])
def test_no_infotext_takes_long(count: int):
    for part in ("a:", "a,", 'a: "', "[", 'a: [{"b":', "\\"):
        infotext.parsed("x\nSteps: 1, " + part * count)


def test_webui_pictures_become_options(tmp_path: Path):
    options, said = read(saved(tmp_path / "a.png", WEBUI), "--lora_dir", str(tmp_path))
    assert options.prompt == ["a (cat:1.2), <lora:az:0.8>\ntwo lines"] and options.negative_prompt.startswith("blurry")
    assert (options.steps, options.sampling, options.guidance_scale) == (25, ("DPM++ 2M SDE", "karras"), 6.5)
    assert (options.seed, options.width, options.height, options.clip_skip) == (3210, 512, 768, 2)
    parts = ("drawn with v1-5-pruned, hash 6ce0161689", "VAE vae.pt, hash 735e4c3a44", "noise from GPU")
    assert all(part in each for part, each in zip(parts, said, strict=True))


def test_civitai_pictures_become_options_and_the_command_line_wins(tmp_path: Path):
    options, said = read(saved(tmp_path / "a.png", CIVITAI), "--seed", "5", "--width=64")
    assert (options.seed, options.width, options.height, options.sampler) == (5, 64, 1216, "Euler a")
    assert len(said) == 1 and "noise from GPU" in said[0]


def test_every_kind_of_file_carries_it(tmp_path: Path):
    for name in ("a.jpg", "a.webp"):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + CIVITAI.encode("utf-16-be")
        Image.new("RGB", (8, 8)).save(tmp_path / name, exif=exif)
        assert read(tmp_path / name)[0].seed == 77


def test_a_picture_drawn_again_is_the_same_to_the_pixel(sd1: Path, sd1_lora: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras/az.safetensors").write_bytes(sd1_lora.read_bytes())
    model = ["--model", str(sd1)]
    words = ["--prompt", "a (bear:1.3), <lora:az:0.7>", "--negative_prompt", "x: y", "--steps", "5", "--seed", "9"]
    more = ["--sampler", "DPM++ 2M", "--schedule", "exponential", "--clip_skip", "2", "--emphasis", "no_norm"]
    vary = ["--variation_seed", "4", "--variation_strength", "0.3", "--guidance_scale", "3.5", "--width", "72"]
    first = drawn([*model, *words, *more, *vary, "--out", "a.png"])
    again = drawn([*model, "--from", "a.png", "--out", "b.png"])
    assert (pixels(first) == pixels(again)).all()
    other = drawn([*model, "--from", "a.png", "--seed", "10", "--out", "c.png"])
    assert (pixels(first) != pixels(other)).any()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("just a prompt", "does not say what it was drawn with"),
        ("a\nSteps: 20, Sampler: Restart, Seed: 1", "Restart"),
        ("a\nSteps: 20, Schedule type: Beta, Seed: 1", "schedule: 'Beta'"),
        ("a\nSteps: 20, Emphasis: Ignore, Seed: 1", "emphasis: 'Ignore'"),
        ("a\nSteps: 0, Seed: 1, CFG scale: much", "much"),
        ("a\nSteps: 20, Seed: 99999999999999999999", "9999"),
    ],
)
def test_what_cannot_be_drawn_again_is_refused(text: str, found: str, tmp_path: Path):
    path = saved(tmp_path / "a.png", text)
    with pytest.raises(Refusal) as told:
        read(path)
    assert found in str(told.value) and "a.png" in str(told.value) and "--prompt: is needed" not in str(told.value)


def test_a_file_that_is_no_picture_is_refused_beside_other_faults(tmp_path: Path):
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(Refusal) as told:
        read(tmp_path / "a.png", "--prompt", "a", "--steps", "0")
    assert len(told.value.faults) == 2


def test_hints_tell_what_a_picture_had_besides(tmp_path: Path):
    text = 'a\nSteps: 20, Seed: 1, Denoising strength: 0.6, RNG: NV, ControlNet 0: "x", Version: v1.9'
    _, said = read(saved(tmp_path / "a.png", text))
    assert ["from NV" in said[0], "--strength 0.6" in said[1], "ControlNet 0" in said[2]] == [True] * 3
    text = "a\nSteps: 20, Seed: 1, Denoising strength: 0.6, Hires upscale: 2, RNG: CPU"
    options, said = read(saved(tmp_path / "b.png", text))
    assert not said and (options.hires_scale, options.hires_strength) == (2, 0.6)


def test_whatever_else_a_picture_says_is_told_in_one_line(tmp_path: Path):
    second = (
        "Hires upscale: 2, Hires checkpoint: other.safetensors, Hires sampler: Euler, Hires Module 1: Use same choices"
    )
    text = f"a\nSteps: 20, Sampler: Euler, Seed: 1, RNG: CPU, {second}, ADetailer model: face.pt, Batch size: 2"
    _, said = read(saved(tmp_path / "a.png", text))
    assert said == ["a.png says Hires checkpoint: other.safetensors, ADetailer model: face.pt, which is left out"]
    _, said = read(saved(tmp_path / "b.png", 'a\nSteps: 20, Seed: 1, RNG: CPU, TI hashes: "az: 0123456789ab"'))
    assert len(said) == 1 and "az: 0123456789ab" in said[0] and "--embedding" in said[0]


def test_the_command_line_mends_what_is_not_known(tmp_path: Path):
    path = saved(tmp_path / "a.png", "a\nSteps: 20, Sampler: Restart, Schedule type: Beta, Seed: 1, RNG: CPU")
    options, _ = read(path, "--sampler", "Euler", "--schedule", "karras")
    assert options.sampling == ("Euler", "karras") and options.steps == 20


def test_a_size_that_is_none_is_said(tmp_path: Path):
    options, said = read(saved(tmp_path / "a.png", "a\nSteps: 20, Seed: 1, Size: 12 by 3, RNG: CPU"))
    assert options.width is None and said == ["a.png says Size: 12 by 3, which is none: --width and --height say it"]


def test_a_picture_wins_over_a_recipe_and_the_command_line_over_both(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("steps: 3\nseed: 4\nwidth: 64\nbatch_size: 2\n")
    path = saved(tmp_path / "a.png", "a\nSteps: 20, Seed: 1, RNG: CPU, Size: 72x72")
    for words in (["--recipe", "a.yaml", "--from", "a.png"], ["--from", "a.png", "--recipe", "a.yaml"]):
        options = gather(GenerateOptions, [w.replace("a.", f"{tmp_path}/a.") for w in words] + ["--seed", "9"])
        assert (options.steps, options.seed, options.width, options.batch_size) == (20, 9, 72, 2)
    assert path.is_file()
