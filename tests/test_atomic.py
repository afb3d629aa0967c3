"""A swap happens whole or not at all, whatever stops it."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event as EventType
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

import tenshot
from tenshot.core.errors import Refusal
from tenshot.io import tensor_files
from tenshot.runtime import weights as fast_weights
from tenshot.runtime import wrappers
from tenshot.runtime.backends.openvino import OpenVINO
from tenshot.runtime.compiled_model import CompiledModel
from tests.dreambooth_runs import files
from tests.swaps import same, state, weights

OURS = str(Path(tenshot.__file__).parent)


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


@pytest.fixture(params=["eager", "compiled"])
def opened(request: pytest.FixtureRequest, sd1: Path) -> CompiledModel:
    return tenshot.load(sd1 if request.param == "eager" else request.getfixturevalue("sd1_fast"))


@pytest.mark.parametrize("moments", [6, pytest.param(40, marks=pytest.mark.slow)])
def test_a_swap_that_is_stopped_anywhere_leaves_the_old_or_the_new(
    moments: int, opened: CompiledModel, sd1_lora: Path, sd1_tuned: Path
):
    base = state(opened)
    swaps: dict[str, Callable[[], None]] = {
        "set": lambda: opened.set_loras({sd1_lora: 0.7}),
        "load": lambda: opened.load_weights(sd1_tuned),
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
    for number in range(moments):
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
    [
        (tensor_files, "_read", 110),
        (wrappers, "exchanged", 2),
        (OpenVINO, "load", 1),
        pytest.param(fast_weights, "_like", 70, marks=pytest.mark.slow),
    ],
)
def test_an_error_leaves_the_old(
    place: Any, name: str, call: int, sd1_fast: Path, sd1_lora: Path, sd1_tuned: Path, monkeypatch: pytest.MonkeyPatch
):
    opened = tenshot.load(sd1_fast)
    base = state(opened)
    opened.set_loras({sd1_lora: 0.5})
    before = state(opened)
    with failing_after(call, place, name, monkeypatch):
        opened.load_weights(sd1_tuned)
    assert same(state(opened), before)
    opened.clear_loras()
    assert same(state(opened), base)


def test_two_swaps_at_once_are_made_one_after_the_other(
    sd1: Path, sd1_lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each LoRA changes other weights: what the one has put there must not be the other's base."""
    opened, real, begun = tenshot.load(sd1), fast_weights.with_loras, threading.Semaphore(0)
    base = weights(opened)
    for part in ("unet", "text_encoder"):
        named = {name: tensor for name, tensor in load_file(sd1_lora).items() if name.startswith(f"{part}.")}
        save_file(named, tmp_path / f"{part}.safetensors")

    def slow(*given: Any) -> Any:
        made = real(*given)
        begun.release()
        time.sleep(0.5)  # in which the other one would come in
        return made

    with monkeypatch.context() as patched:
        patched.setattr(fast_weights, "with_loras", slow)
        swaps = [
            threading.Thread(target=opened.set_loras, args=({tmp_path / f"{part}.safetensors": 1},))
            for part in ("unet", "text_encoder")
        ]
        swaps[0].start()
        begun.acquire()
        swaps[1].start()
        for each in swaps:
            each.join()
    changed = {name for name, each in weights(opened).items() if not torch.equal(each, base[name])}
    assert changed and all(name.startswith("text_encoder.") for name in changed)  # the later one's, and no other's
    opened.clear_loras()
    assert same(weights(opened), base)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), -float("inf"), "much", None, True, 1e39, 10**400])
def test_strengths_that_are_none_are_refused(strength: Any, sd1: Path, sd1_lora: Path):
    opened = tenshot.load(sd1)
    opened.set_loras({sd1_lora: 0.5})
    before = weights(opened)
    with pytest.raises(Refusal, match="finite"):
        opened.set_loras({sd1_lora: strength})
    assert same(weights(opened), before)


def swapped(opened: CompiledModel, times: int, lora: Path, stopped: Callable[[Callable[[], None]], None]) -> None:
    """A, B, A over and over, each stopped somewhere by `stopped`; afterwards all is as it was, memory too."""
    opened.set_loras({lora: 1})
    with_lora = weights(opened)
    opened.clear_loras()
    base = weights(opened)
    process, held, seen = psutil.Process(), 0, set()

    def there_and_back() -> None:
        opened.set_loras({lora: 1})
        assert same(weights(opened), with_lora)
        opened.clear_loras()

    for number in range(times):
        stopped(there_and_back)
        found = weights(opened)
        assert same(found, base) or same(found, with_lora)
        seen.add(same(found, base))
        if number == times // 5:
            held = process.memory_info().rss
    assert seen == {True, False}
    opened.clear_loras()
    assert same(weights(opened), base)
    assert process.memory_info().rss < held + 20_000_000


def test_many_swaps_with_interruptions_are_exact_and_memory_stays_flat(sd1: Path, sd1_lora: Path):
    dice, opened = random.Random(1), tenshot.load(sd1)
    with stopped_after(10**9) as left:
        opened.set_loras({sd1_lora: 1})
        opened.clear_loras()
    lines = 10**9 - left[0]

    def stopped(work: Callable[[], None]) -> None:
        with stopped_after(dice.randrange(1, lines)):
            work()

    swapped(opened, 30, sd1_lora, stopped)


def swap_on_and_on(ready: EventType, cache: Path, place: Path, lora: Path, other: Path) -> None:
    os.environ["TENSHOT_CACHE"] = str(cache)
    opened = tenshot.load(place)
    ready.set()
    while True:
        opened.set_loras({lora: 0.7})
        opened.load_weights(other)


@pytest.mark.parametrize("kind", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
def test_a_kill_in_the_midst_of_swaps_loses_nothing(
    kind: str, sd1_lora: Path, sd1_tuned: Path, tmp_path: Path, request
):
    place = request.getfixturevalue("sd1" if kind == "eager" else "sd1_fast")
    own = [Path(shutil.copytree(each, tmp_path / each.name)) for each in (place, sd1_tuned)]
    own.insert(1, Path(shutil.copyfile(sd1_lora, tmp_path / sd1_lora.name)))
    before, dice = files(tmp_path), random.Random(3)
    wanted = state(with_lora(place, sd1_lora))
    context = multiprocessing.get_context("fork" if kind == "eager" else "spawn")  # programs have threads
    for _ in range(5):
        ready = context.Event()
        running = context.Process(target=swap_on_and_on, args=(ready, tmp_path / "cache", *own))
        running.start()
        assert ready.wait(60)
        time.sleep(dice.uniform(0, 0.5))
        running.kill()
        running.join()
        assert running.exitcode == -signal.SIGKILL
        assert files(tmp_path) == before
    assert same(state(with_lora(own[0], own[1])), wanted)


def with_lora(place: Path, lora: Path) -> CompiledModel:
    opened = tenshot.load(place)
    opened.set_loras({lora: 0.7})
    return opened


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "times"), [("eager", 500), ("compiled", 60)])
def test_a_thousand_swaps_with_real_signals(kind: str, times: int, sd1: Path, sd1_fast: Path, sd1_lora: Path):
    dice, armed, opened = random.Random(2), False, tenshot.load(sd1 if kind == "eager" else sd1_fast)
    start = time.monotonic()
    opened.set_loras({sd1_lora: 1})
    opened.clear_loras()
    span = time.monotonic() - start

    def heard(*_: object) -> None:
        if armed:
            raise Stopped

    def stopped(work: Callable[[], None]) -> None:
        nonlocal armed
        timer = threading.Timer(dice.uniform(0, span), os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            armed = True
            work()
            armed = False
        except Stopped:
            armed = False
        timer.cancel()
        timer.join()

    before = signal.signal(signal.SIGINT, heard)
    try:
        swapped(opened, times, sd1_lora, stopped)
    finally:
        signal.signal(signal.SIGINT, before)
