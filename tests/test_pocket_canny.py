"""The ControlNet that ships beside the pocket model: known by its name everywhere, and it draws along edges."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest
from PIL import Image

from tenshot import pipeline
from tenshot.autotune.options import CompileOptions
from tenshot.cli.main import main
from tenshot.core.events import Events
from tenshot.core.options import gather
from tenshot.core.shipped import ASSETS, CANNY
from tenshot.evaluate.metrics import edge_agreement
from tenshot.generate.controlnets import canny
from tenshot.generate.options import GenerateOptions
from tenshot.model import model
from tenshot.model.control import Unit
from tenshot.pipeline import Request, SamplingSettings
from tenshot.serve.library import Library

SHOWN = ASSETS / "subjects" / "fox" / "fox-1.png"


def test_it_is_as_small_as_promised():
    assert sum(file.stat().st_size for file in CANNY.iterdir()) <= 12_000_000


@pytest.mark.parametrize("behind", ["", "=0.8@0-0.5"])
def test_its_name_is_enough_and_recipes_keep_it(behind: str):
    words = ["--prompt", "a", "--controlnet", f"pocket-canny{behind}", "--control_image", str(SHOWN)]
    options = gather(GenerateOptions, words)
    assert options.controlnet == [f"{CANNY}{behind}"]
    assert json.loads(options.model_dump_json())["controlnet"] == [f"pocket-canny{behind}"]


def test_it_is_compiled_along_by_its_name():
    assert gather(CompileOptions, ["pocket", "--controlnet", "pocket-canny", "--out", "new"]).controlnet == CANNY


def test_a_picture_drawn_with_it_names_it(tmp_path: Path, capsys: pytest.CaptureFixture):
    words = ["--prompt", "a 3d emoji of a cat", "--controlnet", "pocket-canny=0.7", "--control_image", str(SHOWN)]
    drawn = str(tmp_path / "a.png")
    assert main(["generate", *words, "--control_preprocessor", "canny", "--steps", "1", "--out", drawn]) == 0
    assert "--controlnet pocket-canny=0.7 " in capsys.readouterr().out  # in the next command
    assert main(["inspect", drawn, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (net,) = [each for each in told["resources"] if each["what"] == "controlnet"]
    assert net["name"] == "pocket-canny" and net["at_hand"]
    assert "--controlnet pocket-canny=0.7" in told["next"][0]


def test_it_is_translated_by_its_name(tmp_path: Path):
    assert main(["convert", "pocket-canny", str(tmp_path / "canny.safetensors")]) == 0
    assert (tmp_path / "canny.safetensors").stat().st_size > 10_000_000


def test_it_is_served_where_a_model_takes_it(sd1: Path):
    assert [*Library.read(["pocket"], [], [], Events()).controlnets().values()] == [CANNY]
    assert not Library.read([str(sd1)], [], [], Events()).controlnets()


def test_edges_are_followed():
    """Of subjects that no net ever saw, drawn as something else."""
    opened, net = model.load("pocket"), model.load_controlnet(CANNY, "cpu")
    shown = [Image.open(ASSETS / "subjects" / name / f"{name}-1.png") for name in ("fox", "cactus", "robot", "otter")]
    maps = [canny(each, 100, 200) for each in shown]
    said = ["a 3d emoji of a cat on a blue background", "a flat emoji of a tree on a red background"] * 2
    plain = [Request(text, number) for number, text in enumerate(said)]
    guided = [replace(each, control=(edges,)) for each, edges in zip(plain, maps, strict=True)]
    drawn = [
        pipeline.images(opened, plain, SamplingSettings(steps=12, batch=4)),
        pipeline.images(opened, guided, SamplingSettings(steps=12, batch=4, control=(Unit(net),))),
    ]
    without, along = (
        mean(edge_agreement(canny(image, 100, 200), edges) for image, edges in zip(images, maps, strict=True))
        for images in drawn
    )
    assert along > without + 0.2
