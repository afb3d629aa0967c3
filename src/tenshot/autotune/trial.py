"""One candidate in a process of its own: built, checked, timed in turns with torch. Whatever it does, we go on."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from tenshot.autotune import PARENT, timing
from tenshot.autotune.calibration import Tensors
from tenshot.autotune.timing import Spread
from tenshot.core import device, distributed
from tenshot.core.errors import Cancelled, Refusal
from tenshot.model import model
from tenshot.runtime import rewrites
from tenshot.runtime.artifact import CONTROLNET, MODEL
from tenshot.runtime.backend import Candidate, Job, Runner
from tenshot.runtime.flat_modules import SECTIONS, Flat, flat

PATIENCE = 5.0  # seconds that a process has to end by itself, once it has answered


@dataclass(frozen=True)
class Trial:
    """artifact: the folder with model/. calls: a file with the inputs and torch's outputs. folder: for the program."""

    artifact: Path
    section: str
    candidate: Candidate
    calls: Path
    folder: Path
    rounds: int
    where: str


@dataclass(frozen=True)
class TrialResult:
    """failed: why there is no program; empty where there is one. error: the largest over all calls, relative.

    build, load, swap, seconds, plain: in seconds; plain is torch's time in float32. peak: memory in bytes.
    spread: of the speedup, from turn to turn; None where nothing was timed.
    """

    candidate: Candidate
    failed: str = ""
    error: float = 0.0
    build: float = 0.0
    load: float = 0.0
    swap: float = 0.0
    seconds: float = 0.0
    plain: float = 0.0
    peak: int = 0
    folder: Path = field(default_factory=Path)
    spread: Spread | None = None

    @property
    def speedup(self) -> float:
        """Over torch in float32."""
        return timing.speedup(self.plain, self.seconds)

    @property
    def faster(self) -> bool:
        """Than torch in float32, for certain."""
        return self.speedup > 1 if self.spread is None else timing.certain(self.spread)


def run(trial: Trial, limit: float, cancelled: Callable[[], bool] = lambda: False) -> TrialResult:
    """Its outcome after at most `limit` seconds; a crash, a hang and a refusal are outcomes, too. Raises Cancelled."""
    context = _context()
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(there, trial, torch.get_num_threads()))
    os.environ[PARENT] = str(os.getpid())
    try:
        process.start()
        there.close()
        found = here.recv() if _ready(here, limit, cancelled) else f"was not done after {limit:.0f} s"
    except EOFError:
        process.join()
        found = f"its process died: {distributed.death(process.exitcode)}"
    except BaseException:
        _end(process, 0)
        raise
    _end(process, PATIENCE)
    return TrialResult(trial.candidate, failed=found) if isinstance(found, str) else found


@lru_cache
def _context() -> Any:
    """Fresh processes; where the system can, those of a server that has torch imported already."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tenshot.autotune.forkserver"])
    return context


def _ready(pipe: Connection, limit: float, cancelled: Callable[[], bool]) -> bool:
    end = time.monotonic() + limit
    while not pipe.poll(min(0.5, max(0.0, end - time.monotonic()))):
        if cancelled():
            raise Cancelled("stopped while compiling; nothing was written")
        if time.monotonic() >= end:
            return False
    return True


def _end(process: BaseProcess, patience: float) -> None:
    """Also what hangs, and the compilers it has started."""
    if process.pid is not None:
        process.join(patience)
        distributed.end(process.pid)
        process.join()


def _work(pipe: Connection, trial: Trial, threads: int) -> None:
    if hasattr(os, "setsid"):
        os.setsid()  # a group of its own, by which its compilers are found even when it is dead
    distributed.tie()
    with _quiet(trial.folder):
        torch.set_num_threads(threads)
        try:
            pipe.send(_outcome(trial))
        except Refusal as refusal:
            pipe.send("; ".join(f"{fault.where}: {fault.found}" for fault in refusal.faults))
        except MemoryError as error:
            pipe.send(f"out of memory: {error}")
        except Exception as error:
            traceback.print_exc()
            pipe.send(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}")


@contextlib.contextmanager
def _quiet(folder: Path) -> Iterator[None]:
    """What backends print goes into a log beside the program."""
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        sys.stdout.flush()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        yield


def _outcome(trial: Trial) -> TrialResult:
    where = device.pick(trial.where)
    told = torch.load(trial.calls)
    inputs, outputs = told["inputs"], told["outputs"]
    device.reset_max_memory_allocated()
    job = Job(opened(trial.artifact, trial.section, where), [_on(each, where) for each in inputs])
    build, _ = timing.seconds(partial(rewrites.build, job, trial.candidate, trial.folder))
    del job
    net = opened(trial.artifact, trial.section, where)  # building may have left other numbers in the first
    load, runner = timing.seconds(
        lambda: _loaded(rewrites.load_program(trial.folder, trial.candidate, net, where), net)
    )
    swap, _ = timing.seconds(lambda: runner.load(net.weights()))
    error = max(apart(runner(*_on(given, where)), wanted) for given, wanted in zip(inputs, outputs, strict=True))
    example = _on(inputs[0], where)
    turns = timing.in_turns(lambda: _plain(net, example), lambda: runner(*example), trial.rounds)
    plain, mine = turns.seconds
    peak = device.max_memory_allocated()
    return TrialResult(trial.candidate, "", error, build, load, swap, mine, plain, peak, trial.folder, turns.spread)


def opened(artifact: Path, section: str, where: torch.device) -> Flat:
    """A section's plain net, in float32."""
    part = SECTIONS[section]
    if part == "controlnet":
        return flat(section, model.load_controlnet(artifact / CONTROLNET, where))
    return flat(section, model.load_component(artifact / MODEL, part, where))


def _loaded(runner: Runner, net: Flat) -> Runner:
    runner.load(net.weights())
    return runner


@torch.no_grad()
def _plain(net: Flat, example: Tensors) -> Tensors:
    answer: Tensors = net(*example)
    return answer


def _on(tensors: Tensors, where: torch.device) -> Tensors:
    return tuple(each.to(where) for each in tensors)


def apart(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    """|found - wanted| / |wanted|, all outputs together. Raises Refusal where a number is not finite."""
    away = whole = 0.0
    for one, other in zip(found, wanted, strict=True):
        away += float((one.cpu().double() - other.double()).square().sum())
        whole += float(other.double().square().sum())
    error = (away / whole) ** 0.5 if whole else float(away > 0)
    if error != error or error == float("inf"):
        raise RuntimeError("answers with numbers that are not finite")
    return error
