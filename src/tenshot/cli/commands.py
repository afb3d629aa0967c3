"""Words in, a verb done: what was typed is found in the table, its options are read, its result is told."""

from __future__ import annotations

import difflib
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tenshot
from tenshot.cli import verbs
from tenshot.cli.output import Outlet, Unheard
from tenshot.cli.verbs import Name
from tenshot.core.errors import Cancelled, Fault, Refusal

if TYPE_CHECKING:
    from tenshot.core.events import Events
    from tenshot.core.options import Options

DONE, FAILED, REFUSED, STOPPED, UNHEARD = 0, 1, 2, 130, 141


def run(words: Sequence[str], as_json: bool) -> int:
    """Do what `words` say. The exit code comes back."""
    outlet = Outlet(as_json, talks=os.environ.get("RANK", "0") == "0")  # of several processes, one talks
    try:
        return _answered(words, outlet)
    except Unheard as error:
        return UNHEARD if error.nobody_reads else FAILED


def _answered(words: Sequence[str], outlet: Outlet) -> int:
    try:
        path, rest = verbs.find(words)
        if path in verbs.VERBS and not {"--help", "-h"} & {*rest}:
            return execute(path, rest, outlet)
        outlet.text(_about(path, rest))
        return DONE
    except Refusal as refusal:
        outlet.refusal(refusal)
        return REFUSED
    except Cancelled as cancelled:
        outlet.stopped(str(cancelled))
        return STOPPED
    except KeyboardInterrupt:
        outlet.stopped("stopped at once")
        return STOPPED
    except Unheard:
        raise
    except Exception as error:
        outlet.failed(error)
        return FAILED


def _about(path: Name, rest: Sequence[str]) -> str:
    """What is said of a verb, or of a level of the table, instead of doing something."""
    from tenshot.cli import completion, help_text

    if path in verbs.VERBS:
        return help_text.of_verb(path, verbs.load(verbs.VERBS[path].options))
    if not rest or rest[0] in ("--help", "-h"):
        return help_text.of_group(path)
    if not path and rest[0] == "--version":
        return f"tenshot {tenshot.__version__}"
    if not path and rest[0] == "--show-completion":
        return completion.SCRIPTS.get(Path(os.environ.get("SHELL", "")).stem, completion.SCRIPTS["bash"])
    if not path and rest[0] == completion.ASKED:
        return "\n".join(completion.completed(os.environ.get("COMP_LINE", "")))
    raise Refusal(_unknown(path, rest[0]))


Work = Callable[["Options", "Events"], Mapping[str, object]]


def execute(path: Name, words: Sequence[str], outlet: Outlet) -> int:
    """Read the verb's options from `words`, do its work, tell its result. The exit code comes back.

    Raises Refusal, also where memory or disk ran out; Cancelled after Ctrl-C; whatever else the verb raises.
    """
    from tenshot.cli.console import Console, Interrupt, LogFile
    from tenshot.core import distributed
    from tenshot.core.events import EventGroup
    from tenshot.core.options import gather
    from tenshot.core.os_errors import in_our_words

    verb = verbs.VERBS[path]
    notes: list[str] = []
    options = gather(verbs.load(verb.options), words, notes.append)
    wanted = getattr(options, "num_processes", 1)
    if wanted > 1 and distributed.world_size() == 1:
        return distributed.launch([*path, *words, *(["--json"] if outlet.as_json else [])], wanted)
    work: Work = verbs.load(verb.run)  # while Ctrl-C still ends everything at once
    folder = options.home if distributed.is_main_process() else None
    log = LogFile(
        folder and folder / "tenshot.log", f"{shlex.join(['tenshot', *path, *words])}  [tenshot {tenshot.__version__}]"
    )
    # What a library prints must not get between the result and its reader.
    with log, in_our_words(options), Interrupt() as interrupt, Console() as console, redirect_stdout(sys.stderr):
        events = EventGroup(*((console, log, interrupt) if distributed.is_main_process() else (interrupt,)))
        for note in notes:
            events.say(note)
        with _warnings_told(events):
            result = dict(work(options, events))
    own = result.pop("next", None)
    onward = [*own] if isinstance(own, list | tuple) else [*options.next_commands()]
    outlet.result({**result, "next": onward} if onward else result)
    return DONE


@contextmanager
def _warnings_told(events: Events) -> Iterator[None]:
    """Our own warnings go where everything is said; those of others stay as they are."""
    show = warnings.showwarning

    def tell(message: Any, category: type[Warning], *more: Any, **named: Any) -> None:
        if category.__module__.partition(".")[0] == "tenshot":
            events.say(str(message))
        else:
            show(message, category, *more, **named)

    with warnings.catch_warnings():
        warnings.showwarning = tell
        yield


def _unknown(group: Name, name: str) -> Fault:
    """An unknown verb: near matches at this level, or the same name elsewhere in the table."""
    level = {path[: len(group) + 1] for path in verbs.VERBS if path[: len(group)] == group}
    near = [path for path in level | set(verbs.VERBS) if difflib.get_close_matches(name, [path[-1]], cutoff=0.65)]
    fits = " or ".join(sorted(shlex.join(["tenshot", *path]) for path in near or level))
    more = shlex.join(["tenshot", *group, "--help"])
    return Fault(shlex.join(["tenshot", *group, name]), "no such verb", fits, f"{more} lists them")
