"""Several processes on one job. Alone, every function here does nothing; in company, all processes must call it.

A launcher (`--num_processes`, `accelerate launch`, torchrun) says through the environment who is who.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    import torch

TIED = "TENSHOT_TIED"  # set in processes whose standard input ends when their launcher does
PATIENCE = timedelta(days=1)  # with the first process, while it alone draws, encodes or writes


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """The number of this process among those on this machine: which GPU is its own."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_main_process() -> bool:
    """Is this the process that talks and writes?"""
    return rank() == 0


def join(cpu: bool) -> None:
    """Meet the others. cpu: compute on CPUs, where there are GPUs too."""
    if world_size() > 1:
        if os.environ.pop(TIED, ""):
            tie(lambda: os.read(0, 1))
        _state(cpu)


@lru_cache
def _state(cpu: bool) -> Any:
    from accelerate import PartialState

    return PartialState(cpu=cpu, timeout=PATIENCE)


@contextmanager
def main_process_first() -> Iterator[None]:
    """The first process does the block alone; then the others, who find done what it did."""
    if not is_main_process():
        wait_for_everyone()
    try:
        yield
    finally:
        if is_main_process():
            wait_for_everyone()


def wait_for_everyone() -> None:
    """Until all are here."""
    if world_size() > 1:
        import torch.distributed as dist

        dist.barrier()


def mean(value: float, where: torch.device) -> float:
    """Over the processes, so that all decide alike. where: what they compute on."""
    if world_size() == 1:
        return value
    import torch
    import torch.distributed as dist

    total = torch.tensor(value, dtype=torch.float64, device=where)
    dist.all_reduce(total)
    return total.item() / world_size()


def launch(words: Sequence[str], processes: int) -> int:
    """Run `tenshot WORDS` in as many processes on this machine; the worst exit code comes back."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = max(1, (os.cpu_count() or 1) // processes)
    shared = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = []
    for number in range(processes):
        own = {"OMP_NUM_THREADS": threads} | shared | {"RANK": number, "LOCAL_RANK": number, TIED: 1}
        environment = os.environ | {name: str(value) for name, value in own.items()}
        command = [sys.executable, "-m", "tenshot", *words]
        running.append(subprocess.Popen(command, env=environment, stdin=subprocess.PIPE))
    # Each of them hears Ctrl-C and a closing terminal and stops in its own good time; SIGTERM may reach only this one.
    everyones = [getattr(signal, name) for name in ("SIGINT", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]
    before = {each: signal.signal(each, signal.SIG_IGN) for each in everyones}
    before[signal.SIGTERM] = signal.signal(signal.SIGTERM, lambda *_: _terminate(running))
    try:
        return _worst(running)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(running: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in running:
        process.terminate()


def _worst(running: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all. When one fails, the others would wait for it in vain: they are ended, and its exit code counts."""
    waiting = list(running)
    while waiting:
        for process in list(waiting):
            try:
                code = process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
            waiting.remove(process)
            if code != 0:
                for other in waiting:
                    _end(other)
                return code if code > 0 else 1
    return 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """Give it a moment to finish by itself: all refuse for the same reason."""
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def tie(parent: Callable[[], object] | None = None) -> None:
    """End this process, and all that it has started, when its parent ends, however that comes about.

    parent: returns when that has ended; None: this process was made by multiprocessing, which knows.
    """
    made_by = multiprocessing.parent_process()
    wait = parent or (made_by.join if made_by else None)

    def watch() -> None:
        assert wait is not None
        wait()
        end(os.getpid())

    if wait is not None:
        threading.Thread(target=watch, daemon=True).start()


def end(pid: int) -> None:
    """End a process with all that it has started; where it leads a group, also what of that outlived its own parent."""
    family: list[psutil.Process] = []
    with suppress(psutil.Error):
        family = psutil.Process(pid).children(recursive=True)
        family.append(psutil.Process(pid))
    for each in family[:-1]:
        _kill(each)
    if hasattr(os, "killpg"):
        with suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
    for each in family[-1:]:
        _kill(each)


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.Error):
        process.kill()
