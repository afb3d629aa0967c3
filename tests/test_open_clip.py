"""Text encoders in OpenCLIP's layout, as others read them: diffusers' converter, and OpenCLIP itself where it is there.

OpenCLIP needs torchvision, which its text tower does not use: `pip install --no-deps open-clip-torch` is enough.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
from safetensors.torch import load_file

from tenshot.model import model
from tests.test_checkpoints import run

ENCODERS = [("sd2_v", "text_encoder", "cond_stage_model."), ("sdxl", "text_encoder_2", "conditioner.embedders.1.")]


@pytest.fixture(params=ENCODERS, ids=lambda each: each[0])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, dict[str, torch.Tensor], str]:
    """A text encoder, the tensors of its checkpoint file, and what stands before their names."""
    name, part, start = request.param
    folder = request.getfixturevalue(name)
    run(folder, tmp_path / "one.safetensors")
    return model.load(str(folder))[part], load_file(tmp_path / "one.safetensors"), f"{start}model."


def test_diffusers_converter_agrees(written: tuple[Any, dict[str, torch.Tensor], str]):
    encoder, found, start = written
    theirs = convert_open_clip_checkpoint(encoder, found, prefix=start)
    theirs = {name.removeprefix("text_model."): tensor for name, tensor in theirs.items()}
    ours = {name.removeprefix("text_model."): tensor for name, tensor in encoder.state_dict().items()}
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.fixture
def text_transformer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """OpenCLIP's class, without what its package imports beside it."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("open-clip-torch is not installed")
    package, vision = types.ModuleType("open_clip"), types.ModuleType("torchvision.ops.misc")
    package.__path__ = list(spec.submodule_search_locations)
    vision.FrozenBatchNorm2d = object  # type: ignore[attr-defined]
    for name in ("torchvision", "torchvision.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "torchvision.ops.misc", vision)
    monkeypatch.setitem(sys.modules, "open_clip", package)
    return importlib.import_module("open_clip.transformer").TextTransformer


@torch.no_grad()
def test_open_clip_reads_the_same_text(written: tuple[Any, dict[str, torch.Tensor], str], text_transformer: Any):
    encoder, found, start = written
    config = encoder.config
    theirs = text_transformer(
        context_length=config.max_position_embeddings,
        vocab_size=config.vocab_size,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        layers=config.num_hidden_layers,
        mlp_ratio=config.intermediate_size / config.hidden_size,
        output_dim=config.projection_dim if hasattr(encoder, "text_projection") else None,
    ).eval()
    mine = {name.removeprefix(start): tensor for name, tensor in found.items() if name.startswith(start)}
    told = theirs.load_state_dict(mine, strict=False)
    assert set(told.unexpected_keys) <= {"logit_scale", "text_projection"}  # of its class for text and pictures
    assert set(told.missing_keys) <= {"attn_mask", "text_projection"}
    ids = torch.randint(0, config.vocab_size - 2, (2, 77), generator=torch.Generator().manual_seed(1))
    ids[:, 40:] = config.eos_token_id
    states = theirs.token_embedding(ids) + theirs.positional_embedding
    states = theirs.ln_final(theirs.transformer(states, attn_mask=theirs.attn_mask))
    answer = encoder(ids)
    assert torch.allclose(states, answer.last_hidden_state, atol=1e-5)
    if hasattr(encoder, "text_projection"):
        pooled = states[torch.arange(2), ids.argmax(dim=-1)] @ theirs.text_projection
        assert torch.allclose(pooled, answer.text_embeds, atol=1e-5)
