"""The names that Stable Diffusion's first code gave its tensors, beside those of diffusers and transformers.

For a net of any size of its kind, by its configuration. Source: CompVis/stable-diffusion,
Stability-AI/generative-models (ldm.modules.diffusionmodules), mlfoundations/open_clip (transformer.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import torch

from tenshot.core.json_types import Config
from tenshot.families import text_model

Form = Literal["same", "square", "turned", "stacked", "swapped"]


class Line(NamedTuple):
    """One tensor in the original layout, and the tensors that say the same in ours.

    form: "same"; "square": theirs is a 1x1 convolution [o, i, 1, 1] and ours a matrix [o, i]; "turned": transposed;
    "stacked": theirs is ours one below the other; "swapped": the lower half of ours is the upper one of theirs.
    """

    theirs: str
    ours: tuple[str, ...]
    form: Form = "same"


def shape_of(form: Form, ours: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The shape in the original layout."""
    first = tuple(ours[0])
    if form == "square":
        return (*first, 1, 1)
    if form == "turned":
        return first[::-1]
    if form == "stacked":
        return (sum(each[0] for each in ours), *first[1:])
    return first


def theirs_of(form: Form, ours: Sequence[torch.Tensor]) -> torch.Tensor:
    """Our tensors as the original layout has them."""
    if form == "square":
        return ours[0][:, :, None, None]
    if form == "turned":
        return ours[0].T.contiguous()
    if form == "swapped":
        return torch.cat(ours[0].chunk(2)[::-1])
    return torch.cat(list(ours)) if form == "stacked" else ours[0]


def ours_of(form: Form, theirs: torch.Tensor, parts: int) -> list[torch.Tensor]:
    """An original tensor as ours. A matrix where a 1x1 convolution was expected is taken as well."""
    if form == "square":
        return [theirs.reshape(theirs.shape[:2])]
    if form == "turned":
        return [theirs.T.contiguous()]
    if form == "swapped":
        return [torch.cat(theirs.chunk(2)[::-1])]
    return list(theirs.chunk(parts)) if form == "stacked" else [theirs]


_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def unet_modules(config: Config) -> dict[str, str]:
    """A UNet's modules as diffusers names them -> their original names; what lies inside is named alike."""
    found = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.attentions.0": "middle_block.1",
    }
    found |= _resnet("mid_block.resnets.0", "middle_block.0") | _resnet("mid_block.resnets.1", "middle_block.2")
    blocks = len(config["block_out_channels"])
    layers = _each(config["layers_per_block"], blocks)
    place = 1
    for block, kind in enumerate(config["down_block_types"]):
        for layer in range(layers[block]):
            found |= _resnet(f"down_blocks.{block}.resnets.{layer}", f"input_blocks.{place}.0")
            if "CrossAttn" in kind:
                found[f"down_blocks.{block}.attentions.{layer}"] = f"input_blocks.{place}.1"
            place += 1
        if block < blocks - 1:
            found[f"down_blocks.{block}.downsamplers.0.conv"] = f"input_blocks.{place}.0.op"
            place += 1
    place = 0
    for block, kind in enumerate(config["up_block_types"]):
        attends = "CrossAttn" in kind
        for layer in range(layers[::-1][block] + 1):
            found |= _resnet(f"up_blocks.{block}.resnets.{layer}", f"output_blocks.{place}.0")
            if attends:
                found[f"up_blocks.{block}.attentions.{layer}"] = f"output_blocks.{place}.1"
            place += 1
        if block < blocks - 1:
            found[f"up_blocks.{block}.upsamplers.0.conv"] = f"output_blocks.{place - 1}.{1 + attends}.conv"
    return found


def _resnet(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.{inner}": f"{theirs}.{other}" for inner, other in _RESNET.items()}


def _each(value: int | Sequence[int], count: int) -> list[int]:
    return [value] * count if isinstance(value, int) else list(value)


def unet(config: Config, names: Iterable[str]) -> list[Line]:
    modules = unet_modules(config)
    return [Line(renamed(name, modules), (name,)) for name in names]


def renamed(name: str, modules: Mapping[str, str], otherwise: str = "") -> str:
    """The name with the longest of its beginnings that `modules` knows replaced; KeyError or `otherwise` if none is."""
    words = name.split(".")
    for end in range(len(words), 0, -1):
        if (start := ".".join(words[:end])) in modules:
            return ".".join([modules[start], *words[end:]])
    if not otherwise:
        raise KeyError(name)
    return otherwise


_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def vae(config: Config, names: Iterable[str]) -> list[Line]:
    blocks = len(config["block_out_channels"])
    return [_vae_line(name, blocks) for name in names]


def _vae_line(name: str, blocks: int) -> Line:
    theirs = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
    theirs = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{blocks - 1 - int(m[1])}.block", theirs)
    theirs = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", theirs)
    theirs = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", theirs)
    theirs = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", theirs)
    theirs = theirs.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    if "mid_block.attentions.0." not in theirs:
        return Line(theirs, (name,))
    inner = theirs.partition("attentions.0.")[2].rpartition(".")
    theirs = f"{theirs.partition('.')[0]}.mid.attn_1.{_VAE_ATTENTION[inner[0]]}.{inner[2]}"
    return Line(theirs, (name,), "square" if inner[2] == "weight" and inner[0] != "group_norm" else "same")


def clip(names: Iterable[str]) -> list[Line]:
    """A CLIP text encoder as transformers always stored it, whatever its version calls the tensors in memory."""
    return [Line(f"transformer.{text_model.stored(name)}", (name,)) for name in names]


def t5(names: Iterable[str]) -> list[Line]:
    """A T5 encoder, as transformers names it."""
    return [Line(f"transformer.{name}", (name,)) for name in names]


_OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def open_clip(names: Iterable[str]) -> list[Line]:
    """A text encoder as OpenCLIP stores it: query, key and value in one, the projection transposed."""
    return list(_open_clip_lines(names))


def _open_clip_lines(names: Iterable[str]) -> Iterator[Line]:
    for name in names:
        bare = text_model.bare(name)
        if bare == "text_projection.weight":
            yield Line("model.text_projection", (name,), "turned")
        elif bare in _OPEN_CLIP:
            yield Line(f"model.{_OPEN_CLIP[bare]}", (name,))
        else:
            _, _, number, inner = bare.split(".", 3)
            module, _, kind = inner.rpartition(".")
            layer = f"model.transformer.resblocks.{number}"
            if module in _OPEN_CLIP_LAYER:
                yield Line(f"{layer}.{_OPEN_CLIP_LAYER[module]}.{kind}", (name,))
            elif module == "self_attn.q_proj":
                three = tuple(name.replace("q_proj", f"{each}_proj") for each in "qkv")
                yield Line(f"{layer}.attn.in_proj_{kind}", three, "stacked")


def controlnet(config: Config, names: Iterable[str]) -> list[Line]:
    """A ControlNet (lllyasviel/ControlNet, cldm/cldm.py): the UNet's first half, and what it adds."""
    blocks, layers = len(config["block_out_channels"]), config["layers_per_block"]
    modules = unet_modules({**config, "up_block_types": ("UpBlock2D",) * blocks})
    hints = len(config.get("conditioning_embedding_out_channels") or (16, 32, 96, 256))
    start = "controlnet_cond_embedding"
    modules |= {f"{start}.conv_in": "input_hint_block.0", f"{start}.conv_out": f"input_hint_block.{4 * hints - 2}"}
    modules |= {f"{start}.blocks.{number}": f"input_hint_block.{2 * number + 2}" for number in range(2 * hints - 2)}
    modules |= {f"controlnet_down_blocks.{number}": f"zero_convs.{number}.0" for number in range(blocks * (layers + 1))}
    modules["controlnet_mid_block"] = "middle_block_out.0"
    return [Line(renamed(name, modules), (name,)) for name in names]
