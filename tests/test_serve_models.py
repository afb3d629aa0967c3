"""Which models are in memory: who leaves when there are too many, or too large ones, and who is sent away."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import requests

from tenshot.core import device
from tenshot.core.options import resolve
from tenshot.generate.options import GenerateOptions
from tenshot.serve.messages import Load, Setup, Unload
from tenshot.serve.worker import Worker
from tests.servers import Running
from tests.test_serve_a1111 import PROMPT, SIZE, post


class Pipe:
    """Hears all, says nothing."""

    def __init__(self) -> None:
        self.sent: list[object] = []

    def send(self, told: object) -> None:
        self.sent.append(told)


def worker(models: int, most: int | None = None) -> Worker:
    return Worker(Pipe(), Setup("cpu", [], models, most))  # type: ignore[arg-type]


def options(model: Path, out: Path) -> GenerateOptions:
    told = {"model": str(model), "prompt": ["a"], "steps": 1, "seed": 1, "width": 64, "height": 64, "out": out}
    return resolve(GenerateOptions, told)


def draw(made: Worker, *given: GenerateOptions) -> None:
    made.given |= dict(enumerate(given))
    while made.given or made.under_way:
        made.turn()


def names(made: Worker) -> list[str]:
    return [place.name for place, _ in made.models]


def test_the_one_not_used_for_longest_makes_room(sd1: Path, sd1_tuned: Path, sd2_v: Path, tmp_path: Path) -> None:
    made = worker(2)
    for model in (sd1, sd1_tuned, sd1, sd2_v):
        draw(made, options(model, tmp_path))
    assert names(made) == [sd1.name, sd2_v.name]
    assert [type(each).__name__ for each in made.pipe.sent] == ["Step", "Drawn", "Held"] * 4  # type: ignore[attr-defined]


def test_memory_has_a_limit_but_for_the_model_at_work(
    sd1: Path, sd1_tuned: Path, sd2_v: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each model weighs 10 here."""
    made = worker(9, 25)
    monkeypatch.setattr(device, "memory_allocated", lambda: 10 * len(made.models))
    for model, left in ((sd1, 1), (sd1_tuned, 2), (sd2_v, 2), (sd1_tuned, 2), (sd1, 2)):
        draw(made, options(model, tmp_path))
        assert len(made.models) == left and names(made)[-1] == model.name
    assert names(made) == [sd1_tuned.name, sd1.name]
    monkeypatch.setattr(device, "memory_allocated", lambda: 1000)
    draw(made, options(sd2_v, tmp_path))
    assert names(made) == [sd2_v.name]


def test_one_is_sent_away_and_comes_again(sd1: Path, sd1_tuned: Path, tmp_path: Path) -> None:
    made = worker(9)
    for model in (sd1, sd1_tuned):
        made.keep(Load(options(model, tmp_path)))
    made.keep(Unload(options(sd1, tmp_path)))
    made.keep(Unload(options(sd1, tmp_path)))  # which is no fault
    assert names(made) == [sd1_tuned.name]
    draw(made, options(sd1, tmp_path))
    assert names(made) == [sd1_tuned.name, sd1.name]


def test_unload_and_reload_by_request(server: Running) -> None:
    """What is drawn stays the same; the model is back for whoever asks."""

    def wait_for(count: int) -> None:
        end = time.monotonic() + 30
        while models() != count:
            assert time.monotonic() < end
            time.sleep(0.05)

    def models() -> int:
        text = requests.get(f"{server.url}/metrics", timeout=9).text
        return int(float(re.search(r'tenshot_models{device="cpu"} (\S+)', text)[1]))

    def drawn() -> str:
        return str(post(server, "/sdapi/v1/txt2img", {"prompt": PROMPT, "seed": 3, **SIZE}).json()["images"][0])

    before = drawn()
    wait_for(2)
    assert post(server, "/sdapi/v1/unload-checkpoint").json() == {}
    wait_for(1)
    assert drawn() == before
    wait_for(2)
    post(server, "/sdapi/v1/unload-checkpoint")
    wait_for(1)
    assert post(server, "/sdapi/v1/reload-checkpoint").json() == {}
    wait_for(2)
