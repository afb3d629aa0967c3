"""Stable Diffusion 3's denoiser under the names of its first code, as diffusers' own converter reads them."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

from tenshot.families import conversion, keymaps, mmdit

SMALL = {
    "sample_size": 8,
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 12,
    "pos_embed_max_size": 6,
}
MEDIUM = {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 192}
MEDIUM_35 = MEDIUM | {"pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"}
LARGE_35 = MEDIUM | {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm"}
NORMED = {"qk_norm": "rms_norm"}
DUAL = NORMED | {"dual_attention_layers": (0, 1)}

#: SHA-256 over a line for each tensor, `name [shape]`, sorted: of kohya's MMDiT (sd-scripts 48d368fa, sd3_models.py,
#: itself from Stability's sd3-ref), which loads the released files by these names.
GOLDEN = {
    "3-medium": (MEDIUM, 491, "94a575a4a07bf8f79c1925f62da715a6f301ba0bddc705c8dee31f9309018ee7"),
    "3.5-medium": (MEDIUM_35, 665, "87a5a0c27c81dd31ecb3e3e558a1fc9cf2df9e0a09d84ce8b0a7f272d191a709"),
    "3.5-large": (LARGE_35, 923, "47478f031adcee0c50c48f906ac54064f659e8e21638aae47f3cc4b325d0b2d7"),
}


def told(net: SD3Transformer2DModel) -> dict[str, Any]:
    return {name: value for name, value in net.config.items() if name[:1] != "_"}


def as_theirs(net: SD3Transformer2DModel) -> dict[str, torch.Tensor]:
    named = net.state_dict()
    return {
        line.theirs: keymaps.theirs_of(line.form, [named[name] for name in line.ours])
        for line in mmdit.lines(net.config, named)
    }


@pytest.fixture(params=[{}, NORMED, DUAL, {"patch_size": 1}], ids=["3", "3.5-large", "3.5-medium", "fine"])
def net(request: pytest.FixtureRequest) -> SD3Transformer2DModel:
    torch.manual_seed(0)
    net = SD3Transformer2DModel(**SMALL, **request.param)
    for tensor in net.state_dict().values():
        tensor.normal_()
    return net


def test_diffusers_converter_finds_what_was_written(net: SD3Transformer2DModel):
    found = convert_sd3_transformer_checkpoint_to_diffusers(as_theirs(net))
    expected = net.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_there_and_back(net: SD3Transformer2DModel):
    theirs, expected = as_theirs(net), net.state_dict()
    found = {}
    for line in mmdit.lines(net.config, expected):
        found |= zip(line.ours, keymaps.ours_of(line.form, theirs[line.theirs], len(line.ours)), strict=True)
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_shapes_tell_the_configuration(net: SD3Transformer2DModel):
    """But for the heads, unless their norms tell, and the size of pictures."""
    shapes = {name: tuple(tensor.shape) for name, tensor in as_theirs(net).items()}
    found = mmdit.config(shapes)
    assert mmdit.config(dict(reversed(shapes.items()))) == found
    expected = told(net) | {"dual_attention_layers": list(net.config.dual_attention_layers)}
    if net.config.qk_norm is None:
        expected |= {"attention_head_dim": 16, "num_attention_heads": 1}
    assert found == {name: value for name, value in expected.items() if name != "sample_size"}


@pytest.mark.parametrize("name", GOLDEN)
def test_released_sizes(name: str):
    config, count, digest = GOLDEN[name]
    wanted = conversion.skeleton(SD3Transformer2DModel, config)
    table = mmdit.lines(config, wanted)
    shapes = {line.theirs: keymaps.shape_of(line.form, [wanted[each] for each in line.ours]) for line in table}
    listed = "\n".join(f"{each} {list(shape)}" for each, shape in sorted(shapes.items()))
    assert (len(shapes), hashlib.sha256(listed.encode()).hexdigest()) == (count, digest)
    with torch.device("meta"):
        net = SD3Transformer2DModel(**config)
        file = {each: torch.empty(shape) for each, shape in shapes.items()}
    found = convert_sd3_transformer_checkpoint_to_diffusers(file)
    assert {each: tuple(tensor.shape) for each, tensor in found.items()} == wanted
    expected = told(net) | {"dual_attention_layers": list(net.config.dual_attention_layers)}
    assert mmdit.config(shapes) | {"sample_size": 128} == expected


@pytest.mark.parametrize("name", GOLDEN)
def test_layers_by_their_original_names(name: str):
    config = GOLDEN[name][0]
    wanted = conversion.skeleton(SD3Transformer2DModel, config)
    for line in mmdit.lines(config, [each for each in wanted if each.endswith(".weight")]):
        shape = keymaps.shape_of(line.form, [wanted[each] for each in line.ours])
        if len(shape) > 1:
            expected = tuple(each.removesuffix(".weight") for each in line.ours)
            assert mmdit.layers(line.theirs.removesuffix(".weight"), *shape[:2]) == (expected, line.form)
    assert mmdit.layers("joint_blocks.0.x_block.attn.query", 1, 1)[0] == ()


@pytest.mark.parametrize(("layer", "rows", "wanted"), [
    ("proj_out", 64, ("final_layer.linear", "same", 0)),
    ("norm_out.linear", 3072, ("final_layer.adaLN_modulation.1", "swapped", 0)),
    ("context_embedder", 1536, ("context_embedder", "same", 0)),
    ("transformer_blocks.23.attn.to_q", 1536, ("joint_blocks.23.x_block.attn.qkv", "stacked", 0)),
    ("transformer_blocks.2.attn.add_v_proj", 1536, ("joint_blocks.2.context_block.attn.qkv", "stacked", 2)),
    ("transformer_blocks.5.ff.net.0.proj", 6144, ("joint_blocks.5.x_block.mlp.fc1", "same", 0)),
    ("transformer_blocks.5.ff_context.net.2", 1536, ("joint_blocks.5.context_block.mlp.fc2", "same", 0)),
    ("transformer_blocks.5.norm1.linear", 3072, ("joint_blocks.5.x_block.adaLN_modulation.1", "same", 0)),
    ("transformer_blocks.5.norm1_context.linear", 9216, ("joint_blocks.5.context_block.adaLN_modulation.1", "same", 0)),
    ("transformer_blocks.5.norm1_context.linear", 3072,  # scaled and shifted only, as the last block's is
     ("joint_blocks.5.context_block.adaLN_modulation.1", "swapped", 0)),
    ("transformer_blocks.5.nonsense", 1536, None),
    ("nonsense", 1536, None),
])  # fmt: skip
def test_single_layers_by_their_original_names(layer: str, rows: int, wanted: tuple[str, str, int] | None):
    found = mmdit.module_of(layer, rows, 1536)
    assert found == wanted
    if found:
        back, form = mmdit.layers(found[0], rows, 1536)
        assert (back[found[2]], form) == (layer, found[1])
