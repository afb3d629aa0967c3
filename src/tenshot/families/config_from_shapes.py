"""What the shapes in a file of the original layout say about the nets in it.

The number of attention heads is not among it: heads are those of the family, which is right for every model trained
from a released one. Where a configuration is told elsewhere, it wins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tenshot.families import text_model

Shapes = Mapping[str, tuple[int, ...]]
GROUPS = 32  # of group normalisation, in every net of these families


def count(shapes: Shapes, pattern: str) -> int:
    """How many different numbers stand at the group of `pattern` in the names."""
    found = re.compile(pattern)
    return len({match[1] for name in shapes if (match := found.match(name))})


def unet(shapes: Shapes) -> dict[str, object]:
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
    channels = channels_in, shapes["out.2.weight"][0]
    deepest = count(shapes, r"middle_block\.1\.transformer_blocks\.(\d+)\.")
    linear = _is_linear(shapes, ".1.proj_in.weight")
    return _unet(channels, blocks, deepest, linear, _text_width(shapes), shapes.get("label_emb.0.0.weight"))


def unet_today(shapes: Shapes) -> dict[str, object]:
    """The same from diffusers' own names."""
    blocks: list[tuple[int, list[int]]] = []
    for place in range(count(shapes, r"down_blocks\.(\d+)\.")):
        start = rf"down_blocks\.{place}"
        layers = count(shapes, rf"{start}\.resnets\.(\d+)\.")
        depths = [count(shapes, rf"{start}\.attentions\.{n}\.transformer_blocks\.(\d+)\.") for n in range(layers)]
        blocks.append((shapes[f"down_blocks.{place}.resnets.0.conv1.weight"][0], depths))
    channels = shapes["conv_in.weight"][1], shapes["conv_out.weight"][0]
    deepest = count(shapes, r"mid_block\.attentions\.0\.transformer_blocks\.(\d+)\.")
    linear = _is_linear(shapes, ".proj_in.weight")
    return _unet(channels, blocks, deepest, linear, _text_width(shapes), shapes.get("add_embedding.linear_1.weight"))


def _unet(
    channels: tuple[int, int],
    blocks: list[tuple[int, list[int]]],
    deepest: int,
    linear: bool,
    text: int,
    label: tuple[int, ...] | None,
) -> dict[str, object]:
    """blocks: on the way down, width and depth of each layer's transformer; deepest: of the middle's."""
    widths = [width for width, _ in blocks]
    depths = [max(each, default=0) for _, each in blocks]
    config: dict[str, object] = {
        "in_channels": channels[0],
        "out_channels": channels[1],
        "block_out_channels": widths,
        "layers_per_block": _one_or_all([len(each) for _, each in blocks]),
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in depths[::-1]],
        "cross_attention_dim": text,
        "use_linear_projection": linear,
        "norm_num_groups": GROUPS,
        "attention_head_dim": [max(1, width // 64) for width in widths] if linear else 8,
        # A block without attention has no depth; the last one's is also that of the middle.
        "transformer_layers_per_block": _one_or_all([*(max(1, depth) for depth in depths[:-1]), deepest]),
    }
    if label is not None:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": label[1],
        }
    return config


def _is_linear(shapes: Shapes, end: str) -> bool:
    return next((len(shape) == 2 for name, shape in shapes.items() if name.endswith(end)), False)


def _text_width(shapes: Shapes) -> int:
    return next((shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")), 0)


def controlnet(shapes: Shapes) -> dict[str, object]:
    """The configuration of a ControlNetModel from original names without their prefix."""
    half = unet({**shapes, "out.2.weight": (4,)})
    hints = sorted(int(name.split(".")[1]) for name in shapes if re.fullmatch(r"input_hint_block\.\d+\.weight", name))
    widths = [shapes[f"input_hint_block.{place}.weight"][0] for place in hints]
    return _controlled(half, [widths[0], *widths[2:-1:2]], shapes["input_hint_block.0.weight"][1])


def controlnet_today(shapes: Shapes) -> dict[str, object]:
    """The same from diffusers' own names."""
    half = unet_today({**shapes, "conv_out.weight": (4,)})
    start, later = "controlnet_cond_embedding", r"controlnet_cond_embedding\.blocks\.(\d+)\."
    widths = [shapes[f"{start}.blocks.{n}.weight"][0] for n in range(1, count(shapes, later), 2)]
    first = shapes[f"{start}.conv_in.weight"]
    return _controlled(half, [first[0], *widths], first[1])


def _controlled(half: dict[str, object], widths: list[int], channels: int) -> dict[str, object]:
    del half["out_channels"], half["up_block_types"]
    return half | {"conditioning_embedding_out_channels": widths, "conditioning_channels": channels}


def _one_or_all(values: list[int]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else values


def vae(shapes: Shapes) -> dict[str, object]:
    """The configuration of an AutoencoderKL from original names without their prefix."""
    return _vae(
        shapes, "encoder.down.{}.block.0.conv1.weight", r"encoder\.down\.0\.block\.(\d+)\.", r"encoder\.down\.(\d+)\."
    )


def vae_today(shapes: Shapes) -> dict[str, object]:
    """The same from diffusers' own names."""
    blocks = r"encoder\.down_blocks\.(\d+)\."
    layers = r"encoder\.down_blocks\.0\.resnets\.(\d+)\."
    return _vae(shapes, "encoder.down_blocks.{}.resnets.0.conv1.weight", layers, blocks)


def _vae(shapes: Shapes, width: str, layers: str, blocks: str) -> dict[str, object]:
    made = count(shapes, blocks)
    return {
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": [shapes[width.format(n)][0] for n in range(made)],
        "layers_per_block": count(shapes, layers),
        "down_block_types": ["DownEncoderBlock2D"] * made,
        "up_block_types": ["UpDecoderBlock2D"] * made,
        "norm_num_groups": GROUPS,
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
    }


def clip(shapes: Shapes) -> dict[str, object]:
    """The configuration of a CLIPTextModel from transformers' names, behind `transformer.text_model.`"""
    start = f"transformer.{text_model.PREFIX}"
    words, width = shapes[f"{start}embeddings.token_embedding.weight"]
    return _text(words, width) | {
        "max_position_embeddings": shapes[f"{start}embeddings.position_embedding.weight"][0],
        "num_hidden_layers": count(shapes, rf"{re.escape(start)}encoder\.layers\.(\d+)\."),
        "intermediate_size": shapes[f"{start}encoder.layers.0.mlp.fc1.weight"][0],
        "projection_dim": shapes.get("transformer.text_projection.weight", (width,))[0],
        "hidden_act": "quick_gelu",
    }


def clip_g(shapes: Shapes) -> dict[str, object]:
    """The same of OpenCLIP's largest, where it comes in transformers' names."""
    return clip(shapes) | {"hidden_act": "gelu"}


def t5(shapes: Shapes) -> dict[str, object]:
    """The configuration of a T5EncoderModel (version 1.1) from transformers' names, behind `transformer.`"""
    words, width = shapes["transformer.shared.weight"]
    first = "transformer.encoder.block.0.layer"
    buckets, heads = shapes[f"{first}.0.SelfAttention.relative_attention_bias.weight"]
    return {
        "vocab_size": words,
        "d_model": width,
        "d_kv": shapes[f"{first}.0.SelfAttention.q.weight"][0] // heads,
        "d_ff": shapes[f"{first}.1.DenseReluDense.wi_0.weight"][0],
        "num_layers": count(shapes, r"transformer\.encoder\.block\.(\d+)\."),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "feed_forward_proj": "gated-gelu",
    }


def open_clip(shapes: Shapes) -> dict[str, object]:
    """The same from OpenCLIP's names, behind `model.`"""
    words, width = shapes["model.token_embedding.weight"]
    return _text(words, width) | {
        "max_position_embeddings": shapes["model.positional_embedding"][0],
        "num_hidden_layers": count(shapes, r"model\.transformer\.resblocks\.(\d+)\."),
        "intermediate_size": shapes["model.transformer.resblocks.0.mlp.c_fc.weight"][0],
        "projection_dim": shapes.get("model.text_projection", (width, width))[1],
        "hidden_act": "gelu",
    }


def _text(words: int, width: int) -> dict[str, object]:
    return {
        "vocab_size": words,
        "hidden_size": width,
        "num_attention_heads": max(1, width // 64),
        "projection_dim": width,
        "bos_token_id": words - 2,
        "eos_token_id": words - 1,
        "pad_token_id": words - 1,
    }
