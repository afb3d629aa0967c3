"""The MMDiT of Stable Diffusion 3 (arXiv 2403.03206) as Stability's first code names it, beside diffusers' names.

Sources: Stability-AI/sd3.5 (mmditx.py), diffusers (SD3Transformer2DModel).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator

from tenshot.core.json_types import Config
from tenshot.families.config_from_shapes import Shapes, count
from tenshot.families.keymaps import Form, Line, renamed

#: Ours -> theirs, outside the blocks and in each of them.
OUTER = {
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj": "x_embedder.proj",
    "context_embedder": "context_embedder",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
BLOCK = {
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "attn2.to_out.0": "x_block.attn2.proj",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
#: Query, key and value, which are one matrix there.
STACKS = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
}
#: Names within names that hold an underscore of their own, in files that have no dots.
WORDS = (
    r"joint_blocks|x_block|context_block|adaLN_modulation|(?:x|context|t|y|timestep|text)_embedder|final_layer"
    r"|add_[qkv]_proj|to_add_out|ff_context|norm1_context|norm_added_[qk]|norm_[qk]|norm_out|time_text_embed|pos_embed"
)
NORM = "x_block.attn.ln_q.weight"
HEAD = 64  # channels of an attention head in every released size


def modules(config: Config) -> dict[str, str]:
    """Our modules -> their original names, but for those that are `stacks`."""
    blocks = range(config["num_layers"])
    inner = {f"{ours(b)}.{one}": f"{theirs(b)}.{other}" for b in blocks for one, other in BLOCK.items()}
    return OUTER | inner


def stacks(config: Config) -> dict[str, tuple[str, ...]]:
    """Original modules -> ours that lie in them one below the other."""
    return {
        f"{theirs(block)}.{module}": tuple(f"{ours(block)}.{each}" for each in three)
        for block in range(config["num_layers"])
        for module, three in STACKS.items()
    }


def ours(block: int) -> str:
    return f"transformer_blocks.{block}"


def theirs(block: int) -> str:
    return f"joint_blocks.{block}"


def lines(config: Config, names: Iterable[str]) -> list[Line]:
    return list(_lines(config, list(names)))


def _lines(config: Config, names: list[str]) -> Iterator[Line]:
    single, stacked = modules(config), stacks(config)
    first = {three[0]: module for module, three in stacked.items()}
    within = {each for three in stacked.values() for each in three}
    # diffusers' norm that only shifts and scales has the scale first, Stability's the shift.
    swapped = ("norm_out.linear.", f"{ours(config['num_layers'] - 1)}.norm1_context.linear.")
    for name in names:
        module, _, kind = name.rpartition(".")
        if module in first:
            three = tuple(f"{each}.{kind}" for each in stacked[first[module]])
            yield Line(f"{first[module]}.{kind}", three, "stacked")
        elif module not in within:
            yield Line(renamed(name, single), (name,), "swapped" if name.startswith(swapped) else "same")


def config(shapes: Shapes) -> dict[str, object]:
    """The configuration of an SD3Transformer2DModel from original names without their prefix."""
    dual = sorted(int(name.split(".")[1]) for name in shapes if name.endswith(".x_block.attn2.qkv.weight"))
    layers = count(shapes, r"joint_blocks\.(\d+)\.")
    known = {f"{ours}.weight": shapes.get(f"{theirs}.weight", ()) for ours, theirs in OUTER.items()}
    known["pos_embed.pos_embed"] = shapes["pos_embed"]
    return _config(
        {name: shape for name, shape in known.items() if shape}, layers, dual, shapes.get(f"{theirs(0)}.{NORM}")
    )


def config_today(shapes: Shapes) -> dict[str, object]:
    """The same from diffusers' own names."""
    dual = sorted(int(name.split(".")[1]) for name in shapes if name.endswith(".attn2.to_q.weight"))
    layers = count(shapes, r"transformer_blocks\.(\d+)\.")
    return _config(shapes, layers, dual, shapes.get(f"{ours(0)}.attn.norm_q.weight"))


def _config(shapes: Shapes, layers: int, dual: list[int], norm: tuple[int, ...] | None) -> dict[str, object]:
    """norm: the shape of the first queries' norm, where there is one."""
    width, channels, patch = shapes["pos_embed.proj.weight"][:3]
    projected, text = shapes["context_embedder.weight"]
    head = norm[0] if norm else min(HEAD, width)
    return {
        "patch_size": patch,
        "in_channels": channels,
        "out_channels": shapes["proj_out.weight"][0] // patch**2,
        "num_layers": layers,
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": text,
        "caption_projection_dim": projected,
        "pooled_projection_dim": shapes["time_text_embed.text_embedder.linear_1.weight"][1],
        "pos_embed_max_size": math.isqrt(shapes["pos_embed.pos_embed"][1]),
        "dual_attention_layers": dual,
        "qk_norm": "rms_norm" if norm else None,
    }


def layers(module: str, rows: int, columns: int) -> tuple[tuple[str, ...], Form]:
    """Our layers of an original one, whose weight is [rows, columns], and the form they have there; none: unknown.

    The last block's context is only scaled and shifted, by twice its width, in any number of blocks.
    """
    match = re.fullmatch(r"joint_blocks\.(\d+)\.(.+)", module)
    if not match:
        found = [ours for ours, theirs in OUTER.items() if theirs == module]
        return tuple(found), "swapped" if module.startswith("final_layer.adaLN") else "same"
    start, inner = ours(int(match[1])), match[2]
    if inner in STACKS:
        return tuple(f"{start}.{each}" for each in STACKS[inner]), "stacked"
    found = [f"{start}.{ours}" for ours, theirs in BLOCK.items() if theirs == inner]
    swapped = inner == "context_block.adaLN_modulation.1" and rows == 2 * columns
    return tuple(found), "swapped" if swapped else "same"


def module_of(layer: str, rows: int, columns: int) -> tuple[str, Form, int] | None:
    """The original name of one of our layers, the form that it has there, and its place among those in it."""
    match = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", layer)
    if not match:
        return (OUTER[layer], "swapped" if layer == "norm_out.linear" else "same", 0) if layer in OUTER else None
    start, inner = theirs(int(match[1])), match[2]
    for module, three in STACKS.items():
        if inner in three:
            return f"{start}.{module}", "stacked", three.index(inner)
    swapped = inner == "norm1_context.linear" and rows == 2 * columns
    return (f"{start}.{BLOCK[inner]}", "swapped" if swapped else "same", 0) if inner in BLOCK else None
