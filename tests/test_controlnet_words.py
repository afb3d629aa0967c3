"""What is said of ControlNets that have no effect, or were named in another way than they are meant to be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tenshot.core.errors import Refusal
from tenshot.core.options import gather, resolve
from tenshot.generate import generate
from tenshot.generate.options import GenerateOptions
from tests import artifacts
from tests.test_controlnet import a_controlnet
from tests.test_pictures_in import picture

Draw = Callable[..., tuple[np.ndarray, list[str]]]


@pytest.fixture(scope="module")
def net(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_controlnet(tmp_path_factory.mktemp("controlnets") / "edges", sd1)


@pytest.fixture
def draw(sd1: Path, tmp_path: Path) -> Draw:
    """The pixels, and what was said."""
    picture().save(tmp_path / "map.png")

    def made(*controlnets: str, model: Path = sd1) -> tuple[np.ndarray, list[str]]:
        ear = artifacts.Listener()
        told = {"model": str(model), "prompt": ["a bear"], "steps": 2, "seed": 1, "out": tmp_path / "out"}
        told |= {"controlnet": [*controlnets], "control_image": [tmp_path / "map.png"]} if controlnets else {}
        (drawn,) = generate.generate(resolve(GenerateOptions, told), ear)["pictures"]
        return np.asarray(Image.open(drawn["file"])), ear.said

    return made


@pytest.mark.parametrize("name", ["cn@0-0.5", "org/cn@0-0.5"])
def test_a_missing_sign_is_told(name: str, tmp_path: Path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(Refusal) as told:
        gather(GenerateOptions, ["--prompt", "a", "--controlnet", name, "--control_image", str(tmp_path / "a.png")])
    (fault,) = told.value.faults
    assert f"{name.partition('@')[0]}=@0-0.5" in fault.do


def test_a_controlnet_without_effect_is_said_aloud(draw: Draw, net: Path):
    plain, _ = draw()
    none = "none of 2 steps lies within"
    for behind, why in (
        ("0", "its weight is 0"),
        ("1@0.5-0.5", f"{none} 0.5 to 0.5 of them"),
        ("1@0.6-0.9", f"{none} 0.6 to 0.9 of them"),
        ("1@0-0.5", ""),
    ):
        made, said = draw(f"{net}={behind}")
        assert said == ([f"{net} has no effect: {why}"] if why else [])
        assert (made == plain).all() == bool(why)


def test_a_model_compiled_without_one_says_so(draw: Draw, net: Path, sd1_fast: Path):
    line = "the model is compiled without a ControlNet: torch runs its UNet (tenshot compile --controlnet)"
    assert line in draw(str(net), model=sd1_fast)[1]
    assert line not in draw(model=sd1_fast)[1]
