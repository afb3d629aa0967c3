"""A swap happens whole or not at all, whatever stops it; what draws meanwhile goes on with what it began with."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import pytest
import torch
from PIL import Image

import tenshot
from tenshot import generate, model, sampling
from tenshot.checkpoints import whole
from tenshot.errors import Refusal, Slow
from tenshot.events import Events
from tenshot.fast import dropin
from tenshot.fast import weights as fast_weights
from tenshot.fast.model import FastModel
from tenshot.fast.openvino import OpenVINO
from tenshot.files import containers
from tenshot.files.tensors import write_json
from tenshot.options import resolve
from tenshot.sampling import Request, Settings
from tests import artifacts
from tests.test_swap import a_lora, answers, merged, tuned

OURS = str(Path(tenshot.__file__).parent)
NETS = ("unet", "vae", "text_encoder")


def weights(opened: Any) -> dict[str, torch.Tensor]:
    """What every part has now, as a user sees it."""
    return {f"{part}.{name}": each.clone() for part in NETS for name, each in opened[part].state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def state(opened: Any) -> dict[str, torch.Tensor]:
    """Weights, and what the programs answer with theirs."""
    return weights(opened) | {f"answer {number}": each for number, each in enumerate(answers(opened))}


class Stopped(KeyboardInterrupt):
    pass


@contextmanager
def stopped_after(lines: int) -> Iterator[list[int]]:
    """Raise in the block after so many lines of ours have run. Gives a list with how many did."""
    left = [lines]

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                raise Stopped
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield left
    except Stopped:
        pass
    finally:
        sys.settrace(before)


@contextmanager
def failing_after(calls: int, place: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In the block, let the function `name` of `place` raise at one of its calls."""
    real, left = getattr(place, name), [calls]

    def failing(*given: Any, **more: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(5, "Input/output error")
        return real(*given, **more)

    with monkeypatch.context() as patched, pytest.raises(OSError, match="Input/output"):
        patched.setattr(place, name, failing)
        yield


@pytest.fixture(scope="module")
def lora(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_lora(sd1, tmp_path_factory.mktemp("loras") / "lora.safetensors")


@pytest.fixture(scope="module")
def other(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tuned(sd1, tmp_path_factory.mktemp("tuned") / "other")


@pytest.fixture(scope="module")
def compiled(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifacts.made(sd1, tmp_path_factory.mktemp("fast") / "sd1", sections=("unet",))


@pytest.fixture(params=["eager", "compiled"])
def opened(request: pytest.FixtureRequest, sd1: Path) -> FastModel:
    return tenshot.load(sd1 if request.param == "eager" else request.getfixturevalue("compiled"))


def test_a_swap_that_is_stopped_anywhere_leaves_the_old_or_the_new(opened: FastModel, lora: Path, other: Path):
    base = state(opened)
    swaps: dict[str, Callable[[], None]] = {
        "set": lambda: opened.set_loras({lora: 0.7}),
        "load": lambda: opened.load_weights(other),
    }
    place = opened.place
    wanted, lines = {}, {}
    for name, swap in swaps.items():
        with stopped_after(10**9) as left:
            swap()
        lines[name] = 10**9 - left[0]
        wanted[name] = state(opened)
        opened.load_weights(place)
        assert same(state(opened), base)
    dice = random.Random(0)
    seen = set()
    for number in range(8 if opened.programs else 24):
        name = dice.choice([*swaps])
        # At random, and in the last lines, where what was made takes its place.
        moment = dice.randrange(1, lines[name]) if number % 2 else lines[name] - dice.randrange(30)
        with stopped_after(moment):
            swaps[name]()
        found = weights(opened)
        now = next(
            (key for key, each in {"base": base, **wanted}.items() if same(found, {n: each[n] for n in found})), ""
        )
        assert now in ("base", name)
        assert same(state(opened), base if now == "base" else wanted[name])
        seen.add(now != "base")
        with stopped_after(dice.randrange(1, 60)):
            opened.clear_loras()
        opened.clear_loras()
        if now != "load":
            assert same(state(opened), base)
        opened.load_weights(place)
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("place", "name", "call"),
    [(fast_weights, "_like", 70), (containers, "_read", 110), (dropin, "exchanged", 2), (OpenVINO, "load", 1)],
)
def test_an_error_leaves_the_old(
    place: Any, name: str, call: int, compiled: Path, lora: Path, other: Path, monkeypatch: pytest.MonkeyPatch
):
    opened = tenshot.load(compiled)
    base = state(opened)
    opened.set_loras({lora: 0.5})
    before = state(opened)
    with failing_after(call, place, name, monkeypatch):
        opened.load_weights(other)
    assert same(state(opened), before)
    opened.clear_loras()
    assert same(state(opened), base)


def overwritten(folder: Path) -> None:
    """Every number in a model folder becomes 0, in the files that are there."""
    for path in folder.rglob("*.safetensors"):
        start = containers.opened(path) and 8 + int.from_bytes(path.read_bytes()[:8], "little")
        with path.open("r+b") as file:
            file.seek(start)
            file.write(bytes(path.stat().st_size - start))


@pytest.mark.parametrize("kind", ["eager", "compiled"])
def test_a_base_that_is_rewritten_while_in_use_changes_nothing(
    kind: str, sd1: Path, compiled: Path, lora: Path, tmp_path: Path
):
    place = Path(shutil.copytree(compiled if kind == "compiled" else sd1, tmp_path / "model"))
    opened = tenshot.load(place)
    base = state(opened)
    opened.set_loras({lora: 0.7})
    with_lora = state(opened)
    opened.clear_loras()
    overwritten(place)
    assert same(state(opened), base)
    opened.set_loras({lora: 0.7})
    assert same(state(opened), with_lora)
    shutil.rmtree(place / "model" if kind == "compiled" else place)
    opened.clear_loras()
    assert same(state(opened), base)


def test_weights_that_were_loaded_are_not_those_of_the_file_any_more(sd1: Path, other: Path, tmp_path: Path):
    place, pickle = Path(shutil.copytree(other, tmp_path / "model")), tmp_path / "model.ckpt"
    whole.write(whole.read(other), pickle, Events())
    opened = tenshot.load(sd1)
    for each in (place, pickle):
        opened.load_weights(each)
        before = state(opened)
        if each.is_dir():
            overwritten(each)
        else:
            with each.open("r+b") as file:
                file.write(bytes(each.stat().st_size))
        assert same(state(opened), before)


def test_in_half_precision_the_files_are_asked_again_and_a_change_is_noticed(sd1: Path, lora: Path, tmp_path: Path):
    place = Path(shutil.copytree(sd1, tmp_path / "model"))
    opened = tenshot.load(place, precision="bf16")
    base = weights(opened)
    opened.set_loras({lora: 0.7})
    with_lora = weights(opened)
    overwritten(place)
    with pytest.raises(Refusal, match="rewritten since"):
        opened.set_loras({lora: -0.7})
    assert same(weights(opened), with_lora)
    opened.clear_loras()
    assert same(weights(opened), base)


def test_what_is_rewritten_while_it_is_read_is_refused(
    sd1: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = Path(shutil.copytree(other, tmp_path / "model"))
    opened = tenshot.load(sd1)
    before = weights(opened)
    real, left = containers._read, [50]

    def meanwhile(*given: Any) -> torch.Tensor:
        left[0] -= 1
        if left[0] == 0:
            overwritten(place)
        return real(*given)

    monkeypatch.setattr(containers, "_read", meanwhile)
    with pytest.raises(Refusal, match="written to while"):
        opened.load_weights(place)
    assert same(weights(opened), before)


def test_programs_that_were_rewritten_are_not_mixed_in(compiled: Path, lora: Path, tmp_path: Path):
    place = Path(shutil.copytree(compiled, tmp_path / "fast"))
    opened = tenshot.load(place)
    before = state(opened)
    graph = place / "parts/unet/net.xml"
    graph.write_bytes(graph.read_bytes().replace(b"Convolution", b"Convolutiom"))
    with pytest.raises(Refusal, match="written to since"):
        opened.set_loras({lora: 1})
    assert same(state(opened), before)


def test_weights_that_predict_something_else_are_refused(sd2_v: Path, tmp_path: Path):
    place = Path(shutil.copytree(sd2_v, tmp_path / "epsilon"))
    write_json(place / "scheduler/scheduler_config.json", {"_class_name": "DDIMScheduler"})
    opened = tenshot.load(sd2_v)
    before = weights(opened)
    with pytest.raises(Refusal, match="predicts epsilon"):
        opened.load_weights(place)
    assert same(weights(opened), before)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), -float("inf"), "much", None, True, 1e39])
def test_strengths_that_are_none_are_refused(strength: Any, sd1: Path, lora: Path):
    opened = tenshot.load(sd1)
    opened.set_loras({lora: 0.5})
    before = weights(opened)
    with pytest.raises(Refusal, match="finite"):
        opened.set_loras({lora: strength})
    assert same(weights(opened), before)


@pytest.mark.parametrize("kind", ["eager", "compiled"])
def test_a_picture_under_way_is_finished_with_what_it_began_with(
    kind: str, sd1: Path, compiled: Path, lora: Path, other: Path
):
    opened = tenshot.load(sd1 if kind == "eager" else compiled)
    settings, wanted = Settings(steps=3), []

    def drawn() -> bytes:
        return sampling.pictures(opened, [Request("a cat", 1)], settings)[0].tobytes()

    swaps: list[Callable[[], None]] = [
        lambda: opened.set_loras({lora: 1}),
        lambda: opened.set_loras({lora: -1}),
        opened.clear_loras,
    ]
    for swap in swaps:
        swap()
        wanted.append(drawn())
    found: list[bytes] = []
    over = threading.Event()

    def artist() -> None:
        while not over.is_set():
            found.append(drawn())

    threads = [threading.Thread(target=artist) for _ in range(2)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 60
    number = 0
    while number < 6 or len(set(found)) < 2:
        swaps[number % 3]()
        number += 1
        assert time.monotonic() < until
    over.set()
    for thread in threads:
        thread.join()
    assert {*found} <= {*wanted}
    assert len({*wanted}) == 3
    both = sampling.stream(opened, [Request("a cat", seed) for seed in (1, 2)], replace(settings, batch=1))
    before = drawn()
    assert next(both).tobytes() == before
    opened.set_loras({lora: -1})
    (last,) = both
    opened.clear_loras()
    assert last.tobytes() == sampling.pictures(opened, [Request("a cat", 2)], settings)[0].tobytes()


@pytest.mark.parametrize("kind", ["eager", "compiled"])
def test_pipelines_see_every_swap_and_what_was_put_into_a_part_stays(
    kind: str, sd1: Path, compiled: Path, lora: Path, other: Path
):
    opened = tenshot.load(sd1 if kind == "eager" else compiled)
    held = [opened.unet, opened.vae, opened["text_encoder"]]
    before = answers(dict(zip(NETS, held, strict=True)))
    opened.vae.enable_tiling()
    for _ in range(2):
        opened.load_weights(other)
        opened.set_loras({lora: 1})
    assert [opened[part] for part in NETS] == held
    assert opened.vae.use_tiling
    opened.vae.disable_tiling()
    now = answers(dict(zip(NETS, held, strict=True)))
    assert not any(torch.equal(one, two) for one, two in zip(before, now, strict=True))
    opened.load_weights(opened.place)
    assert all(map(torch.equal, before, answers(dict(zip(NETS, held, strict=True)))))


def test_a_learned_word_stays_when_weights_are_exchanged(sd1: Path, compiled: Path, other: Path, lora: Path):
    for place in (sd1, compiled):
        opened = tenshot.load(place)
        plain = opened.condition(["a cat"], (64, 64))["encoder_hidden_states"]
        rows = {"text_encoder": torch.randn(2, 16, generator=torch.Generator().manual_seed(0))}
        taught = opened.with_word("<az>", rows)
        first = taught.condition(["a <az>"], (64, 64))["encoder_hidden_states"]
        taught.load_weights(other)
        taught.set_loras({lora: 1})
        assert not torch.equal(taught.condition(["a <az>"], (64, 64))["encoder_hidden_states"], first)
        taught.load_weights(opened.place)
        assert torch.equal(taught.condition(["a <az>"], (64, 64))["encoder_hidden_states"], first)
        assert torch.allclose(taught.condition(["a cat"], (64, 64))["encoder_hidden_states"], plain, atol=1e-5)


def swapped(opened: FastModel, times: int, lora: Path, other: Path, stop: Callable[[], Any]) -> None:
    """A, B, A over and over, with interruptions that `stop` makes; afterwards all is as it was, memory too."""
    opened.set_loras({lora: 1})
    with_lora = weights(opened)
    opened.clear_loras()
    base = weights(opened)
    process, held = psutil.Process(), 0
    for number in range(times):
        with stop():
            opened.set_loras({lora: 1})
            assert same(weights(opened), with_lora)
            opened.clear_loras()
        found = weights(opened)
        assert same(found, base) or same(found, with_lora)
        if number == times // 5:
            held = process.memory_info().rss
    opened.clear_loras()
    assert same(weights(opened), base)
    assert process.memory_info().rss < held + 20_000_000


def test_many_swaps_with_interruptions_are_exact_and_memory_stays_flat(sd1: Path, lora: Path, other: Path):
    dice = random.Random(1)
    swapped(tenshot.load(sd1), 60, lora, other, lambda: stopped_after(dice.randrange(1, 20_000)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["eager", "compiled"])
def test_a_thousand_swaps_with_real_signals(kind: str, sd1: Path, compiled: Path, lora: Path, other: Path):
    dice = random.Random(2)

    @contextmanager
    def interrupted() -> Iterator[None]:
        timer = threading.Timer(dice.uniform(0, 0.3), lambda: os.kill(os.getpid(), signal.SIGINT))
        try:
            timer.start()
            try:
                yield
            finally:
                timer.cancel()
                timer.join()
        except KeyboardInterrupt:
            pass

    swapped(tenshot.load(sd1 if kind == "eager" else compiled), 500, lora, other, interrupted)


def test_one_noun_one_shape(sd1: Path, compiled: Path, lora: Path):
    plain, fast = tenshot.load("pocket"), tenshot.load(compiled)
    names = {name for name in dir(fast) if not name.startswith("_")}
    assert names == {name for name in dir(plain) if not name.startswith("_")}
    assert {"unet", "vae", "load_weights", "set_loras", "clear_loras"} <= names
    with warnings.catch_warnings():
        warnings.simplefilter("error", Slow)
        assert isinstance(generate_one(plain), Image.Image)


def generate_one(opened: FastModel) -> Image.Image:
    return sampling.pictures(opened, [Request("a cat", 1)], Settings(steps=1))[0]


def test_what_torch_draws_with_a_lora_is_what_merge_makes(sd1: Path, lora: Path, tmp_path: Path):
    opened = tenshot.load(sd1)
    opened.set_loras({lora: 0.6})
    assert all(map(torch.equal, answers(opened), answers(merged(sd1, {lora: 0.6}, tmp_path / "merged"))))
    given = {"model": str(sd1), "prompt": ["a cat"], "steps": 2, "seed": 1, "lora": [f"{lora}=0.4", f"{lora}=0.2"]}
    (told,) = generate.generate(resolve(generate.GenerateOptions, given | {"out": tmp_path / "out"}), Events())[
        "pictures"
    ]
    (wanted,) = sampling.pictures(model.load(str(tmp_path / "merged")), [Request("a cat", 1)], Settings(steps=2))
    assert Image.open(told["file"]).tobytes() == wanted.tobytes()
