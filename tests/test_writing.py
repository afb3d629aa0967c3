"""What stands in the way of a result is said before the work; what happens meanwhile leaves nothing half-written."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tenshot.cli.main import main
from tenshot.io import tensors
from tenshot.train.data import image_latents
from tenshot.train.engine import loop
from tests.dreambooth_runs import Bench
from tests.test_adapter_files import a_lora

SRC = Path(tensors.__file__).parents[2]


@pytest.fixture
def place(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with the model m and lora.safetensors."""
    shutil.copytree(sd1, tmp_path / "m")
    a_lora(sd1, tmp_path / "lora.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


LONG = "n" * 256
TAKING_A_NAME = (
    "convert m {}",
    "convert m {}.safetensors",
    "convert m out/{}/result",
    "convert lora.safetensors --to webui ui --name {}",
    "merge --sd_model m --models lora.safetensors --save_to {}",
    "merge --models lora.safetensors --save_to {}.safetensors",
    "extract m --base m --out {}.safetensors",
    "resize lora.safetensors --rank 1 --out {}.safetensors",
    "compile m --out {}",
    "generate --model m --prompt cat --out {}",
    "generate --model m --prompt cat --out {}.png",
)


@pytest.mark.parametrize("line", TAKING_A_NAME)
def test_a_name_that_no_file_can_have_is_refused_at_once(line: str, place: Path, capsys: pytest.CaptureFixture) -> None:
    (place / "ui" / "models").mkdir(parents=True)
    before = sorted(place.rglob("*"))
    assert main(line.format(LONG).split()) == 2
    assert "255 bytes" in capsys.readouterr().err
    assert sorted(place.rglob("*")) == before


def test_so_is_one_for_a_training(sd1: Path, pictures: Path, tmp_path: Path) -> None:
    bench = Bench(sd1, pictures, tmp_path)
    assert bench.refused(LONG) == ["--output_dir"]
    (tmp_path / "ui" / "models").mkdir(parents=True)
    assert bench.refused("n" * 250, export=[f"webui:{tmp_path / 'ui'}"]) == ["--export"]


def test_the_longest_name_of_all_is_no_obstacle(place: Path) -> None:
    name = "n" * 255
    assert main(["convert", "m", name]) == 0
    assert (place / name / "model_index.json").is_file()


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "line", ("convert m big.safetensors", "convert m big", "merge --models lora.safetensors --save_to big.safetensors")
)
def test_a_file_too_large_for_the_disk_is_refused_and_leaves_nothing(line: str, place: Path, capfd) -> None:
    before = sorted(place.rglob("*"))
    with files_of_at_most(5_000):
        assert main(line.split()) == 2
    assert "File too large" in capfd.readouterr().err
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("target", ("out/result", "out/result.safetensors"))
def test_a_folder_removed_meanwhile_is_said(target: str, place: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    real = tensors._put

    def removing(*given: object) -> memoryview:
        shutil.rmtree(place / "out", ignore_errors=True)
        return real(*given)

    monkeypatch.setattr(tensors, "_put", removing)
    assert main(["convert", "m", target]) == 2
    assert "was removed while it was being written" in capfd.readouterr().err
    assert not (place / "out").exists()


@pytest.mark.parametrize("device", ("/dev/full", "/dev/null", "/dev/fd/1"))
def test_a_device_is_no_place_for_a_result(device: str, place: Path) -> None:
    before = os.lstat(device)
    for line in ("convert m {}", "merge --models lora.safetensors --save_to {}", "generate --prompt cat --out {}"):
        assert main([*line.format(device).split(), *(["--overwrite"] if "generate" not in line else [])]) == 2
    assert os.lstat(device).st_ino == before.st_ino


WORKING = """
import os, signal, sys
from pathlib import Path
from tenshot.io import tensors
place = Path(sys.argv[1])
with tensors.replacing(place / "one.safetensors") as half, tensors.replacing_folder(place / "two") as folder:
    half.write_text("half")
    (folder / "file").write_text("half")
    os.kill(os.getpid(), signal.{})
"""


@pytest.mark.usefixtures("hangups")
@pytest.mark.parametrize("number", ("SIGKILL", "SIGHUP"))
def test_what_a_killed_process_left_goes_at_the_next_start(number: str, place: Path) -> None:
    out = place / "out"
    (out / "two").mkdir(parents=True)
    (out / "two" / "file").write_text("former")
    (out / "notes.part").write_text("mine")
    (out / ".notes.part").write_text("mine")
    environment = os.environ | {"PYTHONPATH": str(SRC)}
    ended = subprocess.run([sys.executable, "-c", WORKING.format(number), str(out)], env=environment)
    assert ended.returncode == -getattr(signal, number)
    assert len(list(out.glob(".tenshot-*.part"))) == 2
    assert main(["convert", "m", "out/m.safetensors"]) == 0
    assert sorted(path.name for path in out.iterdir()) == [".notes.part", "m.safetensors", "notes.part", "two"]
    assert (out / "two" / "file").read_text() == "former"


def test_what_was_there_is_back_before_anything_is_refused(place: Path) -> None:
    """It was put aside when the process died: without --overwrite it is not replaced."""
    shutil.copytree(place / "m", place / ".tenshot-abc.part" / "old" / "result")
    assert main(["convert", "m", "result"]) == 2
    assert (place / "result" / "model_index.json").is_file()
    assert not list(place.glob(".tenshot-*"))


@pytest.mark.parametrize("there", (False, True))
@pytest.mark.parametrize("where", ("encode", "forecast"))
def test_a_training_refused_after_all_its_checks_leaves_nothing(
    where: str, there: bool, place: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr({"encode": image_latents, "forecast": loop}[where], where, full)
    if there:
        (place / "out").mkdir()
    options = Bench(place / "m", pictures, place).base | {"output_dir": "out"}
    assert main(["train", "dreambooth", *(f"--{name}={value}" for name, value in options.items())]) == 2
    assert not (place / "out").exists() or (there and not list((place / "out").iterdir()))
