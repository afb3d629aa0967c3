"""AUTOMATIC1111's API on a real server, called by real clients, webuiapi and sd-backend-client, unchanged."""

from __future__ import annotations

import base64
import io
import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import webuiapi
from PIL import Image
from sd_backend_client import DiffusionParams, connect_to_backend
from sd_backend_client.api.a1111_webservice import A1111Webservice
from sd_backend_client.api.webui.response_formats import GenerationInfoData, ProgressResponseBody

from tenshot.core.events import Events
from tenshot.core.options import resolve
from tenshot.generate.generate import generate
from tenshot.generate.options import GenerateOptions
from tenshot.io.png import read_infotext
from tests.servers import Running

PROMPT = "a 3d emoji of a cat"
SIZE = {"width": 64, "height": 64, "steps": 3, "cfg_scale": 7}
SD_FIELDS = {*GenerationInfoData.model_fields}


@pytest.fixture(scope="module")
def api(server: Running) -> webuiapi.WebUIApi:
    return webuiapi.WebUIApi(port=server.port)


@pytest.fixture(scope="module")
def backend(server: Running) -> A1111Webservice:
    found = connect_to_backend(server.url)
    assert isinstance(found, A1111Webservice)
    return found


def commanded(model: object, out: Path, **options: object) -> Path:
    """The picture that the command line draws."""
    given = {"prompt": [PROMPT], "width": 64, "height": 64, "steps": 3, "guidance_scale": 7, "seed": 3} | options
    (made,) = generate(resolve(GenerateOptions, {"model": str(model), "out": out, "device": "cpu", **given}), Events())[
        "pictures"
    ]
    return Path(made["file"])


def same(one: Image.Image, other: Path) -> bool:
    return one.tobytes() == Image.open(other).convert("RGB").tobytes()


def post(server: Running, path: str, body: object = None, **headers: str) -> requests.Response:
    return requests.post(f"{server.url}{path}", json=body, headers=headers, timeout=60)


def steps(server: Running) -> float:
    """That were made, of however many pictures."""
    text = requests.get(f"{server.url}/metrics", timeout=9).text
    return float(re.search(r"tenshot_batch_pictures_count (\S+)", text)[1])


def test_webuiapi_draws_what_the_command_line_draws(api: webuiapi.WebUIApi, sd1: Path, tmp_path: Path) -> None:
    drawn = api.txt2img(prompt=PROMPT, seed=3, **SIZE)
    file = commanded(sd1, tmp_path / "a.png")
    assert same(drawn.image, file)
    assert drawn.info["infotexts"] == [read_infotext(file)] == [api.png_info(drawn.image).info]
    assert not SD_FIELDS - drawn.info.keys()


def test_sd_backend_client_draws_the_same(backend: A1111Webservice, sd1: Path, tmp_path: Path) -> None:
    asked = DiffusionParams(prompt=PROMPT, seed=3, batch_size=1, **SIZE)
    found = backend.submit_txt2img(asked).wait(60)
    drawn = found[0] if isinstance(found, list) else found.images[0]
    assert same(drawn.convert("RGB"), commanded(sd1, tmp_path / "a.png"))
    backend.progress_check()
    assert [each.model_name for each in backend.get_models()] == [sd1.name, "pocket"]
    assert backend.get_samplers() and backend.get_upscalers() and backend.get_scripts() and backend.get_config()
    assert [each.name for each in backend.get_loras()] == ["lora"]
    assert backend.list_schedulers() and backend.get_vae() == [] and backend.get_capabilities()
    assert backend.interrupt() == {}


def test_a_lora_that_the_prompt_names(api: webuiapi.WebUIApi, sd1: Path, sd1_lora: Path, tmp_path: Path) -> None:
    prompt = f"{PROMPT} <lora:{sd1_lora.stem}:0.7>"
    drawn = api.txt2img(prompt=prompt, seed=3, **SIZE).image
    assert same(drawn, commanded(sd1, tmp_path / "a.png", prompt=[prompt], lora_dir=[sd1_lora.parent]))
    without = api.txt2img(prompt=PROMPT, seed=3, **SIZE).image
    assert without.tobytes() != drawn.tobytes() and same(without, commanded(sd1, tmp_path / "b.png"))


def test_a_picture_and_a_mask(api: webuiapi.WebUIApi, sd1: Path, tmp_path: Path) -> None:
    start, mask = Image.effect_noise((64, 64), 90).convert("RGB"), Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    start.save(tmp_path / "start.png"), mask.save(tmp_path / "mask.png")
    asked = {"images": [start], "prompt": PROMPT, "seed": 3, "denoising_strength": 0.6, **SIZE}
    files = {"init_image": tmp_path / "start.png", "strength": 0.6}
    assert same(api.img2img(**asked).image, commanded(sd1, tmp_path / "a.png", **files))
    for whole in (True, False):
        around = {"only_masked": True, "only_masked_padding": 5} if whole else {}
        drawn = api.img2img(
            mask_image=mask, inpaint_full_res=whole, inpaint_full_res_padding=5, inpainting_fill=1, **asked
        )
        file = commanded(sd1, tmp_path / f"{whole}.png", mask=tmp_path / "mask.png", **files, **around)
        assert same(drawn.image, file), whole
    for fill, content in ((0, "fill"), (2, "noise"), (3, "nothing")):
        drawn = api.img2img(mask_image=mask, inpaint_full_res=False, inpainting_fill=fill, **asked)
        file = commanded(sd1, tmp_path / f"{content}.png", mask=tmp_path / "mask.png", mask_content=content, **files)
        assert same(drawn.image, file) and "Masked content" in drawn.info["extra_generation_params"]
    inverted = Image.eval(mask, lambda value: 255 - value)
    drawn = [
        api.img2img(mask_image=each, inpainting_mask_invert=on, **asked) for each, on in ((mask, 0), (inverted, 1))
    ]
    assert drawn[0].image.tobytes() == drawn[1].image.tobytes()


def test_a_picture_of_another_shape_is_stretched_or_cropped(api: webuiapi.WebUIApi) -> None:
    wide = Image.effect_noise((128, 64), 90).convert("RGB")
    asked = {"prompt": PROMPT, "seed": 3, "denoising_strength": 0.6, **SIZE}
    stretched = api.img2img(images=[wide.resize((64, 64), Image.Resampling.LANCZOS)], **asked).image
    assert api.img2img(images=[wide], resize_mode=0, **asked).image.tobytes() == stretched.tobytes()
    assert api.img2img(images=[wide], resize_mode=1, **asked).image.tobytes() != stretched.tobytes()


def test_seeds_count_on_and_variations_beside_them(api: webuiapi.WebUIApi, sd1: Path, tmp_path: Path) -> None:
    drawn = api.txt2img(prompt=PROMPT, seed=2, batch_size=2, n_iter=2, **SIZE)
    assert drawn.info["all_seeds"] == [2, 3, 4, 5] and len(drawn.images) == 4
    alone = np.array(Image.open(commanded(sd1, tmp_path / "a.png")), dtype=int)
    assert np.abs(np.array(drawn.images[1], dtype=int) - alone).max() <= 1
    varied = api.txt2img(prompt=PROMPT, seed=3, subseed=8, subseed_strength=0.4, **SIZE)
    file = commanded(sd1, tmp_path / "b.png", variation_seed=8, variation_strength=0.4)
    assert same(varied.image, file) and varied.info["all_subseeds"] == [8]


def test_requests_at_once_are_drawn_at_once_and_none_is_mixed_up(server: Running, sd1: Path, tmp_path: Path) -> None:
    drawn: dict[int, Image.Image] = {}

    def ask(seed: int) -> None:
        body = {"prompt": f"{PROMPT} {seed}", "seed": seed, **SIZE, "steps": 15 + seed % 3}
        answer = post(server, "/sdapi/v1/txt2img", body).json()
        drawn[seed] = Image.open(io.BytesIO(base64.b64decode(answer["images"][0])))

    before = steps(server)
    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(12)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert steps(server) - before < 12 * 15
    for seed in (0, 5, 11):
        file = commanded(sd1, tmp_path / f"{seed}.png", prompt=[f"{PROMPT} {seed}"], seed=seed, steps=15 + seed % 3)
        apart = np.abs(np.array(drawn[seed], dtype=int) - np.array(Image.open(file), dtype=int))
        assert apart.max() <= 1, seed


def test_answers_in_other_formats(server: Running, api: webuiapi.WebUIApi, sd1: Path, tmp_path: Path) -> None:
    """By the request's settings, or by the caller's own; the files are those that the command line writes."""
    asked = {"prompt": PROMPT, "seed": 3, **SIZE}
    for kind, over in (("jpg", {}), ("webp", {"jpeg_quality": 30})):
        drawn = api.txt2img(override_settings={"samples_format": kind, **over}, **asked)
        file = commanded(sd1, tmp_path / f"a.{kind}", quality=over.get("jpeg_quality", 80))
        assert base64.b64decode(drawn.json["images"][0]) == file.read_bytes()
        assert drawn.info["infotexts"] == [read_infotext(file)]
    own = webuiapi.WebUIApi(port=server.port)
    own.session.headers["User-Agent"] = "likes JPEG"
    own.set_options({"samples_format": "jpeg"})
    assert own.txt2img(**asked).image.format == "JPEG" and own.get_options()["samples_format"] == "jpeg"
    assert api.txt2img(**asked).image.format == "PNG"


class Asked(threading.Thread):
    """A long request of somebody's."""

    def __init__(self, server: Running, agent: str, **more: object) -> None:
        super().__init__(daemon=True)
        self.server, self.agent = server, agent
        self.body = {"prompt": PROMPT, "seed": 3, **SIZE, "steps": 150, "n_iter": 9, **more}
        self.answer: Any = None
        self.start()
        while not self.progress()["state"]["sampling_step"]:
            assert self.is_alive()
            time.sleep(0.02)

    def run(self) -> None:
        self.answer = post(self.server, "/sdapi/v1/txt2img", self.body, **{"User-Agent": self.agent})

    def progress(self, agent: str | None = None) -> dict[str, Any]:
        headers = {"User-Agent": agent or self.agent}
        found = requests.get(f"{self.server.url}/sdapi/v1/progress", headers=headers, timeout=9).json()
        ProgressResponseBody.model_validate(found)
        return found

    def stop(self, agent: str | None = None, how: str = "interrupt") -> requests.Response:
        return requests.post(
            f"{self.server.url}/sdapi/v1/{how}", headers={"User-Agent": agent or self.agent}, timeout=9
        )


def test_progress_and_interrupt_are_the_callers_own(server: Running) -> None:
    mine = Asked(server, "mine", force_task_id="task(a)")
    assert 0 < mine.progress()["progress"] < 1 and mine.progress()["state"]["job_count"] > 0
    assert mine.progress("another")["progress"] == 0 == mine.progress("another")["state"]["job_count"]
    told = {
        agent: post(server, "/internal/progress", {"id_task": "task(a)"}, **{"User-Agent": agent}).json()
        for agent in ("mine", "another")
    }
    assert told["mine"]["active"] and not told["another"]["active"]
    while not (shown := mine.progress()["current_image"]):
        assert mine.is_alive()
    assert Image.open(io.BytesIO(base64.b64decode(shown))).size == (64, 64)
    assert post(server, "/internal/progress", {"id_task": "task(a)"}, **{"User-Agent": "mine"}).json()["live_preview"]
    assert mine.stop("another").json() == {} and mine.is_alive()
    assert mine.stop().json() == {}
    mine.join(9)
    assert mine.answer.status_code == 200 and len(mine.answer.json()["images"]) < 9
    assert mine.progress()["state"]["job_count"] == 0 and mine.progress()["state"]["interrupted"]


def test_a_skipped_batch_is_left_out(server: Running) -> None:
    mine = Asked(server, "skips", steps=60, n_iter=6)
    assert mine.stop(how="skip").json() is None
    mine.join(60)
    assert len(mine.answer.json()["images"]) < 6


def test_who_goes_away_is_not_drawn_for(server: Running) -> None:
    body = {"prompt": PROMPT, **SIZE, "steps": 150, "n_iter": 16}
    headers = {"User-Agent": "leaves"}
    with pytest.raises(requests.Timeout):
        requests.post(f"{server.url}/sdapi/v1/txt2img", json=body, headers=headers, timeout=0.5)
    end = time.monotonic() + 9
    while requests.get(f"{server.url}/sdapi/v1/progress", headers=headers, timeout=9).json()["state"]["job_count"]:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_chosen_model_is_the_callers_own(server: Running, sd1: Path) -> None:
    one, other = (webuiapi.WebUIApi(port=server.port) for _ in range(2))
    one.session.headers["User-Agent"] = "one"
    assert one.util_get_current_model() == sd1.name == other.util_get_current_model()
    one.util_set_model("pocket")
    assert one.util_get_current_model() == "pocket" and other.util_get_current_model() == sd1.name
    assert "Model: pocket" in one.txt2img(prompt=PROMPT, steps=1, width=64, height=64).info["infotexts"][0]
    assert one.get_progress()["state"]["job_count"] == 0
    over = {"override_settings": {"sd_model_checkpoint": "pocket"}}
    assert "Model: pocket" in other.txt2img(prompt=PROMPT, steps=1, width=64, height=64, **over).info["infotexts"][0]
    assert other.util_get_current_model() == sd1.name


def test_open_webui_and_silly_tavern(server: Running, sd1: Path) -> None:
    """Their calls as the programs make them: an empty header, the whole of options written back, lists polled."""
    empty = {"Authorization": ""}
    options = requests.get(f"{server.url}/sdapi/v1/options", headers=empty, timeout=9).json()
    assert post(server, "/sdapi/v1/options", options, **empty).status_code == 200
    asked = {"prompt": PROMPT, "batch_size": 1, "width": 64, "height": 64, "steps": 2, "negative_prompt": ""}
    answer = post(server, "/sdapi/v1/txt2img", asked, **empty).json()
    assert len(answer["images"]) == 1 and isinstance(answer["info"], str)
    basic = {"Authorization": "Basic Og==", "User-Agent": "SillyTavern"}  # whose choice of a model is its own
    for name in ("samplers", "schedulers", "upscalers", "latent-upscale-modes", "sd-vae", "sd-models", "loras"):
        found = requests.get(f"{server.url}/sdapi/v1/{name}", headers=basic, timeout=9)
        assert found.status_code == 200 and isinstance(found.json(), list), name
    assert requests.get(f"{server.url}/sdapi/v1/upscalers", headers=basic, timeout=9).json()[0]["name"] == "None"
    assert post(server, "/sdapi/v1/options", {"sd_model_checkpoint": "pocket"}, **basic).json() is None
    assert requests.post(f"{server.url}/sdapi/v1/interrupt", headers=basic, timeout=9).json() == {}
    assert requests.get(f"{server.url}/system_stats", timeout=9).status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"sampler_name": "Euler Zz"}, 400, "Sampler not found"),
        ({"scheduler": "zigzag"}, 422, "scheduler"),
        ({"script_name": "x/y plot"}, 422, "script_name"),
        ({"alwayson_scripts": {"Reactor": {"args": [1]}}}, 422, "Reactor"),
        ({"restore_faces": True, "tiling": True}, 422, "tiling"),
        ({"steps": 151}, 422, "150 at most"),
        ({"width": 4096}, 422, "1536 at most"),
        ({"width": 63}, 422, "multiple of 8"),
        ({"batch_size": 17}, 422, "1 to 16"),
        ({"prompt": "<lora:../../secret>"}, 422, "no LoRA of that name is served here"),
        ({"prompt": "<lora:org/name:0.8>"}, 422, "no LoRA of that name is served here"),
        ({"prompt": "<lora:lora:x>"}, 422, "no numbers"),
        ({"prompt": "x" * 20_001}, 422, "20,000 at most"),
        ({"prompt": "\ud800"}, 422, "no text"),
        ({"override_settings": {"sd_model_checkpoint": "/etc/passwd"}}, 422, "not served here"),
        ({"override_settings": {"outdir_samples": "/tmp"}}, 422, "no setting"),
        ({"override_settings": {"samples_format": "gif"}}, 422, "samples_format"),
        ({"override_settings": {"jpeg_quality": 0}}, 422, "jpeg_quality"),
        (
            {"prompt": "x" * 19_999, "negative_prompt": "y" * 9001, "override_settings": {"samples_format": "jpg"}},
            422,
            "jpeg",
        ),
        ({"cfg_scale": "NaN"}, 422, "cfg_scale"),
        ({"seed": 2**63}, 422, "seed"),
    ],
)
def test_what_cannot_be_is_said(server: Running, body: dict[str, object], status: int, told: str) -> None:
    answer = requests.post(f"{server.url}/sdapi/v1/txt2img", json={"prompt": PROMPT, **SIZE, **body}, timeout=60)
    assert answer.status_code == status
    assert told in answer.json()["detail"] and {*answer.json()} == {"error", "detail", "body", "errors"}
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("picture", "status", "told"),
    [
        (None, 404, "Init image not found"),
        ("not base64!", 422, "no base64"),
        ("http://127.0.0.1/a.png", 422, "none is fetched"),
        ("/etc/passwd", 422, "base64"),
        (base64.b64encode(b"#!/bin/sh").decode(), 422, "init_images: no picture inside"),
    ],
)
def test_pictures_that_are_none(server: Running, picture: str | None, status: int, told: str) -> None:
    body = {"prompt": PROMPT, **SIZE, "init_images": [picture] if picture else []}
    answer = post(server, "/sdapi/v1/img2img", body)
    assert answer.status_code == status and told in answer.json()["detail"]
    if picture:
        assert post(server, "/sdapi/v1/png-info", {"image": picture}).status_code == status


def test_a_picture_bomb(server: Running) -> None:
    with io.BytesIO() as file:
        Image.new("1", (20_000, 20_000)).save(file, "PNG")
        bomb = base64.b64encode(file.getvalue()).decode()
    answer = post(server, "/sdapi/v1/img2img", {"prompt": PROMPT, **SIZE, "init_images": [bomb]})
    assert answer.status_code == 422 and "megapixels" in answer.json()["detail"]


def test_more_than_may_wait(server: Running) -> None:
    mine = Asked(server, "fills", n_iter=16)
    answers = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(post(server, "/sdapi/v1/txt2img", mine.body, **{"User-Agent": "fills"}))
        )
        for _ in range(3)
    ]
    for each in threads:
        each.start()
    while not any(each.status_code == 429 for each in answers):
        time.sleep(0.02)
    assert any(each.headers.get("Retry-After") == "5" for each in answers)
    while any(each.is_alive() for each in [mine, *threads]):
        mine.stop()
        time.sleep(0.05)
