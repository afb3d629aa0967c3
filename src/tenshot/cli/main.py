"""The command line's door. It imports nothing slow: Ctrl-C and SIGTERM are answered from the first moment on."""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # the module typing takes a moment in which Ctrl-C may come
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    Handler = Callable[[int, FrameType | None], object] | int | None

STOPPED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. The exit code: 0 done, 1 failed unexpectedly, 2 refused, 130 stopped, 141 nobody listens."""
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    words = [word for word in words if word != "--json"]
    before = _stop_at_once(as_json)
    try:
        from tenshot.cli import commands

        return commands.run(words, as_json)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop_at_once(as_json: bool) -> dict[int, Handler]:
    """Until a verb knows how to stop where it is safe, there is nothing to lose. The handlers before come back.

    Nothing is raised: an exception in the midst of importing a library in C is not always survived.
    """

    def stop(number: int, frame: object) -> None:
        try:
            os.write(2, b"stopped before the work began\n")
            os.write(1, b'{"error": "cancelled", "message": "stopped before the work began"}\n' if as_json else b"")
        finally:  # nobody may read it
            os._exit(STOPPED)

    before: dict[int, Handler] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # nohup and its like mean it
                before[number] = signal.signal(number, stop)
    except ValueError:  # in another thread than the main one
        return {}
    return before
