"""What the shapes in a file of the original layout say about the nets in it.

The number of attention heads is not among it: heads are those of the family, which is right for every model trained
from a released one. Where a configuration is told elsewhere, it wins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
GROUPS = 32  # of group normalisation, in every net of these families


def count(shapes: Shapes, pattern: str) -> int:
    """How many different numbers stand at the group of `pattern` in the names."""
    found = re.compile(pattern)
    return len({match[1] for name in shapes if (match := found.match(name))})


def unet(shapes: Shapes) -> dict[str, Any]:
    """The configuration of a UNet2DConditionModel from original names without their prefix."""
    wide, channels_in = shapes["input_blocks.0.0.weight"][:2]
    blocks: list[tuple[int, list[int]]] = [(wide, [])]
    for place in range(1, count(shapes, r"input_blocks\.(\d+)\.")):
        start = f"input_blocks.{place}"
        if f"{start}.0.op.weight" in shapes:
            blocks.append((0, []))
        else:
            depth = count(shapes, rf"{re.escape(start)}\.1\.transformer_blocks\.(\d+)\.")
            blocks[-1] = (shapes[f"{start}.0.in_layers.2.weight"][0], [*blocks[-1][1], depth])
    widths = [width for width, _ in blocks]
    depths = [max(each, default=0) for _, each in blocks]
    linear = next((len(shape) == 2 for name, shape in shapes.items() if name.endswith(".1.proj_in.weight")), False)
    text = next((shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")), 0)
    deepest = count(shapes, r"middle_block\.1\.transformer_blocks\.(\d+)\.")
    config: dict[str, Any] = {
        "in_channels": channels_in,
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": _one_or_all([len(each) for _, each in blocks]),
        "down_block_types": [_down(depth) for depth in depths],
        "up_block_types": [_up(depth) for depth in depths[::-1]],
        "cross_attention_dim": text,
        "use_linear_projection": linear,
        "norm_num_groups": GROUPS,
        "attention_head_dim": [max(1, width // 64) for width in widths] if linear else 8,
        # A block without attention has no depth; the last one's is also that of the middle.
        "transformer_layers_per_block": _one_or_all([*(max(1, depth) for depth in depths[:-1]), deepest]),
    }
    if "label_emb.0.0.weight" in shapes:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": shapes["label_emb.0.0.weight"][1],
        }
    return config


def controlnet(shapes: Shapes) -> dict[str, Any]:
    """The configuration of a ControlNetModel from original names without their prefix."""
    half = unet({**shapes, "out.2.weight": (4,)})
    hints = sorted(int(name.split(".")[1]) for name in shapes if re.fullmatch(r"input_hint_block\.\d+\.weight", name))
    widths = [shapes[f"input_hint_block.{place}.weight"][0] for place in hints]
    del half["out_channels"], half["up_block_types"]
    return half | {
        "conditioning_embedding_out_channels": [widths[0], *widths[2:-1:2]],
        "conditioning_channels": shapes["input_hint_block.0.weight"][1],
    }


def _one_or_all(values: list[int]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else values


def _down(depth: int) -> str:
    return "CrossAttnDownBlock2D" if depth else "DownBlock2D"


def _up(depth: int) -> str:
    return "CrossAttnUpBlock2D" if depth else "UpBlock2D"


def vae(shapes: Shapes) -> dict[str, Any]:
    """The configuration of an AutoencoderKL from original names without their prefix."""
    blocks = count(shapes, r"encoder\.down\.(\d+)\.")
    return {
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": [shapes[f"encoder.down.{n}.block.0.conv1.weight"][0] for n in range(blocks)],
        "layers_per_block": count(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        "down_block_types": ["DownEncoderBlock2D"] * blocks,
        "up_block_types": ["UpDecoderBlock2D"] * blocks,
        "norm_num_groups": GROUPS,
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
    }


def clip(shapes: Shapes) -> dict[str, Any]:
    """The configuration of a CLIPTextModel from transformers' names, behind `transformer.text_model.`"""
    start = "transformer.text_model."
    words, width = shapes[f"{start}embeddings.token_embedding.weight"]
    return _text(words, width) | {
        "max_position_embeddings": shapes[f"{start}embeddings.position_embedding.weight"][0],
        "num_hidden_layers": count(shapes, rf"{re.escape(start)}encoder\.layers\.(\d+)\."),
        "intermediate_size": shapes[f"{start}encoder.layers.0.mlp.fc1.weight"][0],
        "hidden_act": "quick_gelu",
    }


def open_clip(shapes: Shapes) -> dict[str, Any]:
    """The same from OpenCLIP's names, behind `model.`"""
    words, width = shapes["model.token_embedding.weight"]
    return _text(words, width) | {
        "max_position_embeddings": shapes["model.positional_embedding"][0],
        "num_hidden_layers": count(shapes, r"model\.transformer\.resblocks\.(\d+)\."),
        "intermediate_size": shapes["model.transformer.resblocks.0.mlp.c_fc.weight"][0],
        "projection_dim": shapes.get("model.text_projection", (width, width))[1],
        "hidden_act": "gelu",
    }


def _text(words: int, width: int) -> dict[str, Any]:
    return {
        "vocab_size": words,
        "hidden_size": width,
        "num_attention_heads": max(1, width // 64),
        "projection_dim": width,
        "bos_token_id": words - 2,
        "eos_token_id": words - 1,
        "pad_token_id": words - 1,
    }
