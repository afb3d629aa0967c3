"""Whatever is wrong with a drawing is told at once: words, pictures, nets of another family, names of the hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from diffusers import ControlNetModel
from PIL import Image

from tenshot.cli.main import main
from tenshot.model import model
from tests.hub_server import Hub


@pytest.fixture
def laid(sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ControlNetModel.from_unet(model.load(str(sdxl))["unet"]).save_pretrained("xl-canny")
    Image.new("L", (64, 64)).save("black.png")
    Image.new("RGB", (64, 64), "blue").save("start.png")
    Image.new("1", (20_000, 20_000)).save("bomb.png")


WORDS = ["--init_image", "start.png", "--mask", "black.png", "--controlnet", "xl-canny", "--control_image", "bomb.png"]
FOUND = ["nothing in it is white", "megapixels", "a ControlNet for Stable Diffusion XL"]


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ([], []),
        (["--width", "100"], ["'100'"]),
        (["--vae", "nobody/vae"], ["nobody/vae"]),
        (["--lora", "nobody/none", "--steps", "0"], ["nobody/none", "'0'"]),
        (["--prompt", "<lora:nobody> <lora:somebody/none>"], ["<lora:nobody>", "somebody/none"]),
        (["--embedding", "none.pt", "--device", "cuda:63"], ["none.pt", "cuda:63"]),
    ],
)
def test_all_of_them_come_at_once(
    more: list[str], found: list[str], laid: None, served: Hub, sd1: Path, capsys: pytest.CaptureFixture
):
    assert main(["generate", "--model", str(sd1), "--prompt", "a", *WORDS, *more, "--json"]) == 2
    told = json.loads(capsys.readouterr().out)["faults"]
    # with a VAE that is not there no model is at hand that a ControlNet could be compared with
    of_net = [] if "--vae" in more else FOUND[2:]
    for part in (*FOUND[:2], *of_net, *found):
        assert sum(part in " ".join(fault.values()) for fault in told) == 1, part
    assert len(told) == len(FOUND[:2]) + len(of_net) + len(found) and not Path("out").exists()


def test_sizes_that_do_not_fit_are_told_with_the_rest(sd3: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "start.png")
    dot = Image.new("L", (64, 64))
    dot.putpixel((3, 3), 255)
    dot.save(tmp_path / "dot.png")
    (tmp_path / "junk.safetensors").write_bytes(b"no tensors at all")
    second = ["--hires_scale", "8", "--hires_steps", "1000", "--hires_strength", "0.05"]
    on_picture = ["--init_image", str(tmp_path / "start.png"), "--mask", str(tmp_path / "dot.png"), "--mask_blur", "9"]
    for more, found in (
        (
            second,
            ["--height", "--width", "--hires_scale", "--hires_strength", "sampler", str(tmp_path / "junk.safetensors")],
        ),
        (on_picture, ["--height", "--width", "--mask", "sampler", str(tmp_path / "junk.safetensors")]),
    ):
        sides = ["--width", "72", "--height", "4096"]
        words = ["--sampler", "DDIM", "--lora", str(tmp_path / "junk.safetensors"), *sides, *more, "--json"]
        assert main(["generate", "--model", str(sd3), "--prompt", "a", "--out", str(tmp_path / "out"), *words]) == 2
        told = json.loads(capsys.readouterr().out)["faults"]
        assert sorted(fault["where"].split()[0] for fault in told) == sorted(found)
    assert not (tmp_path / "out").exists()
