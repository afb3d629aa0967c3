"""What the process that trials are forked from imports: torch, once for all. It ends with its parent meanwhile, too.

(Afterwards multiprocessing sees to that. No thread is left when the first trial is forked.)
"""

from __future__ import annotations

import os
import threading

from tenshot.autotune import PARENT

_over = threading.Event()


def _watch(parent: int) -> None:
    while not _over.wait(0.2):
        if os.getppid() != parent:
            os._exit(1)


_thread = threading.Thread(target=_watch, args=(int(os.environ.get(PARENT, os.getppid())),), daemon=True)
_thread.start()

import tenshot.autotune.trial  # noqa: E402, F401

_over.set()
_thread.join()
