"""ControlNets by request, as webuiapi and sd-backend-client ask for them, against what the command line draws.

webuiapi keeps units in the default of `alwayson_scripts`, and sends them with every later request: so that is given.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import webuiapi
from PIL import Image
from sd_backend_client import connect_to_backend
from webuiapi import ControlNetUnit

from tenshot.core.errors import Refusal
from tenshot.io.png import read_infotext
from tenshot.serve.a1111 import control
from tenshot.serve.library import Library
from tests.servers import Running
from tests.test_pictures_in import picture
from tests.test_serve_a1111 import PROMPT, SIZE, commanded, post, same, steps

NAMES = ("edges5", "edges6")


@pytest.fixture(scope="module")
def api(server: Running) -> webuiapi.WebUIApi:
    return webuiapi.WebUIApi(port=server.port)


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A control picture that is not of the shape that is drawn."""
    picture(96, 64).save(tmp_path / "wide.png")
    return tmp_path / "wide.png"


def test_a_unit_draws_what_the_command_line_draws(
    api: webuiapi.WebUIApi, sd1: Path, sd1_controlnets: Path, wide: Path, tmp_path: Path
) -> None:
    shown = Image.open(wide)
    first = {"module": "canny", "weight": 0.8, "guidance_end": 0.7, "threshold_a": 20, "threshold_b": 60}
    units = [
        ControlNetUnit(image=shown, model=NAMES[0], resize_mode="Crop and Resize", control_mode=2, **first),
        ControlNetUnit(image=shown, model=api.controlnet_model_list()[1], resize_mode="Resize and Fill"),
    ]
    told = {"control_image": [wide], "canny_low": 20, "canny_high": 60, "control_mode": ["control", "balanced"]}
    told |= {"control_resize": ["crop", "fill"], "control_preprocessor": ["canny", "none"]}
    nets = [f"{sd1_controlnets / NAMES[0]}=0.8@0-0.7", str(sd1_controlnets / NAMES[1])]
    drawn = api.txt2img(prompt=PROMPT, seed=3, controlnet_units=units, alwayson_scripts={}, **SIZE)
    file = commanded(sd1, tmp_path / "a.png", controlnet=nets, **told)
    assert same(drawn.images[0], file) and drawn.info["infotexts"] == [read_infotext(file)]
    assert len(drawn.images) == 3  # the maps come behind
    edges, whole = (np.asarray(each.convert("RGB")) for each in drawn.images[1:])
    expected = cv2.Canny(
        np.asarray(shown.convert("RGB").resize((64, 64), Image.Resampling.LANCZOS, (16, 0, 80, 64))), 20, 60
    )
    assert (edges == expected[..., None]).all()
    assert (whole[0] == whole[0, 0]).all() and (whole[32] != whole[32, 0]).any()
    units[0].enabled = False
    without = api.txt2img(prompt=PROMPT, seed=3, controlnet_units=units, alwayson_scripts={}, **SIZE)
    told = {"control_image": [wide], "control_resize": ["fill"]}
    assert same(without.images[0], commanded(sd1, tmp_path / "b.png", controlnet=nets[1:], **told))


def test_the_picture_that_is_drawn_on_is_seen_where_a_unit_has_none(
    api: webuiapi.WebUIApi, sd1: Path, sd1_controlnets: Path, wide: Path, tmp_path: Path
) -> None:
    start, mask = picture(), Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    start.save(tmp_path / "start.png"), mask.save(tmp_path / "mask.png")
    drawn = api.img2img(
        images=[start],
        mask_image=mask,
        inpaint_full_res_padding=5,
        inpainting_fill=1,
        denoising_strength=0.6,
        prompt=PROMPT,
        seed=3,
        controlnet_units=[ControlNetUnit(model=NAMES[0], resize_mode="Just Resize", pixel_perfect=True)],
        alwayson_scripts={},
        **SIZE,
    )
    begun = {"init_image": tmp_path / "start.png", "mask": tmp_path / "mask.png", "strength": 0.6}
    around = {"only_masked": True, "only_masked_padding": 5, "control_resize": ["stretch"]}
    net = {"controlnet": [str(sd1_controlnets / NAMES[0])], "control_image": [tmp_path / "start.png"]}
    assert same(drawn.images[0], commanded(sd1, tmp_path / "a.png", **begun, **around, **net))


def test_requests_with_other_control_pictures_are_drawn_at_once(server: Running, sd1_controlnets: Path) -> None:
    """Whoever waits is joined; each sees its own picture."""
    import threading

    def ask(seed: int) -> None:
        unit = ControlNetUnit(image=picture(seed=seed), model=NAMES[0]).to_dict() | {"save_detected_map": False}
        body = {"prompt": PROMPT, "seed": 3, **SIZE, "steps": 12, "alwayson_scripts": {"controlNet": {"args": [unit]}}}
        drawn[seed] = post(server, "/sdapi/v1/txt2img", body).json()["images"]

    drawn: dict[int, list[str]] = {}
    before = steps(server)
    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert steps(server) - before < 6 * 12
    assert all(len(each) == 1 for each in drawn.values()) and len({each for (each,) in drawn.values()}) == 6


def test_what_is_asked_of_controlnets(server: Running, api: webuiapi.WebUIApi, sd1_controlnets: Path) -> None:
    assert api.controlnet_version() == 3 and api.controlnet_module_list() == ["none", "canny"]
    named = [re.fullmatch(r"([\w-]+) \[[0-9a-f]{8}\]", each)[1] for each in api.controlnet_model_list()]
    assert named == [*NAMES, "pocket-canny"]
    backend: Any = connect_to_backend(server.url)
    assert backend.get_capabilities().controlnet and backend.get_controlnet_settings() == {"control_net_unit_count": 3}
    assert [each.full_model_name for each in backend.list_controlnet_models()] == api.controlnet_model_list()
    known = {each.name: each for each in backend.get_controlnet_preprocessors()}
    assert {*known} == {"none", "canny"} and "All" in backend.get_controlnet_type_categories()
    shown = picture(120, 80)
    (edges,) = api.controlnet_detect([shown], module="canny", processor_res=64, threshold_a=30, threshold_b=90).images
    expected = cv2.Canny(np.asarray(shown.convert("RGB").resize((96, 64), Image.Resampling.LANCZOS)), 30, 90)
    assert (np.asarray(edges) == expected[..., None]).all()
    assert backend.controlnet_preprocessor_preview(shown, None, known["canny"]).size == (768, 512)


@pytest.mark.parametrize(
    ("unit", "told"),
    [
        ({"module": "depth_midas"}, "'depth_midas': this server has no such preprocessor"),
        ({"model": "None"}, "none is named"),
        ({"model": "edges7 [00000000]"}, "no ControlNet of that name"),
        ({"model": "../edges5"}, "no ControlNet of that name"),
        ({"image": ""}, "ControlNet 0: image: none"),
        ({"image": "/etc/passwd"}, "base64"),
        ({"image": "http://127.0.0.1/a.png"}, "none is fetched"),
        ({"mask": "iVBORw0KGgo="}, "mask"),
        ({"weight": 3}, "weight"),
        ({"weight": "NaN"}, "weight"),
        ({"guidance_start": 0.7, "guidance_end": 0.2}, "from 0.7 to 0.2"),
        ({"control_mode": "Loud"}, "control_mode"),
        ({"resize_mode": 4}, "resize_mode"),
        ({"advanced_weighting": [1] * 13}, "advanced_weighting"),
        ("canny", "no unit"),
    ],
)
def test_units_that_cannot_be(server: Running, unit: Any, told: str, sd1_controlnets: Path) -> None:
    whole = ControlNetUnit(image=picture(), model=NAMES[0]).to_dict() | unit if isinstance(unit, dict) else unit
    body = {"prompt": PROMPT, **SIZE, "alwayson_scripts": {"ControlNet": {"args": [whole]}}}
    answer = post(server, "/sdapi/v1/txt2img", body)
    assert answer.status_code == 422 and told in answer.json()["detail"]
    assert "Traceback" not in answer.text and str(sd1_controlnets) not in answer.text


def test_a_controlnet_of_another_model_is_refused_without_its_place(server: Running, sd1_controlnets: Path) -> None:
    other = sd1_controlnets / "other"
    shutil.copytree(sd1_controlnets / NAMES[0], other)
    config = json.loads((other / "config.json").read_text()) | {"cross_attention_dim": 48}
    (other / "config.json").write_text(json.dumps(config))
    try:
        units = [ControlNetUnit(image=picture(), model="other").to_dict()] * 4
        for count, told in ((1, "other is a ControlNet for another UNet"), (4, "3 at most")):
            body = {"prompt": PROMPT, **SIZE, "alwayson_scripts": {"controlnet": {"args": units[:count]}}}
            answer = post(server, "/sdapi/v1/txt2img", body)
            assert answer.status_code == 422 and told in answer.json()["detail"]
            assert str(sd1_controlnets) not in answer.text
    finally:
        shutil.rmtree(other)


@pytest.mark.parametrize(
    "body",
    [
        {"controlnet_module": "depth"},
        {"controlnet_input_images": []},
        {"controlnet_input_images": ["bm9uZQ=="]},
        {"controlnet_masks": ["bm9uZQ=="]},
    ],
)
def test_maps_that_cannot_be(server: Running, body: dict[str, object]) -> None:
    shown = ControlNetUnit(image=picture()).to_dict()["image"]
    answer = post(server, "/controlnet/detect", {"controlnet_input_images": [shown], **body})
    assert answer.status_code == 422 and "Traceback" not in answer.text


def test_nets_for_edges_are_named_with_canny() -> None:
    """Type -> modules, models, and what is chosen first of both, as sd-webui-controlnet has them."""
    found = control.types(["depth [0]", "control_Canny [1]"])
    both = {"module_list": ["none", "canny"], "default_option": "none", "default_model": "None"}
    assert found["All"] == {**both, "model_list": ["None", "depth [0]", "control_Canny [1]"]}
    edges = {
        "model_list": ["None", "control_Canny [1]"],
        "default_option": "canny",
        "default_model": "control_Canny [1]",
    }
    assert found["Canny"] == {**both, **edges}


def test_what_lies_in_a_folder_of_controlnets(sd1_controlnets: Path, tmp_path: Path) -> None:
    """A folder of diffusers' is one net, by its own name; a pickle none at all."""
    folder = tmp_path / "nets"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "net").symlink_to(sd1_controlnets / NAMES[0])
    file = sd1_controlnets / NAMES[1] / "diffusion_pytorch_model.safetensors"
    shutil.copytree(sd1_controlnets / NAMES[1], folder / "deep" / "folder")
    shutil.copy(file, folder / "alone.safetensors")
    (folder / "pickle.pth").write_bytes(b"\x80\x02.")
    library = Library([], [], [folder])
    assert [name.partition(" [")[0] for name in library.controlnets()] == ["alone", "folder"]
    assert library.controlnet("ALONE") == folder / "alone.safetensors"
    assert library.controlnet([*library.controlnets()][1]) == folder / "deep" / "folder"
    with pytest.raises(Refusal, match="no ControlNet of that name") as refused:
        library.controlnet("alona")
    assert "alone perhaps" in refused.value.faults[0].do
