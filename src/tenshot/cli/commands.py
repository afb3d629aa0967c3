"""Words in, a verb done: what was typed is found in the table, its options are read, its result is told."""

from __future__ import annotations

import difflib
import inspect
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import tenshot
from tenshot.cli import verbs
from tenshot.cli.output import Outlet, Unheard
from tenshot.cli.verbs import Name
from tenshot.core.errors import Cancelled, Fault, Refusal

if TYPE_CHECKING:
    from tenshot.core.events import Events
    from tenshot.core.options import Entry, Options

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
        with outlet.hearing():
            found: Any = _command().main(list(words), prog_name="tenshot", standalone_mode=False)
        return execute(found[0], found[1], outlet) if isinstance(found, tuple) else found or DONE
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


Work = Callable[["Options", "Events"], Mapping[str, object]]


def execute(path: Name, words: Sequence[str], outlet: Outlet) -> int:
    """Read the verb's options from `words`, do its work, tell its result. The exit code comes back.

    Raises Refusal, also where memory or disk ran out; Cancelled after Ctrl-C; whatever else the verb raises.
    """
    from tenshot.core import distributed
    from tenshot.core.options import gather

    verb = verbs.VERBS[path]
    notes: list[str] = []
    options = gather(_load(verb.options), words, notes.append)
    wanted = getattr(options, "num_processes", 1)
    if wanted > 1 and distributed.world_size() == 1:
        return distributed.launch([*path, *words, *(["--json"] if outlet.as_json else [])], wanted)
    work: Work = _load(verb.run)  # while Ctrl-C still ends everything at once
    result = dict(_followed(work, options, notes, shlex.join(["tenshot", *path, *words])))
    own = result.pop("next", None)
    onward = [*own] if isinstance(own, list | tuple) else [*options.next_commands()]
    outlet.result({**result, "next": onward} if onward else result)
    return DONE


def _followed(work: Work, options: Options, notes: Sequence[str], title: str) -> Mapping[str, object]:
    """The work with its log, its progress and its answer to Ctrl-C; what came of it."""
    from tenshot.cli.console import Console, Interrupt, LogFile
    from tenshot.core import distributed
    from tenshot.core.events import EventGroup
    from tenshot.core.os_errors import in_our_words

    folder = options.home if distributed.is_main_process() else None
    log = LogFile(folder and folder / "tenshot.log", f"{title}  [tenshot {tenshot.__version__}]")
    # What a library prints must not get between the result and its reader.
    with log, in_our_words(options), Interrupt() as interrupt, Console() as console, redirect_stdout(sys.stderr):
        listeners = (console, log, interrupt) if distributed.is_main_process() else (interrupt,)
        events = EventGroup(*listeners)
        for note in notes:
            events.say(note)
        with _warnings_told(events):
            return work(options, events)


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


class _Group(TyperGroup):
    """A level of the table. Listing it imports no verb."""

    path: Name = ()

    def list_commands(self, ctx: Any) -> list[str]:
        depth = len(self.path)
        return list(dict.fromkeys(path[depth] for path in verbs.VERBS if path[:depth] == self.path))

    def get_command(self, ctx: Any, name: str) -> Any:
        path = (*self.path, name)
        if path in verbs.VERBS:
            return _Command(path)
        if any(each[: len(path)] == path for each in verbs.VERBS):
            group = _Group(name=name, help=verbs.GROUPS.get(path, ""), context_settings=SETTINGS)
            group.path = path
            return group
        return None

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            raise Refusal(_unknown(self.path, args[0]))
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from tenshot.cli import help_text

        formatter.write(help_text.of_group(self.path))


class _Command(TyperCommand):
    """A verb. Typer completes its words; the words themselves are read as a whole by `gather`."""

    def __init__(self, path: Name) -> None:
        super().__init__(path[-1], help=verbs.VERBS[path].help, context_settings=SETTINGS)
        self.path = path

    def get_params(self, ctx: Any) -> list[Any]:
        if ctx.resilient_parsing and not self.params:
            self.params = _params(_load(verbs.VERBS[self.path].options))
        return super().get_params(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if ctx.resilient_parsing or {"--help", "-h"} & set(args):
            return super().parse_args(ctx, [word for word in args if word in ("--help", "-h")])
        ctx.args = args
        return args

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from tenshot.cli import help_text

        formatter.write(help_text.of_verb(self.path, _load(verbs.VERBS[self.path].options)))

    def invoke(self, ctx: Any) -> tuple[Name, list[str]]:
        return self.path, ctx.args


SETTINGS = {"help_option_names": ["--help", "-h"], "ignore_unknown_options": True}


def _command() -> Any:
    app = typer.Typer(cls=_Group, context_settings=SETTINGS, help=tenshot.__doc__)

    @app.callback()
    def root(version: Annotated[bool, typer.Option("--version", callback=_version)] = False) -> None:
        pass

    return typer.main.get_command(app)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tenshot {tenshot.__version__}")
        raise typer.Exit


def _params(kind: type[Options]) -> list[Any]:
    """Typer's parameters for the options of `kind`, by which it completes words; none is parsed."""
    from tenshot.core.options import entries

    def shown(**_: object) -> None: ...

    known = entries(kind)
    options = {name: _option(entry) for name, entry in known.items()}
    options |= {name: typer.Option(None, f"--{name}") for name in ("recipe", "json")}
    flags = {"json", *(name for name, entry in known.items() if entry.flag)}
    shown.__annotations__ = {name: bool if name in flags else str for name in options}
    keyword = inspect.Parameter.KEYWORD_ONLY
    shown.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(n, keyword, default=o, annotation=shown.__annotations__[n]) for n, o in options.items()]
    )
    app = typer.Typer(add_completion=False)
    app.command()(shown)
    return [param for param in typer.main.get_command(app).params if param.name in options]


def _option(entry: Entry) -> Any:
    choices = entry.choices
    return typer.Option(None, f"--{entry.name}", autocompletion=(lambda: choices) if choices else None)


def _load(place: str) -> Any:
    module, name = place.split(":")
    return getattr(import_module(module), name)


def _unknown(group: Name, name: str) -> Fault:
    """An unknown verb: near matches at this level, or the same name elsewhere in the table."""
    level = {path[: len(group) + 1] for path in verbs.VERBS if path[: len(group)] == group}
    near = [path for path in level | set(verbs.VERBS) if difflib.get_close_matches(name, [path[-1]], cutoff=0.65)]
    fits = " or ".join(sorted(shlex.join(["tenshot", *path]) for path in near or level))
    more = shlex.join(["tenshot", *group, "--help"])
    return Fault(shlex.join(["tenshot", *group, name]), "no such verb", fits, f"{more} lists them")
