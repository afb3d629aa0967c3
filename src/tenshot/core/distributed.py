"""Several processes on one job. Alone, every function here does nothing; in company, all processes must call it.

A launcher (`--num_processes`, `accelerate launch`, torchrun) says through the environment who is who.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    import torch

STOPPED = 130  # the exit code after Ctrl-C
TIED = "TENSHOT_TIED"  # the launcher's process, for those that end with it
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
        if launcher := os.environ.pop(TIED, ""):
            tie(psutil.Process(int(launcher)).wait)
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
    """Run `tenshot WORDS` in as many processes on this machine, by torchrun; the exit code of one that failed, or 0.

    A Ctrl-C, and the end that a service manager or a closing terminal asks for, reach each of them: they stop in their
    own good time. When one fails, the others would wait for it in vain: they are asked to stop, too.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ |= {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes)), TIED: str(os.getpid())}
    known = [getattr(signal, name, None) for name in ("SIGTERM", "SIGINT", "SIGHUP")]
    heard = ",".join(each.name for each in known if each and signal.getsignal(each) != signal.SIG_IGN)  # nohup means it
    patience = f"--shutdown_timeout={int(PATIENCE.total_seconds())}"
    given = ["--standalone", f"--nproc_per_node={processes}", f"--signals_to_handle={heard}", patience]
    logging.disable()  # the processes say themselves what is wrong
    try:
        run.run(run.parse_args([*given, "--module", "tenshot", *words]))
    except ChildFailedError as error:
        return next((each.exitcode for each in error.failures.values() if each.exitcode > 0), 1)
    except SignalException:
        return STOPPED
    return 0


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


def death(code: int | None) -> str:
    """What a process ended of, in words."""
    if code is not None and code < 0:
        with suppress(ValueError):
            name = signal.Signals(-code).name
            return f"{name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
    return f"exit code {code}"


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
