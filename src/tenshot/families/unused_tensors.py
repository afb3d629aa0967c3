"""What files of the original layout hold though no picture depends on it.

diffusers' folders have none of it. Programs that make room for it, and find nothing, keep what was in memory: so it is
written, as what changes nothing. OpenCLIP's code: mlfoundations/open_clip (transformer.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch

from tenshot.core.json_types import Config
from tenshot.families.base import Family
from tenshot.io.tensor_files import Lazy

WHOLE = 24  # layers of Stable Diffusion 2's text encoder, of which the last is not read
SCALE = math.log(100)  # what CLIP's logits were scaled by at the end of its training
Made = tuple[tuple[int, ...], Callable[[torch.dtype], torch.Tensor]]


def of(family: Family, configs: Mapping[str, Config], dtype: torch.dtype) -> dict[str, Lazy]:
    """The tensors by their original names."""
    return {
        f"{root}model.{name}": Lazy(shape, dtype, partial(made, dtype))
        for part, (root, dialect) in family.original.items()
        if dialect == "open_clip"
        for name, (shape, made) in _of_text_encoder(configs[part], projects=part != "text_encoder")
    }


def _of_text_encoder(config: Config, projects: bool) -> Iterator[tuple[str, Made]]:
    width, inner = config["hidden_size"], config["intermediate_size"]
    yield "logit_scale", ((), lambda dtype: torch.tensor(SCALE, dtype=dtype))
    if projects:
        return
    yield "text_projection", ((width, width), lambda dtype: torch.eye(width, dtype=dtype))
    if config["num_hidden_layers"] == WHOLE - 1:
        yield from _passing_on(f"transformer.resblocks.{WHOLE - 1}", width, inner)


def _passing_on(layer: str, width: int, inner: int) -> Iterator[tuple[str, Made]]:
    """A layer that adds nothing to what it is given."""
    for norm in ("ln_1", "ln_2"):
        yield f"{layer}.{norm}.weight", ((width,), lambda dtype: torch.ones(width, dtype=dtype))
        yield f"{layer}.{norm}.bias", _zeros(width)
    for name, shape in (
        ("attn.in_proj_", (3 * width, width)),
        ("attn.out_proj.", (width, width)),
        ("mlp.c_fc.", (inner, width)),
        ("mlp.c_proj.", (width, inner)),
    ):
        yield f"{layer}.{name}weight", _zeros(*shape)
        yield f"{layer}.{name}bias", _zeros(shape[0])


def _zeros(*shape: int) -> Made:
    return shape, lambda dtype: torch.zeros(shape, dtype=dtype)
