"""Two processes do what one does with accumulation; they talk and refuse with one voice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tenshot.io import tensors
from tests import tiny
from tests.dreambooth_runs import PRIOR, TEXT, UNET, Bench, losses, same_weights

ROOT = Path(__file__).parent.parent


#: Commands come in, one a line, exit codes go out. Two processes run each, as a launcher starts them, but that the
#: imports, which take longest, are done once.
FORKED = """
import json, os, socket, sys
import tenshot.train.finetune
from tenshot.cli.main import main

def ranked(rank, words, environment, folder):
    os.environ |= environment | {"RANK": rank, "LOCAL_RANK": rank}
    for number, name in enumerate(("out", "err"), 1):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    code = main(words)
    sys.stdout.flush()
    os._exit(code)

for line in sys.stdin:
    words, environment, folder = json.loads(line)
    with socket.create_server(("127.0.0.1", 0)) as free:
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    many = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for rank in "01":
        if not os.fork():
            ranked(rank, words, environment | where | many, folder)
    print(max(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)), flush=True)
"""
Ran = subprocess.CompletedProcess[str]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}


def run(*words: str, launcher: tuple[str, ...] = ("-m", "tenshot")) -> Ran:
    return subprocess.run([sys.executable, *launcher, *words], env=environment(), capture_output=True, text=True)


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Ran]]:
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", FORKED]
    with subprocess.Popen(command, env=environment(), stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None and process.stdout is not None

        def run(*words: str) -> Ran:
            folder = tmp_path_factory.mktemp("ranks")
            process.stdin.write(json.dumps([words, environment(), str(folder)]) + "\n")
            process.stdin.flush()
            code = int(process.stdout.readline())
            return Ran(words, code, (folder / "out").read_text(), (folder / "err").read_text())

        yield run


@pytest.fixture(params=["forked", pytest.param("launched", marks=pytest.mark.slow)])
def run_by_two(request: pytest.FixtureRequest) -> Callable[..., Ran]:
    """Runs a command line with --num_processes 2; test_tied.py has the launcher itself."""
    return request.getfixturevalue("forked") if request.param == "forked" else run


def words(bench: Bench, name: str, **given: object) -> list[str]:
    told = bench.base | {"output_dir": str(bench.folder / name)} | given
    return ["train", "dreambooth", *(f"--{key}={value}" for key, value in told.items())]


def norms(folder: Path) -> list[float]:
    """Of the gradients, whose scale AdamW does not show."""
    return [json.loads(line)["norm"] for line in (folder / "loss.jsonl").read_text().splitlines()]


def close(one: Path, other: Path, file: str = UNET) -> None:
    a, b = tensors.read(one / file), tensors.read(other / file)
    apart = torch.cat([(a[name] - b[name]).flatten() for name in a])
    moved = torch.cat([tensor.flatten() for tensor in a.values()])
    assert apart.norm() < 1e-5 * moved.norm()


def test_two_processes_are_one_with_accumulation(run_by_two: Callable[..., Ran], bench: Bench):
    classes = tiny.pictures(bench.folder / "class", 5, seed=9)
    given = PRIOR | {"train_batch_size": "2", "class_data_dir": str(classes)}
    one = bench.run("one", **given, gradient_accumulation_steps="2")
    ran = run_by_two(*words(bench, "two", **given, num_processes=2), "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["steps"] == 3
    two = bench.folder / "two"
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert norms(two) == pytest.approx(norms(one), rel=1e-4)
    close(one, two)
    bench.run("two", **given, gradient_accumulation_steps="2", max_train_steps="4")  # alone, the same run goes on
    assert len(losses(two)) == 4


@pytest.mark.slow
def test_two_processes_that_were_stopped_go_on_to_the_bit(bench: Bench):
    given = {"num_processes": 2, "gradient_accumulation_steps": "2", "train_text_encoder": True}
    for name, steps in (("whole", 4), ("cut", 2), ("cut", 4)):
        ran = run(*words(bench, name, **given, max_train_steps=steps))
        assert ran.returncode == 0, ran.stderr
    for file in (UNET, TEXT):
        assert same_weights(bench.folder / "cut", bench.folder / "whole", file)
    assert losses(bench.folder / "cut") == losses(bench.folder / "whole")


@pytest.mark.slow
def test_split_over_two_processes_they_learn_the_same(bench: Bench):
    """And either goes on where the other stopped."""
    given = {"use_ema": True, "train_text_encoder": True, "train_batch_size": "2", "learning_rate": "1e-4"}
    one = bench.run("one", **given, gradient_accumulation_steps="2", max_train_steps="5")
    bench.run("two", **given, gradient_accumulation_steps="2", max_train_steps="1")
    for steps in (3, 4):
        ran = run(*words(bench, "two", **given, num_processes=2, max_train_steps=steps), "--fsdp")
        assert ran.returncode == 0, ran.stderr
    bench.run("two", **given, gradient_accumulation_steps="2", max_train_steps="5")
    two = bench.folder / "two"
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert norms(two) == pytest.approx(norms(one), rel=1e-4)
    for file in (UNET, TEXT):
        close(one, two, file)


def test_what_cannot_be_split_is_refused(sd1: Path, pictures: Path, tmp_path: Path):
    given = {"fsdp": True, "validation_prompt": "a toy", "optimizer": "adafactor"}
    wanted = ["--fsdp", "--fsdp", "--validation_prompt", "--optimizer"]
    assert Bench(sd1, pictures, tmp_path, "lora").refused("out", **given) == wanted


def test_all_refuse_with_one_voice(run_by_two: Callable[..., Ran], bench: Bench, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    ran = run_by_two(*words(bench, "out", instance_data_dir=tmp_path / "empty", num_processes=2))
    assert ran.returncode == 2
    assert ran.stderr.count("refused:") == 1
    assert not (bench.folder / "out").exists()


@pytest.mark.slow
def test_accelerate_launches_it(bench: Bench):
    launcher = ("-m", "accelerate.commands.launch", "--num_processes", "2", "--multi_gpu", "-m", "tenshot")
    one = bench.run("one", gradient_accumulation_steps="2")
    ran = run(*words(bench, "two"), launcher=launcher)
    assert ran.returncode == 0, ran.stderr
    close(one, bench.folder / "two")
