"""Attack every verb with every kind of spoiled input: python -m tests.attack --minutes 10

An attack holds where the command does its work, or refuses in words and leaves everything as it was. It falls where it
ends in a traceback, hangs, takes memory without measure, runs code out of an input, changes an input, leaves files
after a refusal, writes numbers that are none, or gives another result than with whole inputs although it keeps digests.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.attack.mutations import CANARY, harm
from tests.attack.scenes import Scene, Stock, scenes

SECONDS = 20  # that an attack may take of the processor, and half of them that it may wait for something
MEMORY = 3_000_000_000  # bytes beyond what this process has


@dataclass(frozen=True)
class Outcome:
    """ended: exit code, or minus the signal's number. told: stdout and stderr. fell: why; empty where it held."""

    ended: int
    told: str
    fell: str = ""


def main() -> int:
    given = _arguments()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="tenshot-attack-"))
    os.environ |= {"TENSHOT_CACHE": str(folder / "stock" / "cache"), "NO_COLOR": "1", "COLUMNS": "120"}
    try:
        return _attack(given, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seconds", type=float, help="in place of minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", help="one kind of input alone")
    parser.add_argument("--only", type=int, help="the attack of this number alone, told at length")
    return parser.parse_args()


def _attack(given: argparse.Namespace, folder: Path) -> int:
    (folder / "stock").mkdir()
    os.chdir(folder / "stock")
    stock = Stock(folder / "stock")
    known = [scene for scene in scenes() if given.kind in (None, scene.kind)]
    whole = {scene: _expected(stock, scene, folder / "whole") for scene in known if scene.same}
    until = time.monotonic() + (given.seconds or given.minutes * 60)
    tried: Counter[str] = Counter()
    fell: Counter[str] = Counter()
    number = given.only or 0
    while time.monotonic() < until:
        dice = random.Random(f"{given.seed} {number}")
        scene = dice.choices(known, [each.weight for each in known])[0]
        place = folder / "scene"
        way, outcome = _one(stock, scene, place, dice, whole.get(scene, ""))
        tried[scene.kind] += 1
        if outcome.fell:
            fell[scene.kind] += 1
        if outcome.fell or given.only is not None:
            _tell(given, number, scene, way, outcome)
        shutil.rmtree(place, ignore_errors=True)
        if given.only is not None:
            break
        number += 1
    print(f"{'kind':<12} {'tried':>6} {'held':>6} {'fell':>6}")
    for kind in sorted(tried):
        print(f"{kind:<12} {tried[kind]:>6} {tried[kind] - fell[kind]:>6} {fell[kind]:>6}")
    print(f"{fell.total()} of {tried.total()} attacks fell")
    return 1 if fell else 0


def _tell(given: argparse.Namespace, number: int, scene: Scene, way: str, outcome: Outcome) -> None:
    print(f"attack {number} on {scene.kind}: {way}: {outcome.fell or 'held'} (exit code {outcome.ended})")
    print(f"  tenshot {' '.join(scene.words)}")
    kind = f" --kind {given.kind}" if given.kind else ""
    print(f"  again: python -m tests.attack --seed {given.seed}{kind} --only {number}")
    lines = outcome.told.strip().splitlines()
    print("".join(f"    {line[:300]}\n" for line in lines[-12 if given.only is None else 0 :]), flush=True)


def _expected(stock: Stock, scene: Scene, place: Path) -> str:
    """The digest of what `scene` gives with whole inputs."""
    place.mkdir()
    stock.lay(scene, place)
    outcome = _carried_out(scene, place)
    assert outcome.ended == 0, f"{' '.join(scene.words)}\n{outcome.told}"
    digest = _digest(place / scene.same)
    shutil.rmtree(place)
    return digest


def _one(stock: Stock, scene: Scene, place: Path, dice: random.Random, whole: str) -> tuple[str, Outcome]:
    place.mkdir()
    stock.lay(scene, place)
    targets = sorted(path for path in place.glob(scene.target) if ".lock" not in path.name)
    target = dice.choice(targets)
    way = f"{harm(dice, target)} {target.relative_to(place)}"
    before = _snapshot(place)
    outcome = _carried_out(scene, place)
    return way, Outcome(outcome.ended, outcome.told, outcome.fell or _verdict(scene, place, before, outcome, whole))


def _verdict(scene: Scene, place: Path, before: dict[str, str], outcome: Outcome, whole: str) -> str:
    after = _snapshot(place)
    own = ("cache", "run")  # folders that a command may mend or fill
    mine = {name: digest for name, digest in before.items() if not name.startswith(own)}
    if any(path.name == CANARY for path in place.rglob("*")):
        return "code out of an input has run"
    if outcome.ended not in (0, 2):
        return "a traceback" if outcome.ended == 1 else "a strange end"
    if changed := [name for name, digest in mine.items() if after.get(name) != digest]:
        return f"an input was changed: {changed[0]}"
    left = [name for name in after if name not in before and not name.startswith(own)]
    if parts := [name for name in after.keys() - before.keys() if name.endswith((".part", ".old"))]:
        return f"litter: {parts[0]}"
    if outcome.ended == 2:
        if left and "out of memory" not in outcome.told:
            return f"refused, and left {left[0]}"
        return _wordless(outcome.told)
    if whole and _digest(place / scene.same) != whole:
        return "another result than with whole inputs"
    return "" if scene.words[0] == "convert" else _numberless(place / "out")


def _wordless(told: str) -> str:
    line = next((line for line in told.splitlines() if line.startswith('{"error"')), None)
    if line is None:
        return "refused without JSON"
    for fault in json.loads(line)["faults"]:
        if not (fault["where"] and fault["found"] and fault["do"]):
            return f"a refusal without words: {fault}"
    return "" if "Traceback" not in told else "a traceback beside the refusal"


def _numberless(folder: Path) -> str:
    """Results with NaN or infinite numbers; a translation alone may hand on what it was given."""
    for file in folder.rglob("*.safetensors") if folder.is_dir() else ():
        for name, tensor in load_file(file).items():
            if tensor.is_floating_point() and not tensor.float().isfinite().all():
                return f"no numbers in the result: {file.name} {name}"
    return ""


def _snapshot(place: Path) -> dict[str, str]:
    return {
        str(path.relative_to(place)): _digest(path) for path in sorted(place.rglob("*")) if path.name != "answer.txt"
    }


def _digest(path: Path) -> str:
    if path.is_symlink():
        return f"link {os.readlink(path)}"
    if not path.is_file():
        return "folder" if path.is_dir() else "none" if not path.exists() else "special"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _carried_out(scene: Scene, place: Path) -> Outcome:
    """The command in a process of its own, which has everything imported and works in `place`."""
    answer = place / "answer.txt"
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        _work(scene, place, answer)
    used = _wait(process)
    if used is None:
        return Outcome(-9, answer.read_text(errors="replace"), f"no end after {SECONDS} seconds of processor time")
    status, usage = used
    told = answer.read_text(errors="replace")
    ended = os.waitstatus_to_exitcode(status)
    grown = usage.ru_maxrss * 1024 - resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Outcome(ended, told, f"{grown / 1e9:.1f} GB of memory" if grown > MEMORY else "")


def _work(scene: Scene, place: Path, answer: Path) -> None:
    from tenshot.cli.main import main

    with answer.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.chdir(place)
    os.environ["TENSHOT_CACHE"] = str(place / "cache")
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    code = 1
    try:
        code = main([*scene.words, "--json"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(process: int) -> tuple[int, resource.struct_rusage] | None:
    """Status and use of a process; None where it had to be killed: it waits, or works, without end."""
    idle, before = time.monotonic(), -1.0
    while True:
        found, status, usage = os.wait4(process, os.WNOHANG)
        if found:
            if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
                return None
            return status, usage
        used = _processor_time(process)
        if used > before + 0.01:
            idle, before = time.monotonic(), used
        if time.monotonic() - idle > SECONDS / 2:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return None
        time.sleep(0.005)


def _processor_time(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
