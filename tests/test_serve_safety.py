"""What nobody may do to a server: from elsewhere, from a page in its user's browser, with too much, or with a knife."""

from __future__ import annotations

import http.client
import socket
import time
from pathlib import Path

import psutil
import pytest
import requests

from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.options import gather, resolve
from tenshot.serve import safety
from tenshot.serve.options import KEY, ServeOptions
from tenshot.serve.serve import serve
from tests.servers import Running, running

SECRET = "0123456789abcdef-secret"
ASK = {"prompt": "a", "steps": 1, "width": 64, "height": 64}


def ask(server: Running, **headers: str) -> requests.Response:
    return requests.post(f"{server.url}/sdapi/v1/txt2img", json=ASK, headers=headers, timeout=60)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:7860"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_pages_in_a_browser_cannot_ask(server: Running, headers: dict[str, str], status: int) -> None:
    answer = ask(server, **headers)
    assert answer.status_code == status, answer.text
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    if "Host" in headers:
        assert requests.get(f"{server.url}/sdapi/v1/options", headers=headers, timeout=9).status_code == status


def test_its_own_page_can_ask(server: Running) -> None:
    assert ask(server, Origin=server.url).status_code == 200


def test_bodies_have_an_end(server: Running) -> None:
    big = b" " * 2_000_001
    answer = requests.post(
        f"{server.url}/sdapi/v1/txt2img", data=big, headers={"Content-Type": "application/json"}, timeout=60
    )
    assert answer.status_code == 413
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest("POST", "/sdapi/v1/txt2img")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    connection.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(big), big))  # without a length announced
    assert connection.getresponse().status == 413


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b'{"prompt": 1e999}', b"\xff", b'{"prompt": NaN}', b"[]", b""])
def test_what_is_no_request_gets_a_reason(server: Running, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    for path in ("/sdapi/v1/txt2img", "/v1/images/generations", "/sdapi/v1/options", "/sdapi/v1/img2img"):
        answer = requests.post(f"{server.url}{path}", data=body, headers=headers, timeout=60)
        assert 400 <= answer.status_code < 500 and "Traceback" not in answer.text, (path, answer.text)


def test_its_page_of_docs_needs_nothing_from_elsewhere(server: Running) -> None:
    page = requests.get(f"{server.url}/docs", timeout=9).text
    assert "swagger" in page and "https://" not in page
    paths = requests.get(f"{server.url}/openapi.json", timeout=9).json()["paths"]
    assert {"/sdapi/v1/txt2img", "/v1/images/generations", "/healthz"} <= paths.keys()


def test_health_and_figures(server: Running) -> None:
    assert requests.get(f"{server.url}/healthz", timeout=9).json() == {"status": "ok"}
    assert requests.get(f"{server.url}/readyz", timeout=9).status_code == 200
    ask(server)
    text = requests.get(f"{server.url}/metrics", timeout=9).text
    assert 'tenshot_requests_total{api="/sdapi/v1/txt2img",status="200"}' in text
    assert "tenshot_queue_pictures 0.0" in text and "tenshot_request_seconds_bucket" in text


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "example.org", "::"])
def test_another_address_needs_a_key(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    with pytest.raises(Refusal, match="there is no key"):
        gather(ServeOptions, ["pocket", "--host", host])
    monkeypatch.setenv(KEY, SECRET)
    assert gather(ServeOptions, ["pocket", "--host", host]).host == host


def test_words_become_models() -> None:
    assert gather(ServeOptions, ["pocket", "--port", "1"]).model == ["pocket"]
    with pytest.raises(Refusal, match="other: no such") as refused:
        gather(ServeOptions, ["pocket", "other", "--device", "cpu", "cpu"])
    assert "one of them twice" in str(refused.value)


@pytest.mark.parametrize("key", ["short", "with a space in the middle", "", "é" * 20])
def test_keys_that_are_none(key: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(key)
    with pytest.raises(Refusal, match="api_key_file"):
        safety.key(resolve(ServeOptions, {"api_key_file": tmp_path / "key"}))


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = resolve(ServeOptions, {"port": taken.getsockname()[1]})
        with pytest.raises(Refusal, match="cannot be listened at"):
            serve(options, Events())


def test_two_models_of_one_name_are_refused(sd1: Path, tmp_path: Path) -> None:
    (tmp_path / sd1.name).symlink_to(sd1)
    with pytest.raises(Refusal, match="all are called sd1"):
        serve(resolve(ServeOptions, {"model": [str(sd1), str(tmp_path / sd1.name)], "port": 0}), Events())


@pytest.mark.slow
def test_a_key_and_a_process_that_is_killed(sd1: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SECRET + "\n")
    with running(sd1, "--api_key_file", tmp_path / "key") as server:
        for header in ({}, {"Authorization": ""}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic Og=="}):
            answer = ask(server, **header)
            assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Basic"
            assert requests.get(f"{server.url}/docs", headers=header, timeout=9).status_code == 401
            assert requests.get(f"{server.url}/readyz", headers=header, timeout=9).status_code == 200
        assert ask(server, Authorization=f"Bearer {SECRET}").status_code == 200
        url = server.url.replace("http://", f"http://me:{SECRET}@")
        assert requests.get(f"{url}/sdapi/v1/options", timeout=9).status_code == 200
        kill_and_heal(server, url)
    assert server.answered == {"200": 2, "401": 4, "500": 1}


def kill_and_heal(server: Running, url: str) -> None:
    """What draws is killed under a request, which is told so; the next one is drawn."""
    from threading import Thread

    (drawing,) = (
        each for each in psutil.Process(server.process.pid).children() if "spawn_main" in " ".join(each.cmdline())
    )
    answers: list[requests.Response] = []
    long = {**ASK, "steps": 150, "n_iter": 9}
    asking = Thread(target=lambda: answers.append(requests.post(f"{url}/sdapi/v1/txt2img", json=long, timeout=60)))
    asking.start()
    while not requests.get(f"{url}/sdapi/v1/progress", timeout=9).json()["state"]["sampling_step"]:
        time.sleep(0.02)
    drawing.kill()
    asking.join(20)
    assert answers[0].status_code == 500 and "SIGKILL" in answers[0].json()["detail"]
    assert requests.get(f"{server.url}/readyz", timeout=9).status_code == 503
    assert requests.post(f"{url}/sdapi/v1/txt2img", json=ASK, timeout=60).status_code == 200
