"""WebUI's Hires. fix by request, against what the command line draws."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests
import webuiapi
from webuiapi import ControlNetUnit

from tenshot.io.png import read_infotext
from tests.servers import Running
from tests.test_pictures_in import picture
from tests.test_serve_a1111 import PROMPT, SIZE, commanded, post, same


@pytest.fixture(scope="module")
def api(server: Running) -> webuiapi.WebUIApi:
    return webuiapi.WebUIApi(port=server.port)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"hr_scale": 1.5}, {"hires_scale": 1.5}),
        (
            {"hr_resize_x": 96, "hr_second_pass_steps": 2, "hr_upscaler": "None", "denoising_strength": 0.4},
            {"hires_scale": 1.5, "hires_steps": 2, "hires_upscaler": "Lanczos", "hires_strength": 0.4},
        ),
        (
            {"hr_resize_x": 88, "hr_resize_y": 88, "hr_upscaler": "Latent (bicubic)", "hr_prompt": PROMPT},
            {"hires_scale": 1.375, "hires_upscaler": "Latent (bicubic)"},
        ),
    ],
)
def test_a_second_pass_draws_what_the_command_line_draws(
    api: webuiapi.WebUIApi, sd1: Path, tmp_path: Path, asked: dict[str, object], told: dict[str, object]
) -> None:
    drawn = api.txt2img(enable_hr=True, prompt=PROMPT, seed=3, **SIZE, **asked)
    file = commanded(sd1, tmp_path / "a.png", **{"hires_strength": 0.7, **told})
    assert same(drawn.image, file) and drawn.info["infotexts"] == [read_infotext(file)]
    assert (drawn.info["width"], drawn.image.width) == (64, int(64 * float(str(told["hires_scale"]))))
    assert drawn.info["denoising_strength"] == told.get("hires_strength", 0.7)


def test_a_controlnet_sees_both_passes(
    api: webuiapi.WebUIApi, sd1: Path, sd1_controlnets: Path, tmp_path: Path
) -> None:
    picture(96, 96).save(tmp_path / "map.png")
    unit = ControlNetUnit(image=picture(96, 96), module="canny", model="edges5", threshold_a=20, threshold_b=60)
    asked = {"enable_hr": True, "hr_scale": 1.5, "prompt": PROMPT, "seed": 3, **SIZE}
    drawn = api.txt2img(controlnet_units=[unit], alwayson_scripts={}, **asked)
    net = {"controlnet": [str(sd1_controlnets / "edges5")], "control_image": [tmp_path / "map.png"]}
    edges = {"control_preprocessor": ["canny"], "canny_low": 20, "canny_high": 60}
    assert same(drawn.images[0], commanded(sd1, tmp_path / "a.png", hires_scale=1.5, **net, **edges))


def test_what_a_second_pass_can_be(server: Running) -> None:
    def names(of: str) -> list[str]:
        return [each["name"] for each in requests.get(f"{server.url}/sdapi/v1/{of}", timeout=9).json()]

    assert names("upscalers")[:2] == ["None", "Lanczos"] and "Latent" in names("latent-upscale-modes")
    assert not {*names("upscalers")} & {*names("latent-upscale-modes")}


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"hr_scale": 9}, "hires_scale"),
        ({"hr_scale": 1}, "hr_scale: 1"),
        ({"hr_scale": 8, "width": 256}, "1536 at most"),
        ({"hr_scale": 8, "width": None, "height": 256}, "1536 at most"),
        ({"hr_resize_x": 96, "hr_resize_y": 128}, "of another shape"),
        ({"hr_upscaler": "ESRGAN_4x"}, "hr_upscaler: 'ESRGAN_4x'"),
        ({"hr_upscaler": "/etc/passwd"}, "hr_upscaler"),
        ({"hr_upscaler": __file__}, "no upscaler of that name is served here"),
        ({"hr_second_pass_steps": 151}, "150 at most"),
        ({"hr_checkpoint_name": "pocket"}, "hr_checkpoint_name"),
        ({"hr_sampler_name": "DDIM"}, "hr_sampler_name"),
        ({"hr_prompt": "a dog"}, "hr_prompt"),
        ({"denoising_strength": 0}, "hires_strength"),
        ({"firstphase_width": 32}, "firstphase_width"),
    ],
)
def test_second_passes_that_cannot_be(server: Running, asked: dict[str, object], told: str) -> None:
    answer = post(server, "/sdapi/v1/txt2img", {"prompt": PROMPT, **SIZE, "enable_hr": True, **asked})
    assert answer.status_code == 422 and told in answer.json()["detail"]
    ignored = {name: value for name, value in asked.items() if name.startswith("hr_")}
    if len(ignored) == len(asked):  # as in WebUI, without enable_hr
        assert post(server, "/sdapi/v1/txt2img", {"prompt": PROMPT, **SIZE, **ignored}).status_code == 200
