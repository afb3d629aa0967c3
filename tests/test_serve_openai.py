"""OpenAI's images API on a real server, called by OpenAI's own client, unchanged."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import openai
import pytest
import requests
from PIL import Image

from tenshot.io.png import read_infotext
from tests.servers import Running
from tests.test_serve_a1111 import PROMPT, commanded, same

OURS = {"seed": 3, "steps": 3, "guidance_scale": 7}


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none is needed", max_retries=0)


def decoded(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def as_png(image: Image.Image) -> bytes:
    with io.BytesIO() as file:
        image.save(file, "PNG")
        return file.getvalue()


def test_it_draws_what_the_command_line_draws(client: openai.OpenAI, sd1: Path, tmp_path: Path) -> None:
    for given in ({}, {"response_format": "b64_json"}, {"quality": "high", "background": "auto", "user": "me"}):
        found = client.images.generate(prompt=PROMPT, model=sd1.name, size="64x64", extra_body=OURS, **given)
        file = commanded(sd1, tmp_path / "a.png")
        assert same(decoded(found.data[0].b64_json), file)
    (tmp_path / "b.png").write_bytes(base64.b64decode(found.data[0].b64_json))
    assert read_infotext(tmp_path / "b.png") == read_infotext(file)


def test_several_and_an_address_for_each(client: openai.OpenAI, server: Running, sd1: Path, tmp_path: Path) -> None:
    found = client.images.generate(prompt=PROMPT, n=2, response_format="url", size="64x64", extra_body=OURS)
    first, second = (each.url for each in found.data)
    assert first.startswith(f"{server.url}/v1/images/files/") and first != second
    assert same(Image.open(io.BytesIO(requests.get(first, timeout=9).content)), commanded(sd1, tmp_path / "a.png"))
    for path in ("x.png", "..%2f..%2fetc%2fpasswd.png"):
        assert requests.get(f"{server.url}/v1/images/files/{path}", timeout=9).status_code == 404


def test_other_formats(client: openai.OpenAI, sd1: Path, tmp_path: Path) -> None:
    asked = {"prompt": PROMPT, "size": "64x64", "extra_body": OURS}
    found = client.images.generate(output_format="webp", output_compression=40, **asked)
    assert found.output_format == "webp"
    assert base64.b64decode(found.data[0].b64_json) == commanded(sd1, tmp_path / "a.webp", quality=40).read_bytes()
    url = client.images.generate(output_format="jpeg", response_format="url", **asked).data[0].url
    answer = requests.get(url, timeout=9)
    assert url.endswith(".jpeg") and answer.headers["Content-Type"] == "image/jpeg"
    assert answer.content == commanded(sd1, tmp_path / "a.jpeg", quality=100).read_bytes()


def test_a_stream_tells_each_picture(client: openai.OpenAI, sd1: Path, tmp_path: Path) -> None:
    stream = client.images.generate(prompt=PROMPT, n=2, stream=True, size="64x64", extra_body=OURS)
    events = [*stream]
    assert [each.type for each in events] == ["image_generation.completed"] * 2
    assert events[0].size == "64x64" and events[0].usage.total_tokens == 0 and events[0].output_format == "png"
    assert decoded(events[1].b64_json).size == (64, 64)
    with pytest.raises(openai.UnprocessableEntityError, match="no LoRA"):
        client.images.generate(prompt="<lora:none>", stream=True)


def test_a_stream_tells_pictures_on_the_way(client: openai.OpenAI, sd1: Path, tmp_path: Path) -> None:
    asked = {"prompt": PROMPT, "size": "64x64", "extra_body": {**OURS, "steps": 40}}
    events = [*client.images.generate(stream=True, partial_images=2, **asked)]
    kinds = ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [each.type for each in events] == kinds
    assert [each.partial_image_index for each in events[:2]] == [0, 1]
    assert len({each.b64_json for each in events}) == 3 and {each.size for each in events} == {"64x64"}
    assert same(decoded(events[2].b64_json), commanded(sd1, tmp_path / "a.png", steps=40))


def test_an_edit_repaints_what_is_transparent(client: openai.OpenAI, sd1: Path, tmp_path: Path) -> None:
    start, hole = Image.effect_noise((64, 64), 90).convert("RGB"), Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    hole.paste((0, 0, 0, 0), (16, 16, 48, 48))
    white = Image.new("L", (64, 64))
    white.paste(255, (16, 16, 48, 48))
    start.save(tmp_path / "start.png"), white.save(tmp_path / "white.png")
    files = {"init_image": tmp_path / "start.png"}
    for image in (as_png(start), [as_png(start)]):  # the client sends image, and image[]
        found = client.images.edit(image=image, mask=as_png(hole), prompt=PROMPT, size="64x64", extra_body=OURS)
        masked = {"mask": tmp_path / "white.png", "strength": 1.0}
        assert same(decoded(found.data[0].b64_json), commanded(sd1, tmp_path / "a.png", **files, **masked))
    found = client.images.edit(image=as_png(start), prompt=PROMPT, extra_body={**OURS, "strength": 0.5})
    options = {"strength": 0.5, "width": None, "height": None}
    assert same(decoded(found.data[0].b64_json), commanded(sd1, tmp_path / "b.png", **files, **options))
    (event,) = client.images.edit(image=as_png(start), prompt=PROMPT, stream=True, extra_body=OURS)
    assert event.type == "image_edit.completed"


def test_models_by_name_and_by_what_clients_call_them(client: openai.OpenAI, sd1: Path) -> None:
    assert [each.id for each in client.models.list()] == [sd1.name, "pocket"]
    assert client.models.retrieve("pocket").owned_by == "tenshot"
    one_step = {"extra_body": {"steps": 1}, "size": "64x64"}
    assert client.images.generate(prompt=PROMPT, model="dall-e-2", **one_step).data
    with pytest.raises(openai.NotFoundError, match="pocket") as unknown:
        client.images.generate(prompt=PROMPT, model="another", **one_step)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"n": 11}, "less than or equal to 10"),
        ({"size": "big"}, "size"),
        ({"size": "63x64"}, "multiple of 8"),
        ({"size": "4096x4096"}, "1536 at most"),
        ({"output_format": "gif"}, "png"),
        ({"extra_body": {"steps": 1000}}, "150 at most"),
        ({"extra_body": {"sampler": "Euler Zz"}}, "sampler"),
    ],
)
def test_what_cannot_be_is_said(client: openai.OpenAI, given: dict[str, object], told: str) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match=told):
        client.images.generate(prompt=PROMPT, **given)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "0 pictures"),
        ({"image": b"GIF89a"}, "damaged|no picture"),
        ({"image": as_png(Image.new("RGB", (8, 8))), "mask": as_png(Image.new("RGB", (8, 8)))}, "transparent"),
    ],
)
def test_forms_that_are_none(server: Running, files: dict[str, bytes], told: str) -> None:
    answer = requests.post(f"{server.url}/v1/images/edits", data={"prompt": PROMPT}, files=files or None, timeout=60)
    if not files:  # requests sends no multipart without a file
        assert answer.status_code == 415
        return
    assert answer.status_code == 422
    assert any(each in answer.json()["error"]["message"] for each in told.split("|"))
