"""Would the tests notice? Small faults are put into the mathematics one at a time, and the fast tests have to fail.

    python -m tests.mutants [--count N] [--seed N] [--only WORD] [--jobs N]

A mutant is one changed place in a copy of `src`. What is mutated, and which tests have to notice, says TARGETS; what no
test can notice says EQUIVALENT, each with its reason. Survivors are listed with their diffs, and the exit code is 1.
Ours rather than mutmut or cosmic-ray: mutmut leaves decorated functions alone and wraps all others, which torch.compile
and dataclasses do not take; cosmic-ray starts a Python with torch, seconds, for each mutant. Here it is forked.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import math
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from tests.equivalent import EQUIVALENT

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src/tenshot"
LIMIT = 6.0  # times the processor's seconds that the tests of a target take unchanged, and as many more: endless loops
PATIENCE = 3600.0  # seconds after which tests that wait for something are ended
MEMORY = 10 * 2**30  # bytes of addresses that the tests of a mutant may have: a size gone wrong must not take all
TARGETS = {  # module -> tests that have to notice, those first that are likeliest to
    "diffusion/losses": "losses",
    "diffusion/process": "process losses",
    "diffusion/samplers": "process losses pipeline",
    "diffusion/schedules": "solvers",
    "diffusion/solvers": "solvers",
    "diffusion/sampling": "solvers pictures_in",
    "prompt/syntax": "prompt_syntax",
    "prompt/chunks": "prompt_chunks",
    "model/guidance": "prompted_pictures",
    "model/control": "controlnet",
    "train/engine/rng": "rng",
    "families/base": "families flat_modules model pipeline losses sd3",
    "families/latents": "families",
    "families/sd": "families model pipeline released",
    "families/sdxl": "families model pipeline released",
    "families/sd3": "families sd3",
    "families/mmdit": "mmdit sd3",
    "train/engine/denoising": "denoising losses data",
    "adapters/weight_delta": "factors weight_delta loha_lokr merge",
    "adapters/factors": "factors extract merge adapter_files weight_delta baking",
    "adapters/loha_lokr": "factors loha_lokr weight_delta",
}
SWAPPED: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}
DROPPED = {"sqrt", "square", "abs", "exp", "log", "cumsum", "clamp", "float", "double", "flatten", "sigmoid", "to"}
OTHER = {"min": "max", "max": "min", "mean": "sum", "sum": "mean", "any": "all", "all": "any", "sorted": "list"}


@dataclass(frozen=True)
class Mutant:
    """One changed place: `target` is the module, `line` its line, `source` the whole module with the change."""

    target: str
    line: int
    before: str
    after: str
    source: str

    @property
    def equivalent(self) -> str | None:
        """Why no test can notice it; None where one should."""
        return EQUIVALENT.get((self.target, self.before.strip(), self.after.strip()))


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What could stand in the place of `node` by a slip."""
    if isinstance(node, ast.BinOp | ast.BoolOp):
        for kind in SWAPPED.get(type(node.op), ()):
            yield _with(node, op=kind())
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        for kind in SWAPPED.get(type(node.ops[0]), ()):
            yield _with(node, ops=[kind()])
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value * 2 if isinstance(node.value, float) and node.value else node.value + 1)
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        yield node.operand
    elif isinstance(node, ast.IfExp):
        yield _with(node, body=node.orelse, orelse=node.body)
    elif isinstance(node, ast.Call):
        yield from _calls(node)


def _calls(node: ast.Call) -> Iterator[ast.AST]:
    symmetric = isinstance(node.func, ast.Name) and node.func.id in ("min", "max")
    if len(node.args) > 1 and not symmetric and not any(isinstance(each, ast.Starred) for each in node.args):
        yield _with(node, args=[node.args[1], node.args[0], *node.args[2:]])
    if isinstance(node.func, ast.Attribute):
        if node.func.attr in DROPPED:
            yield node.func.value
        if node.func.attr in OTHER:
            yield _with(node, func=_with(node.func, attr=OTHER[node.func.attr]))
    elif isinstance(node.func, ast.Name) and node.func.id in OTHER:
        yield _with(node, func=ast.Name(OTHER[node.func.id]))
    for place, keyword in enumerate(node.keywords):
        if keyword.arg in OTHER:
            given = [*node.keywords]
            given[place] = _with(keyword, arg=OTHER[keyword.arg])
            yield _with(node, keywords=given)


def _with(node: ast.AST, **fields: object) -> ast.AST:
    made = deepcopy(node)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def mutants(target: str) -> Iterator[Mutant]:
    """All of a module, in the order of its lines. Annotations and texts are left alone."""
    source = (PACKAGE / f"{target}.py").read_text(encoding="utf-8")
    raw = source.encode()
    starts = [0]
    for line in raw.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in _mathematics(ast.parse(source)):
        begin, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        for new in changes(node):
            text = f"({ast.unparse(new)})" if isinstance(new, ast.BinOp | ast.IfExp | ast.BoolOp) else ast.unparse(new)
            made = (raw[:begin] + text.encode() + raw[end:]).decode()
            last = starts[node.end_lineno] if node.end_lineno < len(starts) else len(raw)
            before = raw[starts[node.lineno - 1] : last].decode()
            after = (raw[starts[node.lineno - 1] : begin] + text.encode() + raw[end:last]).decode()
            if {"'", '"'} & {*text}:
                try:
                    ast.parse(made)
                except SyntaxError:  # within a formatted text, whose quotes the change would need
                    continue
            yield Mutant(target, node.lineno, before, after, made)


def _mathematics(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions below `node` that could be changed; not of annotations, decorators, refusals, texts."""
    skipped = [getattr(node, name, None) for name in ("annotation", "returns")] + getattr(node, "decorator_list", [])
    for child in ast.iter_child_nodes(node):
        if child in skipped or isinstance(child, ast.Raise | ast.JoinedStr) or _abstract(child):
            continue
        if isinstance(child, ast.expr):
            yield child
        yield from _mathematics(child)


def _abstract(node: ast.AST) -> bool:
    return any(
        isinstance(each, ast.Name) and each.id == "abstractmethod" for each in getattr(node, "decorator_list", [])
    )


def run(source: Path, tests: list[str], log: Path, limit: float | None) -> int:
    """Start the tests against the package in `source`, in a process that has the libraries loaded. Its number.

    limit: seconds of the processor that it may use.
    """
    child = os.fork()
    if child:
        return child
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if limit:
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit), math.ceil(limit)))
    with log.open("w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    sys.path.insert(0, str(source))
    os.environ["PYTHONPATH"] = str(source)
    import pytest

    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--basetemp", str(log.parent / "pytest")]
    os._exit(int(pytest.main([*options, *tests])))


def copied(folder: Path, target: str = "", source: str = "") -> Path:
    """A `src` in `folder`, of links to the files of ours, but for the one module."""
    shutil.copytree(
        PACKAGE, folder / "src/tenshot", copy_function=os.symlink, ignore=shutil.ignore_patterns("__pycache__")
    )
    if target:
        file = folder / f"src/tenshot/{target}.py"
        file.unlink()
        file.write_text(source, encoding="utf-8")
    return folder / "src"


def tests_of(target: str) -> list[str]:
    return [str(ROOT / f"tests/test_{name}.py") for name in TARGETS[target].split()]


Done = Callable[[int, float, str], None]


class Pool:
    """Runs several at a time: `start` waits for a free place, `finish` for all.

    done: called with the exit code, the seconds of the processor, and what was printed.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.running: dict[int, tuple[tempfile.TemporaryDirectory, float, Done]] = {}

    def start(self, mutant: Mutant | None, tests: list[str], limit: float | None, done: Done) -> None:
        while len(self.running) >= self.jobs:
            self.look()
        folder = tempfile.TemporaryDirectory(prefix="mutant-")
        place = Path(folder.name)
        source = copied(place, mutant.target, mutant.source) if mutant else copied(place)
        self.running[run(source, tests, place / "log", limit)] = folder, time.monotonic() + PATIENCE, done

    def look(self) -> None:
        """See who has ended; end who takes too long."""
        for child, (folder, until, done) in list(self.running.items()):
            ended, status, used = os.wait4(child, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if ended else None
            if not ended and time.monotonic() > until:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                code = -signal.SIGKILL
            if code is not None:
                said = (Path(folder.name) / "log").read_text(errors="replace")
                del self.running[child]
                folder.cleanup()
                done(code, used.ru_utime + used.ru_stime, said)
        time.sleep(0.05)

    def finish(self) -> None:
        while self.running:
            self.look()


def chosen(only: str, count: int | None, seed: int) -> list[Mutant]:
    found = [each for target in TARGETS if only in target for each in mutants(target)]
    found = [each for each in found if not each.equivalent]
    return found if count is None else random.Random(seed).sample(found, min(count, len(found)))


def unchanged(targets: list[str], pool: Pool) -> dict[str, float]:
    """The processor's seconds that the tests of each target take while nothing is changed. They have to pass."""
    took: dict[str, float] = {}
    for target in targets:

        def done(code: int, seconds: float, said: str, target: str = target) -> None:
            if code:
                sys.exit(f"the tests of {target} fail unchanged:\n{said[-3000:]}")
            took[target] = seconds

        pool.start(None, tests_of(target), None, done)
    pool.finish()
    return took


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, help="so many, drawn by --seed; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="modules whose names have this in them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import diffusers  # noqa: F401
    import peft  # noqa: F401
    import pytest  # noqa: F401

    from tests import tiny  # noqa: F401

    todo, pool = chosen(given.only, given.count, given.seed), Pool(given.jobs)
    took = unchanged(sorted({each.target for each in todo}), pool)
    survivors: list[Mutant] = []
    for number, mutant in enumerate(todo, 1):

        def done(code: int, seconds: float, said: str, mutant: Mutant = mutant, number: int = number) -> None:
            if code in (4, 5):
                sys.exit(f"the tests of {mutant.target} could not be run:\n{said[-3000:]}")
            if code == 0:
                survivors.append(mutant)
            words = {0: "survived", -signal.SIGKILL: "ended after too long"}.get(code, "killed")
            print(f"{number}/{len(todo)} {words} {mutant.target}:{mutant.line}", flush=True)

        pool.start(mutant, tests_of(mutant.target), LIMIT * (1 + took[mutant.target]), done)
    pool.finish()
    for each in survivors:
        lines = (text.splitlines() for text in (each.before, each.after))
        print(f"\nsurvived: src/tenshot/{each.target}.py:{each.line}", *list(difflib.ndiff(*lines)), sep="\n")
    print(f"\n{len(todo)} mutants: {len(todo) - len(survivors)} killed, {len(survivors)} survived")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
