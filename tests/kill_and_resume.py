"""Kill a training run again and again, restart it, and compare with a run that was left alone.

python -m tests.kill_and_resume [--method dreambooth] [--model pocket] [--kills 20] [--seed 0]

Prints a table; exit code 0 where weights, losses and class pictures are equal bit for bit, else 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

HALF = ".tenshot-*.part/new/"  # where files and folders lie before they are whole
BATCH = 2  # class pictures drawn at once
SUBJECT = {"instance_prompt": "a photo of az baby"}
CLASS = {"with_prior_preservation": "true", "class_prompt": "a photo of baby", "num_class_images": str(3 * BATCH)}
TEXT = {"train_text_encoder": "true", "use_ema": "true"}
METHODS: dict[str, dict[str, str]] = {
    "dreambooth": SUBJECT | CLASS | TEXT,
    "lora": SUBJECT | CLASS | TEXT | {"layers": "all", "gradient_accumulation_steps": "2"},
    "full": CLASS | TEXT | {"random_flip": "true"},
    "textual-inversion": {"placeholder_token": "<az>", "initializer_token": "baby", "use_ema": "true"},
    "distillation": {"prompt": "a photo of az baby", "num_trajectories": "4", "rank": "4", "train_batch_size": "2"},
}
DRAW = {each for each, given in METHODS.items() if "class_prompt" in given or each == "distillation"}


def main() -> int:
    given = _arguments()
    folder = given.folder or Path(tempfile.mkdtemp())
    start = forked if given.fork else spawned
    if given.fork:
        import tenshot.train.finetune  # noqa: F401 - once, for all the processes to come
    if given.brief:
        from tenshot.train.data import prior_images
        from tenshot.train.engine import loop

        prior_images.SETTINGS, loop.MEASURED = replace(prior_images.SETTINGS, steps=3), 1
        os.fsync = lambda handle: None  # a kill takes nothing from the disk
    outcomes = [_compare(given, precision, folder / precision, start) for precision in given.precision]
    return 0 if all(outcomes) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--method", default="dreambooth", choices=METHODS)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--side", type=int, default=128, help="of the pictures, in pixels")
    parser.add_argument("--precision", nargs="+", default=["no", "bf16"])
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="to work in; default: a temporary one")
    parser.add_argument("--fork", action="store_true", help="import once and fork, instead of starting anew each time")
    parser.add_argument(
        "--brief", action="store_true", help="with --fork: few steps for a class picture and a forecast"
    )
    return parser.parse_args()


def _compare(given: argparse.Namespace, precision: str, folder: Path, start: Start) -> bool:
    """Run once undisturbed, once with kills; tell every kill and whether the results are the same."""
    from tests import tiny

    pictures = tiny.pictures(folder / "pictures", 5, given.side)
    for path in pictures.glob("*.png") if given.method == "full" else ():
        path.with_suffix(".txt").write_text(f"a photo of {path.stem}")
    print(f"\n{given.method}, mixed precision {precision}: {given.kills} kills")
    print(f"{'kill':>4}  {'moment':<12} {'at step':>7}  half-written")
    for name in ("whole", "killed"):
        words = _words(given, precision, pictures, folder / name)
        if name == "killed":
            hits = [
                _kill(start(words, folder / "output.txt"), folder / name, moment, number)
                for number, moment in enumerate(_moments(given), 1)
            ]
            print(f"{sum(hits)} of {len(hits)} runs were killed, the others had finished before")
        process = start(words, folder / "output.txt")
        if wait(process) != 0:
            print((folder / "output.txt").read_text()[-3000:])
            return False
    whole, killed = _results(folder / "whole"), _results(folder / "killed")
    different = sorted(name for name in whole.keys() | killed.keys() if whole.get(name) != killed.get(name))
    made = sorted(name for name in killed if name.endswith(".safetensors") and "/checkpoint-" not in name)
    print(f"{made[-1]} {killed[made[-1]]}: ", end="")
    print("different: " + ", ".join(different) if different else f"all {len(whole)} results are equal")
    return not different


def _words(given: argparse.Namespace, precision: str, pictures: Path, folder: Path) -> list[str]:
    place = "instance_data_dir" if "instance_prompt" in METHODS[given.method] else "train_data_dir"
    options: dict[str, object] = {
        "pretrained_model_name_or_path": given.model,
        **({} if given.method == "distillation" else {place: pictures}),
        "output_dir": folder / "out",
        "max_train_steps": given.steps,
        "checkpointing_steps": 2,
        "learning_rate": 1e-4,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 3,
        "mixed_precision": precision,
        "report_to": "none",
        "device": "cpu",
        **METHODS[given.method],
    }
    if "class_prompt" in options:
        options |= {"class_data_dir": folder / "class"}
    if given.method in DRAW:
        options |= {"sample_batch_size": BATCH}
    return ["train", given.method, *(f"--{name}={value}" for name, value in options.items())]


# Processes

Start = Callable[[list[str], Path], int]


def spawned(words: list[str], output: Path) -> int:
    """A run as people start it; its process id."""
    with output.open("wb") as file:
        return subprocess.Popen([sys.executable, "-m", "tenshot", *words], stdout=file, stderr=file).pid


def forked(words: list[str], output: Path) -> int:
    """The same run in a copy of this process, which has the imports behind it; its process id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with output.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        from tenshot.cli.main import main

        code = main(words)
    finally:
        os._exit(code)


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def over(pid: int) -> bool:
    """Whether the process has ended; it can still be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


# Moments


def _moments(given: argparse.Namespace) -> Iterator[tuple[str, int, float]]:
    """What to wait for, how much of it, and how many seconds then to hesitate."""
    dice = random.Random(given.seed)
    for number in range(given.kills):
        if number == given.kills - 1 and given.method in ("dreambooth", "full"):
            kind = "result"
        elif number % 7 == 0 and given.method in DRAW:
            kind = "drawing"
        else:
            kind = ("step", "checkpoint")[number % 2]
        yield kind, dice.randint(1, max(1, 3 * given.steps // given.kills // 2)), dice.uniform(0, 0.01)


def _kill(pid: int, folder: Path, moment: tuple[str, int, float], number: int) -> bool:
    """Kill the process at its moment; False where it had finished by then."""
    kind, much, seconds = moment
    reached = _steps(folder)
    while not over(pid) and not _here(folder, kind, reached + much, 2 + much % (2 * BATCH)):
        time.sleep(0.0005)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    hit = wait(pid) != 0
    kind = kind if hit else "(finished)"
    left = [path.name for path in (folder / "out").glob(f"{HALF}*")]
    print(f"{number:>4}  {kind:<12} {_steps(folder):>7}  {', '.join(left) or '-'}", flush=True)
    return hit


def _here(folder: Path, kind: str, step: int, drawn: int) -> bool:
    if kind == "drawing":
        ways = (folder / "out" / "trajectories").glob("*/[!.]*")
        return len([*(folder / "class").glob("*.png"), *ways]) >= drawn
    if kind == "result":
        return any(any((folder / "out").glob(HALF + part)) for part in ("unet", "vae", "text_encoder"))
    return _steps(folder) >= step and (kind == "step" or any((folder / "out").glob(f"{HALF}checkpoint-*")))


def _steps(folder: Path) -> int:
    log = folder / "out" / "loss.jsonl"
    return log.read_bytes().count(b"\n") if log.is_file() else 0


# Results


def _results(folder: Path) -> dict[str, str]:
    """Short digests of all that a run leaves, without what names times and places."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix in (".safetensors", ".png")]
    found = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    lines = [json.loads(line) for line in (folder / "out" / "loss.jsonl").read_text().splitlines()]
    figures = [[line[name] for name in ("step", "loss", "rate", "norm")] for line in lines]
    found["losses"] = json.dumps(figures).encode()
    found |= {f"half-written {path.name}": b"" for path in (folder / "out").glob(".tenshot-*.part")}
    return {name: hashlib.sha256(content).hexdigest()[:16] for name, content in found.items()}


if __name__ == "__main__":
    sys.exit(main())
