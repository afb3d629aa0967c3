"""Models of full size, of random weights, there and back; and how much memory that takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tenshot.bench.sizes import random_model
from tenshot.families.sd import NOISE
from tenshot.model import checkpoint, model
from tenshot.model.model import Model

ROOT = Path(__file__).parent.parent
MOST = 1.3e9  # bytes: the largest tensor, in float16 some 130 MB, and what Python with its libraries takes


def converted(source: Path, target: Path) -> float:
    """The peak memory of a conversion in a process of its own, in bytes."""
    words = [sys.executable, "-m", "tenshot", "convert", str(source), str(target), "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    ran = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    return float(json.loads(ran.stdout)["peak_memory_bytes"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_there_and_back(name: str, tmp_path: Path):
    full = random_model(name, torch.device("cpu"))
    for part in full.parts.values():
        if isinstance(part, torch.nn.Module):
            part.half()
    model.save(Model(full.family, full.parts, NOISE, tmp_path), tmp_path / "model")
    del full
    peaks = [
        converted(tmp_path / "model", tmp_path / "one.safetensors"),
        converted(tmp_path / "one.safetensors", tmp_path / "back"),
    ]
    print(f"{name}: peak memory {[f'{peak / 1e6:.0f} MB' for peak in peaks]}")
    assert max(peaks) < MOST
    before, after = (checkpoint.read(tmp_path / place) for place in ("model", "back"))
    assert before.shapes == after.shapes
    for part, content in before.parts.items():
        assert all(torch.equal(lazy.read(), after.parts[part][each].read()) for each, lazy in content.items())
