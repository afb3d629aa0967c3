"""Stop a verb at random moments, by every signal that ends a process; start it again; nothing lost, nothing left.

python -m tests.kill_and_restart [--verb convert merge compile] [--times 20] [--seed 0]

Half of the time a former result lies where the new one goes: after the stop it is there whole, or the new one is. After
the next start the result is that of an undisturbed run, bit for bit, every other file is as it was, and no process is
left. Exit code 0 where all of that holds, else 1.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.kill_and_resume import forked, over, wait

SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# No error is small enough for compile, so that what it keeps does not depend on how busy the machine is.
VERBS: dict[str, tuple[str, ...]] = {
    "convert": ("convert", "sd1", "out/result", "--dtype", "fp16", "--overwrite"),
    "file": ("convert", "sd1", "out/result.safetensors", "--overwrite"),
    "merge": ("merge", "--sd_model", "sd1", "--models", "lora.safetensors", "--save_to", "out/result", "--overwrite"),
    "extract": ("extract", "--base", "sd1", "--tuned", "other", "--out", "out/result.safetensors", "--overwrite"),
    "compile": (
        "compile", "sd1", "--out", "out/result", "--parts", "decoder", "--backend", "eager", "--max_error", "1e-30",
        "--steps", "2", "--rounds", "1", "--device", "cpu", "--overwrite",
    ),
}  # fmt: skip
GRACE = 30  # seconds: one that is importing a library in C notices later that its parent died
MEASURED = ("manifest.json", "report.json", "report.html", "index.html")  # hold times, which differ


@dataclass(frozen=True)
class Bench:
    """folder: where the verb works. whole: what an undisturbed run leaves. former: a result that was there before."""

    folder: Path
    words: list[str]
    whole: dict[str, str]
    former: Path
    seconds: float

    @property
    def result(self) -> Path:
        return self.folder / self.words[self.words.index(next(w for w in self.words if w.startswith("out/")))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--verb", nargs="+", default=list(VERBS), choices=VERBS)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    faults = 0
    for verb in given.verb:
        folder = Path(tempfile.mkdtemp(prefix="tenshot-kill-"))
        bench = prepared(verb, folder)
        dice = random.Random(f"{given.seed} {verb}")
        told = []
        for number in range(given.times):
            told.append(once(bench, SIGNALS[number % len(SIGNALS)], dice))
            print(f"{verb:<8} {number + 1} of {given.times} {told[-1]}", file=sys.stderr, flush=True)
        bad = [each for each in told if each]
        print(
            f"{verb:<8} stopped {given.times} times: {'all as it should be' if not bad else '; '.join(bad)}", flush=True
        )
        faults += len(bad)
        os.chdir("/")
        shutil.rmtree(folder)
    return 1 if faults else 0


def prepared(verb: str, folder: Path) -> Bench:
    """Inputs, an undisturbed run's result, and another result that can lie in its place."""
    import torch

    from tests import tiny
    from tests.test_adapter_files import a_lora

    torch.set_num_threads(1)  # of several threads, a copy of this process has one, which waits for the others for ever
    os.chdir(folder)
    os.environ["TENSHOT_CACHE"] = str(folder / "cache")
    tiny.sd1(folder / "sd1")
    a_lora(folder / "sd1", folder / "lora.safetensors")
    words = list(VERBS[verb])
    run(["merge", "--sd_model", "sd1", "--models", "lora.safetensors", "--save_to", "other"])
    place = folder / next(word for word in words if word.startswith("out/"))
    former = folder / "former"
    run([{"sd1": "other", "other": "sd1"}.get(word, word) for word in words])
    place.rename(former)
    start = time.monotonic()
    run(words)
    seconds = time.monotonic() - start
    whole = contents(place)
    remove(place)
    return Bench(folder, words, whole, former, seconds)


def once(bench: Bench, number: signal.Signals, dice: random.Random) -> str:
    """One stop and one restart; what was wrong, or nothing."""
    remove(bench.result)
    if dice.random() < 0.5:
        copy(bench.former, bench.result)
    before = contents(bench.result)
    outside = others(bench)
    process = forked(bench.words, bench.folder / "answer.txt")
    until = time.monotonic() + dice.uniform(0, 1.1 * bench.seconds)
    children: set[psutil.Process] = set()
    while not over(process) and time.monotonic() < until:
        children |= set(psutil.Process(process).children(recursive=True))
        time.sleep(0.001)
    os.kill(process, number)
    wait(process)
    _, alive = psutil.wait_procs([each for each in children if each.is_running()], timeout=GRACE)
    moment = f"{number.name} after {bench.seconds - (until - time.monotonic()):.2f} s"
    if alive:
        return f"{moment}: {GRACE} s later {' and '.join(map(described, alive))} went on"
    if contents(bench.result) not in ({}, before, bench.whole) or (before and not contents(bench.result)):
        return f"{moment}: the result is neither the former nor the new one"
    run(bench.words)
    if contents(bench.result) != bench.whole:
        return f"{moment}: after the restart the result is another"
    if (left := others(bench)) != outside:
        return f"{moment}: left or changed {sorted(set(left.items()) ^ set(outside.items()))[0][0]}"
    return ""


def described(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return f"{process.pid} ({process.status()}: {' '.join(process.cmdline())[-80:]})"
    return f"{process.pid}"


def run(words: list[str]) -> None:
    code = wait(forked(words, Path("answer.txt")))
    assert code == 0, Path("answer.txt").read_text()


def contents(place: Path) -> dict[str, str]:
    """Digests of a result; of files that hold times, that they are there."""
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    return {
        str(path.relative_to(place)): "there"
        if path.name in MEASURED
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def others(bench: Bench) -> dict[str, str]:
    """Everything but the result, the answer and the cache."""
    own = (bench.result.relative_to(bench.folder).as_posix(), "answer.txt", "cache")
    return {name: digest for name, digest in contents(bench.folder).items() if not name.startswith(own)}


def copy(source: Path, place: Path) -> None:
    shutil.copytree(source, place) if source.is_dir() else shutil.copyfile(source, place)


def remove(place: Path) -> None:
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
