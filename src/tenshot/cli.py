"""The command line: a table from verbs to functions. A verb's module is imported when the verb is called."""

from __future__ import annotations

import difflib
import errno
import inspect
import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import tenshot
from tenshot.errors import Cancelled, Fault, Refusal

if TYPE_CHECKING:
    from tenshot.console import Outlet
    from tenshot.events import Events
    from tenshot.options import Entry, Options

Name = tuple[str, ...]  #: a verb as typed: ("train", "dreambooth")


@dataclass(frozen=True)
class Verb:
    """run: "module:function" of (options, events), returning what to tell. options: "module:record" of its options."""

    run: str
    options: str
    help: str


VERBS: dict[Name, Verb] = {
    ("demo",): Verb("tenshot.demo:demo", "tenshot.demo:DemoOptions", "Teach the built-in model a subject, on any CPU."),
    ("generate",): Verb(
        "tenshot.generate:generate", "tenshot.generate:GenerateOptions", "Make pictures from a prompt."
    ),
    ("compile",): Verb(
        "tenshot.compile.verb:compile", "tenshot.compile.options:CompileOptions", "Make a model fast on this machine."
    ),
    ("convert",): Verb(
        "tenshot.convert.verb:convert", "tenshot.convert.options:ConvertOptions", "Translate files between programs."
    ),
    ("merge",): Verb("tenshot.merge:merge", "tenshot.merge:MergeOptions", "Put LoRAs into a model."),
    ("extract",): Verb(
        "tenshot.extract:extract", "tenshot.extract:ExtractOptions", "Turn the difference of two models into a LoRA."
    ),
    ("resize",): Verb("tenshot.extract:resize", "tenshot.extract:ResizeOptions", "Give a LoRA another rank."),
    ("inspect",): Verb(
        "tenshot.inspect:inspect", "tenshot.inspect:InspectOptions", "Say what a file is and what loads it."
    ),
    ("train", "dreambooth"): Verb(
        "tenshot.train.dreambooth:train",
        "tenshot.train.options:DreamBoothOptions",
        "Teach a model one subject from a few pictures: DreamBooth.",
    ),
    ("train", "lora"): Verb(
        "tenshot.train.lora:train", "tenshot.train.options:LoraOptions", "Teach a small adapter beside a model: LoRA."
    ),
    ("train", "textual-inversion"): Verb(
        "tenshot.train.inversion:train",
        "tenshot.train.options:TextualInversionOptions",
        "Teach new words only: textual inversion.",
    ),
    ("train", "full"): Verb(
        "tenshot.train.full:train", "tenshot.train.options:FullOptions", "Teach all of a model from captioned pictures."
    ),
    ("bench", "inference"): Verb(
        "tenshot.bench.inference:bench",
        "tenshot.bench.inference:BenchInferenceOptions",
        "Measure drawing on this machine.",
    ),
    ("bench", "train"): Verb(
        "tenshot.bench.train:bench", "tenshot.bench.train:BenchTrainOptions", "Measure training on this machine."
    ),
}
GROUPS: dict[Name, str] = {
    ("bench",): "Measure what this machine can do.",
    ("train",): "Teach a model, by one of several methods.",
}

NOTE = "A flag --FLAG is turned off with --no-FLAG. Names may be written with dashes or underscores."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. The exit code: 0 done, 1 failed unexpectedly, 2 refused, 130 stopped by Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    first = os.environ.get("RANK", "0") == "0"  # of several processes, one talks
    try:
        return (
            _command().main(
                [word for word in words if word != "--json"], prog_name="tenshot", standalone_mode=False, obj=as_json
            )
            or 0
        )
    except Refusal as refusal:
        if first:
            _outlet(as_json).refusal(refusal)
        return 2
    except Cancelled as cancelled:
        if first:
            _outlet(as_json).stopped(str(cancelled))
        return 130
    except Exception as error:
        _outlet(as_json).failed(error)
        return 1


def carry_out(path: Name, words: Sequence[str], as_json: bool) -> int:
    """Read the verb's options from `words`, do its work, tell its result. The exit code comes back.

    Raises Refusal, also where memory or disk ran out; Cancelled after Ctrl-C; whatever else the verb raises.
    """
    from tenshot import processes
    from tenshot.console import Console, Interrupt, LogFile
    from tenshot.events import Together
    from tenshot.options import gather

    verb = VERBS[path]
    options = gather(_load(verb.options), words)
    wanted = getattr(options, "num_processes", 1)
    if wanted > 1 and processes.count() == 1:
        return processes.launch([*path, *words, *(["--json"] if as_json else [])], wanted)
    folder = options.home if processes.first() else None
    title = shlex.join(["tenshot", *path, *words])
    log = LogFile(folder and folder / "tenshot.log", f"{title}  [tenshot {tenshot.__version__}]")
    # What a library prints must not get between the result and its reader.
    with log, _in_our_words(options), Interrupt() as interrupt, Console() as console, redirect_stdout(sys.stderr):
        listeners = (console, log, interrupt) if processes.first() else (interrupt,)
        events = Together(*listeners)
        with _warnings_told(events):
            result = _load(verb.run)(options, events)
    if processes.first():
        _outlet(as_json).result(result)
    return 0


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
        return list(dict.fromkeys(path[depth] for path in VERBS if path[:depth] == self.path))

    def get_command(self, ctx: Any, name: str) -> Any:
        path = (*self.path, name)
        if path in VERBS:
            return _Command(path)
        if any(each[: len(path)] == path for each in VERBS):
            group = _Group(name=name, help=GROUPS.get(path, ""), context_settings=SETTINGS)
            group.path = path
            return group
        return None

    def get_params(self, ctx: Any) -> list[Any]:
        return _bare(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            raise Refusal(_unknown(self.path, args[0]))
        return super().resolve_command(ctx, args)


class _Command(TyperCommand):
    """A verb. Typer renders its help and completes its words; the words themselves are read as a whole by `gather`."""

    def __init__(self, path: Name) -> None:
        super().__init__(path[-1], help=VERBS[path].help, epilog=NOTE, context_settings=SETTINGS)
        self.path = path

    def get_params(self, ctx: Any) -> list[Any]:
        if not self.params:
            self.params = _params(_load(VERBS[self.path].options))
        return _bare(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if ctx.resilient_parsing or {"--help", "-h"} & set(args):
            return super().parse_args(ctx, [word for word in args if word in ("--help", "-h")])
        ctx.args = args
        return args

    def invoke(self, ctx: Any) -> int:
        return carry_out(self.path, ctx.args, bool(ctx.obj))


SETTINGS = {"help_option_names": ["--help", "-h"], "ignore_unknown_options": True}


def _command() -> Any:
    app = typer.Typer(cls=_Group, context_settings=SETTINGS, help=tenshot.__doc__)

    @app.callback()
    def root(
        version: Annotated[
            bool, typer.Option("--version", help="Show the version and exit.", callback=_version)
        ] = False,
        json: Annotated[bool, typer.Option("--json", help=JSON)] = False,
    ) -> None:
        pass

    return typer.main.get_command(app)


JSON = "Answer with one JSON object on stdout, refusals too."


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tenshot {tenshot.__version__}")
        raise typer.Exit


def _params(kind: type[Options]) -> list[Any]:
    """Typer's parameters for the options of `kind`, for help and completion only: each is shown, none is parsed."""
    from tenshot.options import entries

    def shown(**_: object) -> None: ...

    flags, options = {"json"}, {}
    for name, entry in entries(kind).items():
        options[name] = _option(entry, kind)
        flags |= {name} if entry.flag else set()
    options["recipe"] = typer.Option(
        None, "--recipe", metavar="FILE", help="YAML file of options; the command line wins."
    )
    options["json"] = typer.Option(False, "--json", help=JSON, show_default=False)
    shown.__annotations__ = {name: bool if name in flags else str for name in options}
    keyword = inspect.Parameter.KEYWORD_ONLY
    shown.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(n, keyword, default=o, annotation=shown.__annotations__[n]) for n, o in options.items()]
    )
    app = typer.Typer(add_completion=False)
    app.command()(shown)
    return [param for param in typer.main.get_command(app).params if param.name in options]


def _option(entry: Entry, kind: type[Options]) -> Any:
    from tenshot.options import MISSING

    return typer.Option(
        ... if entry.default is MISSING else False if entry.flag else None,
        f"--{entry.name}",
        help=_help(entry),
        metavar=_metavar(entry),
        show_default=False,
        rich_help_panel=None if entry.section is kind else _title(entry.section),
        autocompletion=(lambda: entry.choices) if entry.choices else None,
    )


def _help(entry: Entry) -> str:
    """The description, what narrows the type, and the default."""
    from tenshot.options import MISSING, spell

    told = entry.default is not MISSING and entry.default not in (None, (), [], {}, "") and entry.default is not False
    facts = [entry.limits, f"default {spell(entry.default)}" if told else ""]
    text = f"{entry.description} ({'; '.join(filter(None, facts))})" if any(facts) else entry.description
    return text.replace("[", r"\[")  # rich would take brackets for markup


_METAVARS = {"integer": "INT", "number": "NUMBER", "string": "TEXT", "object": "NAME=VALUE..."}


def _metavar(entry: Entry) -> str:
    if "metavar" in entry.schema:
        return str(entry.schema["metavar"])
    if entry.many:
        items = [each.get("items", {}) for each in entry.alternatives]
        return (
            "PATH..." if "path" in items[0].get("format", "") else f"{_METAVARS.get(items[0].get('type'), 'VALUE')}..."
        )
    if entry.choices:
        return "CHOICE"
    if "path" in entry.form:
        return "PATH"
    return next((word for kind, word in _METAVARS.items() if kind in entry.kinds), "VALUE")


def _bare(params: list[Any]) -> list[Any]:
    """The same parameters; help shows no type for a flag."""
    for param in params:
        param.metavar = "" if param.is_flag else param.metavar
    return params


def _title(section: type[Options]) -> str:
    return (section.__doc__ or section.__name__).strip().splitlines()[0].rstrip(".")


def _load(place: str) -> Any:
    module, name = place.split(":")
    return getattr(import_module(module), name)


def _outlet(as_json: bool) -> Outlet:
    from tenshot.console import Outlet

    return Outlet(as_json)


def _unknown(group: Name, name: str) -> Fault:
    """An unknown verb: near matches at this level, or the same name elsewhere in the table."""
    level = {path[: len(group) + 1] for path in VERBS if path[: len(group)] == group}
    near = [path for path in level | set(VERBS) if difflib.get_close_matches(name, [path[-1]], cutoff=0.65)]
    fits = " or ".join(sorted(shlex.join(["tenshot", *path]) for path in near or level))
    help = shlex.join(["tenshot", *group, "--help"])
    return Fault(shlex.join(["tenshot", *group, name]), "no such verb", fits, f"{help} lists them")


@contextmanager
def _in_our_words(options: Options) -> Iterator[None]:
    """Turn errors that a person can mend, those of disk and memory, into refusals. Ctrl-C becomes Cancelled."""
    try:
        yield
    except KeyboardInterrupt:
        raise Cancelled("stopped at once; what was not yet in a checkpoint is lost") from None
    except (Refusal, Cancelled):
        raise
    except Exception as error:
        fault = _disk_fault(error, options) or _memory_fault(error, options)
        if fault is None:
            raise
        raise Refusal(fault) from error


_RESULTS = ("output_dir", "out", "save_to", "dst")  # options that say where a result goes


def _disk_fault(error: Exception, options: Options) -> Fault | None:
    """Libraries written in other languages tell a full disk in words only."""
    number = error.errno if isinstance(error, OSError) else None
    told = (getattr(options, name, None) for name in _RESULTS)
    place = Path(str(getattr(error, "filename", None) or next(filter(None, told), ".")))
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
        there = next((each for each in (place, *place.absolute().parents) if each.exists()), Path("/"))
        found = f"No space left on device: {shutil.disk_usage(there).free:,} bytes are free"
        return Fault(str(place), found, "a disk with room for the result", "make room there, or write elsewhere")
    if number == errno.EFBIG or "File too large" in str(error):
        fits = "a file system and a limit (ulimit -f) for a file of this size"
        return Fault(str(place), os.strerror(errno.EFBIG), fits, "write to another disk, or raise the limit")
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        found = os.strerror(number)
        return Fault(str(place), found, "a place that you may use", "change its permissions, or choose another")
    if number in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG):
        return Fault(str(place), os.strerror(number), "a free name in a folder", "choose another place")
    return None


_RELIEF = {
    "train_batch_size": "lower --train_batch_size (--gradient_accumulation_steps makes up for it)",
    "batch_size": "lower --batch_size",
    "resolution": "lower --resolution",
    "mixed_precision": "use --mixed_precision bf16",
    "gradient_checkpointing": "use --gradient_checkpointing",
    "fit_memory": "or let --fit_memory choose",
    "width": "lower --width and --height",
}


def _memory_fault(error: Exception, options: Options) -> Fault | None:
    from tenshot.device import out_of_memory

    if not out_of_memory(error):
        return None
    relief = [advice for name, advice in _RELIEF.items() if name in type(options).model_fields]
    first = str(error).strip().partition("\n")[0] or "there is no more"
    return Fault("memory", first, "a job that fits into memory", "; ".join(relief) or "close other programs")
