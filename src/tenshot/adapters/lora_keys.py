"""What programs call the tensors of a LoRA, and which layer of a model each belongs to.

Read: kohya's names (lora_unet_..., with diffusers' or the original blocks), diffusers' pipelines of every age, peft's,
LyCORIS' own (lycoris_...).
A layer is known here by its part and by its name in diffusers; in text encoders without `text_model.`
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from tenshot.core.json_types import Config
from tenshot.families import keymaps, registry, released, text_model

Kind = str  #: down, up, mid, alpha, magnitude, or LyCORIS' own: hada_w1_a, lokr_t2, diff_b, w_norm


class LoraKey(NamedTuple):
    """Where a tensor belongs."""

    part: str
    layer: str
    kind: Kind


_PRODUCTS = r"hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t[12])"  # of LyCORIS and peft
_LYCORIS = rf"{_PRODUCTS}|diff|diff_b|w_norm|b_norm|oft_blocks|rescale|on_input"
_TENSORS = rf"lora_down\.weight|lora_up\.weight|lora_mid\.weight|alpha|dora_scale|[ab][12]\.weight|weight|{_LYCORIS}"
_KOHYA = re.compile(rf"(lora_unet|lora_transformer|lora_te2|lora_te1|lora_te|lycoris)_([^.]+)\.({_TENSORS})")
_KINDS = {"lora_down.weight": "down", "lora_up.weight": "up", "lora_mid.weight": "mid", "dora_scale": "magnitude"}
_KOHYA_PARTS = {
    "lora_te": "text_encoder",
    "lora_te1": "text_encoder",
    "lora_te2": "text_encoder_2",
}
_TEXT = (text_model.PREFIX, "encoder.layers.")  # how layers of text encoders begin, where only that tells the part
_DOTTED: tuple[tuple[str, Kind], ...] = (
    (r"\.lora_A(?:\.\w+)?\.weight", "down"),
    (r"\.lora_B(?:\.\w+)?\.weight", "up"),
    (r"\.lora_B(?:\.\w+)?\.bias", "up_bias"),
    (r"\.lora_magnitude_vector(?:\.\w+)?(?:\.weight)?", "magnitude"),
    (r"\.(?:lora|lora_linear_layer)\.down\.weight", "down"),
    (r"\.(?:lora|lora_linear_layer)\.up\.weight", "up"),
    (r"\.lora_down\.weight", "down"),
    (r"\.lora_up\.weight", "up"),
    (r"\.lora_mid\.weight", "mid"),
    (r"\.dora_scale", "magnitude"),
    (r"\.alpha", "alpha"),
)
_PROCESSOR = re.compile(r"(.+)\.processor\.(to_[qkv]|to_out)_lora\.(down|up)\.weight")  # diffusers in early 2023
_PARTS = (*registry.DENOISERS, "text_encoder_2", "text_encoder")

# Names within names that hold an underscore of their own; all else is letters and digits.
_WORDS = re.compile(
    "".join(f"{each.kohya.words}|" for each in registry.FAMILIES if each.kohya.words)
    + r"down_blocks|up_blocks|mid_block|transformer_blocks|time_emb_proj|conv_shortcut|conv_in|conv_norm_out|conv_out"
    r"|layer_norm[12]|final_layer_norm"
    r"|time_embedding|add_embedding|linear_[12]|proj_in|proj_out|to_[qkv]|to_out|[qkv]_proj|out_proj|self_attn|text_model"
    r"|text_projection|input_blocks|output_blocks|middle_block|in_layers|out_layers|emb_layers|skip_connection"
    r"|time_embed|label_emb|[a-z0-9]+"
)


def parse(name: str, unet: Config | None = None) -> LoraKey | None:
    """The place of the tensor called `name`; None where it belongs to no LoRA.

    unet: the configuration whose blocks original names count; default: the released ones.
    """
    if match := _KOHYA.fullmatch(name):
        dotted = _dotted(match[2])
        part = "text_encoder" if match[1] == "lycoris" and dotted.startswith(_TEXT) else _KOHYA_PARTS.get(match[1])
        part = part or _denoiser(dotted)
        return LoraKey(part, _ours(part, dotted, unet), _KINDS.get(match[3], match[3])) if dotted else None
    part, bare = _part(name.removeprefix("base_model.model."))
    if match := _PROCESSOR.fullmatch(bare):
        return LoraKey(
            part, f"{match[1]}.{match[2].replace('to_out', 'to_out.0')}", "down" if match[3] == "down" else "up"
        )
    if match := re.fullmatch(rf"(.+?)\.({_LYCORIS})", bare):
        return LoraKey(part, _ours(part, match[1], unet), match[2])
    for pattern, kind in _DOTTED:
        if match := re.fullmatch(f"(.+?){pattern}", bare):
            return LoraKey(part, _ours(part, match[1], unet), kind)
    return None


def _part(name: str) -> tuple[str, str]:
    for part in _PARTS:
        if name.startswith(f"{part}."):
            return part, name.removeprefix(f"{part}.")
    if name.startswith(_TEXT):  # peft's, of a text encoder alone
        return "text_encoder", name
    for start in ("model.diffusion_model.", "diffusion_model."):
        name = name.removeprefix(start)
    return _denoiser(name), name


def _denoiser(name: str) -> str:
    """Of which denoiser a name is that does not say it."""
    known = registry.FAMILIES
    return next((each.denoiser for each in known if re.fullmatch(each.layers, name)), known[0].denoiser)


def _dotted(name: str) -> str:
    """`mid_block_attentions_0_proj_in` -> mid_block.attentions.0.proj_in; empty where that cannot be."""
    words = _WORDS.findall(name)
    return ".".join(words) if "_".join(words) == name else ""


def _ours(part: str, layer: str, unet: Config | None) -> str:
    if part.startswith("text_encoder"):
        return text_model.bare(layer)
    if not re.match(r"(input|output|middle)_block|time_embed\.|label_emb\.|out\.", layer):
        return layer
    back = {theirs: ours for ours, theirs in keymaps.unet_modules(unet).items()} if unet else released.modules()
    return keymaps.renamed(layer, back, layer)


def kohya(part: str, layer: str, originals: Mapping[str, str] | None) -> str:
    """A layer's name as kohya's scripts write it, without the tensor's.

    originals: how the names of the denoiser's modules differ, in families with two text encoders; None for one.
    """
    if not part.startswith("text_encoder"):
        name = keymaps.renamed(layer, originals or {}, layer)
        return f"lora_unet_{name.replace('.', '_')}"
    start = {"text_encoder": "lora_te1" if originals is not None else "lora_te", "text_encoder_2": "lora_te2"}[part]
    return f"{start}_{text_model.stored(layer).replace('.', '_')}"
