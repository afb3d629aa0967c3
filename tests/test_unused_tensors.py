"""What files of the original layout hold though nothing reads it: there, of the right shape, and without effect."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from tenshot.families import conversion
from tenshot.families.sd import SD2
from tenshot.io.tensor_files import Lazy
from tests.test_checkpoints import run

ROOT = "cond_stage_model.model."


@pytest.fixture(scope="module")
def written() -> dict[str, Lazy]:
    """A text encoder of 23 layers, as diffusers' folders of Stable Diffusion 2 have it, in the original layout."""
    config = CLIPTextConfig(
        vocab_size=40, hidden_size=16, intermediate_size=64, num_hidden_layers=23, num_attention_heads=2
    )
    tensors = CLIPTextModel(config).half().state_dict()
    lazy = {
        name.removeprefix("text_model."): Lazy(tuple(tensor.shape), tensor.dtype, tensor.clone)
        for name, tensor in tensors.items()
    }
    return conversion.to_original(SD2, {"text_encoder": lazy}, {"text_encoder": config.to_dict()})[0]


def test_the_last_layer_is_there_and_passes_on(written: dict[str, Lazy]):
    layers = {
        number: {
            name.removeprefix(start): lazy
            for name, lazy in written.items()
            if name.startswith(start := f"{ROOT}transformer.resblocks.{number}.")
        }
        for number in (22, 23)
    }
    assert {name: lazy.shape for name, lazy in layers[23].items()} == {
        name: lazy.shape for name, lazy in layers[22].items()
    }
    assert {lazy.dtype for lazy in layers[23].values()} == {torch.float16}
    last = {name: lazy.read().float() for name, lazy in layers[23].items()}
    assert all(tuple(last[name].shape) == lazy.shape for name, lazy in layers[23].items())
    attention, norm = nn.MultiheadAttention(16, 2, batch_first=True), nn.LayerNorm(16)
    attention.load_state_dict({k.removeprefix("attn."): v for k, v in last.items() if k.startswith("attn.")})
    norm.load_state_dict({k.removeprefix("ln_1."): v for k, v in last.items() if k.startswith("ln_1.")})
    states = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(0))
    after = states + attention(*[norm(states)] * 3)[0]
    after = after + nn.functional.linear(
        nn.functional.gelu(nn.functional.linear(after, last["mlp.c_fc.weight"], last["mlp.c_fc.bias"])),
        last["mlp.c_proj.weight"],
        last["mlp.c_proj.bias"],
    )
    assert torch.equal(after, states)


def test_projection_and_scale_are_what_changes_nothing(written: dict[str, Lazy]):
    assert torch.equal(written[f"{ROOT}text_projection"].read(), torch.eye(16, dtype=torch.float16))
    assert float(written[f"{ROOT}logit_scale"].read()) == pytest.approx(math.log(100), abs=2e-3)


def test_they_are_left_over_for_a_reason(sd2_v: Path, sdxl: Path, tmp_path: Path):
    for folder, names in ((sd2_v, ("logit_scale", "text_projection")), (sdxl, ("logit_scale",))):
        file = tmp_path / f"{folder.name}.safetensors"
        run(folder, file)
        found = load_file(file)
        assert all(any(name.endswith(f".{each}") for name in found) for each in names)
        left = run(file, tmp_path / folder.name)["ledger"]
        assert sum(each["tensors"] for each in left["left_over"]) >= len(names)
