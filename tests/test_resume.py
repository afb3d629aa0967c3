"""A run that is killed with SIGKILL and started again ends as if nothing had happened, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from tests.kill_and_resume import METHODS

ROOT = Path(__file__).parent.parent


def kill_and_resume(*words: str) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-m", "tests.kill_and_resume", *words]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("results are equal") == (1 if "--precision" in words else 2)


@pytest.mark.parametrize(
    ("method", "precision"),
    [
        pytest.param(*each, marks=() if each == ("dreambooth", "bf16") else pytest.mark.slow)
        for each in product(METHODS, ("no", "bf16"))
    ],
)
def test_killed_and_restarted_is_uninterrupted(method: str, precision: str, sd1: Path, tmp_path: Path):
    quick = ("--fork", "--brief", "--kills", "2", "--steps", "9", "--side", "64", "--precision", precision)
    kill_and_resume("--method", method, "--model", str(sd1), "--folder", str(tmp_path), *quick)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_pocket_model_survives_twenty_kills(method: str, tmp_path: Path):
    kill_and_resume("--method", method, "--folder", str(tmp_path))
