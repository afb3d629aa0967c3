"""A real server, as the command line starts it, on a free port of loopback.

In a process of its own: tests that set the clock back would stop an event loop in theirs.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 600.0  # a busy machine takes minutes to start a server


class Running:
    """url: where it answers. said: what it printed to stderr. answered: what it told at its end."""

    program: tuple[str, ...] = ("-m", "tenshot")

    def __init__(self, *words: object) -> None:
        command = [sys.executable, *self.program, "serve", *map(str, words), "--port=0", "--device=cpu", "--json"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.said: list[str] = []
        self.answered: dict[str, int] = {}
        self._ready = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()
        self._ready.wait(PATIENCE)
        found = re.search(r"(http://\S+): ready", "".join(self.said))
        if not found:
            self.process.kill()
            raise AssertionError("".join(self.said))
        self.url = found[1]
        self.port = int(self.url.rpartition(":")[2])

    def _listen(self) -> None:
        for line in self.process.stderr:
            self.said.append(line)
            if ": ready" in line:
                self._ready.set()
        self._ready.set()

    def stop(self) -> None:
        """As Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        try:
            told = self.process.stdout.read()
            assert self.process.wait(PATIENCE) == 0, "".join(self.said)
            self.answered = json.loads(told)["answered"]
        finally:
            self.process.kill()


@contextmanager
def running(*words: object) -> Iterator[Running]:
    """words: of the command line."""
    found = Running(*words)
    try:
        yield found
    finally:
        found.stop()
