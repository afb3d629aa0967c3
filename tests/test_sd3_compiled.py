"""A tiny Stable Diffusion 3, compiled: it draws the same, and takes other weights and LoRAs without building anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tenshot import pipeline
from tenshot.autotune.compile import compile_model
from tenshot.autotune.options import CompileOptions
from tenshot.cli.main import main
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.options import gather
from tenshot.model import model
from tenshot.pipeline import Request, SamplingSettings
from tenshot.runtime import compiled_model
from tenshot.runtime.backend import Candidate
from tests import artifacts
from tests.test_sd3_lora import file as file
from tests.test_sd3_lora import folder as folder

SECTIONS = ("transformer", "decoder", "text_encoder", "text_encoder_2")
SETTINGS = SamplingSettings(sampler="Euler", steps=2, guidance=4.0)
BACKENDS = [
    "eager",
    pytest.param("openvino", marks=pytest.mark.slow),
    pytest.param("aotinductor", marks=pytest.mark.slow),
]


def latents(opened: model.Model) -> torch.Tensor:
    return pipeline.latents(opened, [Request("a cat", 3)], SETTINGS)


def tuned(folder: Path, target: Path) -> Path:
    """The same model, every weight a little other."""
    opened = model.load(str(folder))
    dice = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in opened.family.nets:
            for name, tensor in opened[part].named_parameters():
                if name != "text_projection.weight":
                    tensor.add_(torch.randn(tensor.shape, generator=dice) * 0.01)
    model.save(opened, target)
    return target


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_draws_the_same_and_swaps(backend: str, folder: Path, file: Path, tmp_path: Path):
    from tenshot.adapters import lora

    other = tuned(folder, tmp_path / "other")
    fast = compiled_model.load(artifacts.made(folder, tmp_path / "fast", Candidate(backend, "fp32"), SECTIONS))
    plain = model.load(str(folder))
    first = latents(fast)
    assert torch.allclose(first, latents(plain), atol=1e-4)
    fast.load_weights(other)
    assert torch.allclose(latents(fast), latents(model.load(str(other))), atol=1e-4)
    assert not torch.allclose(latents(fast), first, atol=1e-3)
    fast.load_weights(folder)
    fast.set_loras({file: 1.0})
    lora.attach(plain, lora.read(file))
    assert torch.allclose(latents(fast), latents(plain), atol=1e-4)
    fast.clear_loras()
    assert torch.equal(latents(fast), first)


def test_positions_that_no_exchange_reaches_are_refused(folder: Path, tmp_path: Path):
    opened = model.load(str(folder))
    opened.denoiser.pos_embed.pos_embed.mul_(2)
    model.save(opened, tmp_path / "other")
    fast = compiled_model.load(artifacts.made(folder, tmp_path / "fast", Candidate("eager", "fp32"), ()))
    with pytest.raises(Refusal, match="pos_embed"):
        fast.load_weights(tmp_path / "other")


def test_a_controlnet_is_refused_before_anything_is_drawn(folder: Path, tmp_path: Path):
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "config.json").write_text("{}")
    control = str(tmp_path / "control")
    words = ["compile", str(folder), "--out", str(tmp_path / "out"), "--controlnet", control, "--json"]
    assert main(words) == 2
    assert not (tmp_path / "out").exists()
    with pytest.raises(Refusal, match="ControlNets for Stable Diffusion 3 are not known here"):
        compile_model(gather(CompileOptions, words[1:-1]), Events())
