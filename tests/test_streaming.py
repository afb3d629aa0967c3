"""Many pictures do not take more memory than few."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny

ROOT = Path(__file__).parent.parent
CODE = """
import json, sys
from pathlib import Path
from tenshot.core import device
from tenshot.core.events import Events
from tenshot.io import dataset
from tenshot.model import model
from tenshot.train.data import image_latents, latents_cache
from tenshot.train.engine.rng import CounterRNG
latents_cache.IN_MEMORY = 100_000
base = model.load(sys.argv[1])
examples = dataset.read(Path(sys.argv[2]), option="")
cache = latents_cache.TensorCache(Path(sys.argv[3]))
latents, _ = image_latents.encode(base, examples, image_latents.squares(128), Events(), cache)
for step in range(len(latents)):
    latents.posteriors(latents.pick(CounterRNG(0, [step]), "picture"))
print(json.dumps([len(latents), device.max_memory_allocated()]))
"""


def peak(sd1: Path, folder: Path, count: int) -> int:
    tiny.pictures(folder / str(count), count)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    words = [sys.executable, "-c", CODE, str(sd1), str(folder / str(count)), str(folder / f"cache {count}")]
    ran = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    rows, found = json.loads(ran.stdout.splitlines()[-1])
    assert rows == count
    return found


@pytest.mark.slow
def test_memory_does_not_grow_with_the_pictures(sd1: Path, tmp_path: Path):
    few, many = peak(sd1, tmp_path, 500), peak(sd1, tmp_path, 5000)
    kept = 4500 * 2 * 4 * 16 * 16 * 4  # what the latents alone would take
    assert many - few < kept / 2
