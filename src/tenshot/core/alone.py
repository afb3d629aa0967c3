"""Work in a fresh process, so that its peak memory and its threads are its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

import torch

from tenshot.core import distributed
from tenshot.core.errors import Refusal

T = TypeVar("T")


def alone(work: Callable[..., T], *given: object, what: str) -> T:
    """What `work(*given)` answers. Raises what it raises; RuntimeError where its process died. what: its name then."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(there, torch.get_num_threads(), work, *given))
    process.start()
    there.close()
    answer: T | Exception
    try:
        answer = here.recv()
    except EOFError:
        answer = EOFError()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{what}: the process ended ({process.exitcode}); is there enough memory?")
    if isinstance(answer, Exception):
        raise answer
    return answer


def _work(pipe: Connection, threads: int, work: Callable[..., object], *given: object) -> None:
    distributed.tie()
    torch.set_num_threads(threads)
    try:
        pipe.send(work(*given))
    except (Refusal, RuntimeError, MemoryError, ValueError) as error:
        pipe.send(error)
