"""Models of full size, of random weights, there and back; and how much memory that takes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from zlib import crc32

import pytest
import torch

from tenshot.bench import sizes
from tenshot.bench.sizes import random_model
from tenshot.core.events import Events
from tenshot.families import conversion
from tenshot.families.sd import NOISE
from tenshot.families.sd3 import SD3
from tenshot.io import tensors
from tenshot.io.tensor_files import Lazy
from tenshot.model import checkpoint, model, tokenizers
from tenshot.model.checkpoint import LazyModel
from tenshot.model.model import Model
from tests.test_mmdit import GOLDEN

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


def random_sd3(place: Path) -> LazyModel:
    """Stable Diffusion 3 medium without T5, whose tensors are made when they are read: of any bits, all finite."""
    family = SD3.without("text_encoder_3")
    latents = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False, **SD3.latents}
    configs = {**family.released, "vae": {**sizes.VAE, **latents}}
    words = {"vocab_size": 49408, "max_position_embeddings": 77}
    configs["text_encoder"] = {**words, **configs["text_encoder"], "hidden_act": "quick_gelu"}
    configs["text_encoder_2"] = {**words, **configs["text_encoder_2"], "hidden_act": "gelu"}
    parts = {
        part: {
            name: Lazy(shape, torch.float16, partial(random_tensor, f"{part}.{name}", shape))
            for name, shape in conversion.skeleton(family.parts[part], config).items()
        }
        for part, config in configs.items()
    }
    told = {name: tokenizers.Words() for name in family.paddings}
    return LazyModel(family, parts, configs, SD3.scheduler_config, told, place)


def random_tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if name == "text_encoder.text_projection.weight":
        return torch.eye(*shape, dtype=torch.float16)
    dice = torch.Generator().manual_seed(crc32(name.encode()))
    return torch.randint(0, 0x7C00, shape, generator=dice, dtype=torch.int16).view(torch.float16)


@pytest.mark.slow
def test_sd3_there_and_back(tmp_path: Path):
    """12 GB of disk at most: what was read is deleted before the next is written."""
    whole = random_sd3(tmp_path)
    checkpoint.write_folder(whole, tmp_path / "model", Events())
    one = tmp_path / "one.safetensors"
    peaks = [converted(tmp_path / "model", one)]
    shutil.rmtree(tmp_path / "model")
    start, (_, count, digest) = "model.diffusion_model.", GOLDEN["3-medium"]
    shapes = {name.removeprefix(start): each for name, each in tensors.shapes(one).items() if name.startswith(start)}
    listed = "\n".join(f"{each} {list(shape)}" for each, shape in sorted(shapes.items()))
    assert (len(shapes), hashlib.sha256(listed.encode()).hexdigest()) == (count, digest)
    peaks.append(converted(one, tmp_path / "back"))
    one.unlink()
    print(f"sd3-medium: peak memory {[f'{peak / 1e6:.0f} MB' for peak in peaks]}")
    assert max(peaks) < MOST
    after = checkpoint.read(tmp_path / "back")
    assert whole.shapes == after.shapes
    for part, content in whole.parts.items():
        assert all(torch.equal(lazy.read(), after.parts[part][each].read()) for each, lazy in content.items())
    shutil.rmtree(tmp_path / "back")
