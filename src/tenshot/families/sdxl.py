"""Stable Diffusion XL: two text encoders, their second last states side by side, and the size (arXiv 2307.01952)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from diffusers.schedulers.scheduling_utils import AysSchedules
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from tenshot.core.json_types import Config
from tenshot.families import keymaps, sd
from tenshot.families.base import (
    UNET_INPUTS,
    ZEROS,
    Conditioning,
    Family,
    MicroConditioning,
    Said,
    flattened,
    pooled,
    read,
)
from tenshot.families.components import Parts
from tenshot.families.programs import Kohya, WebUI

FULL = {
    "sample_size": 128,
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # the UNet as it was released
CLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}
EMBEDDERS = (
    ("FrozenCLIPEmbedder", {"layer": "hidden", "layer_idx": 11}),
    (
        "FrozenOpenCLIPEmbedder2",
        {
            "arch": "ViT-bigG-14",
            "version": "laion2b_s39b_b160k",
            "freeze": True,
            "layer": "penultimate",
            "always_return_pooled": True,
            "legacy": False,
        },
    ),
)


def encode_tokens(parts: Parts, said: Said, clip_skip: int = 1) -> Conditioning:
    """encoder_hidden_states [prompts, tokens, both widths]; text_embeds [prompts, projection]. clip_skip: unheeded."""
    states = []
    for part in ("text_encoder", "text_encoder_2"):
        found, answer = read(parts[part], said[part], -2)
        states.append(found)
    return {
        "encoder_hidden_states": torch.cat(states, dim=-1),
        "added_cond_kwargs": {"text_embeds": pooled(answer, said[part])},
    }


def micro_conditioned(conditioning: Conditioning, frames: Sequence[MicroConditioning]) -> Conditioning:
    """With time_ids [prompts, 6], float32: in half precision 3023 pixels would be 3024."""
    added = _added(conditioning)
    numbers = [[*f.original_size, *f.crops_coords_top_left, *f.target_size] for f in frames]
    time_ids = torch.tensor(numbers, dtype=torch.float32, device=added["text_embeds"].device)
    return {**conditioning, "added_cond_kwargs": {**added, "time_ids": time_ids}}


def _added(conditioning: Conditioning) -> Mapping[str, torch.Tensor]:
    added = conditioning["added_cond_kwargs"]
    assert isinstance(added, Mapping)
    return added


def without_words(conditioning: Conditioning) -> Conditioning:
    """The conditioning with zeros for all that the text encoders said."""
    added = _added(conditioning)
    return {
        "encoder_hidden_states": torch.zeros_like(flattened(conditioning)["encoder_hidden_states"]),
        "added_cond_kwargs": {**added, "text_embeds": torch.zeros_like(added["text_embeds"])},
    }


def of_vector(vector: torch.Tensor, config: Config) -> Conditioning | None:
    """What Stability's code joins in a vector [b, projection + 6 * 2 * half]: text_embeds, and sines of time_ids.

    A number is found by its slowest wave, and then more exactly by each faster one. None where it is no such vector.
    """
    half = config["addition_time_embed_dim"] // 2
    text, waves = vector[:, : -12 * half], vector[:, -12 * half :].float().unflatten(1, (6, 2 * half))
    pace = torch.exp(-math.log(10_000) * torch.arange(half, device=vector.device) / half)
    angles = torch.atan2(waves[..., half:], waves[..., :half])
    numbers = angles[..., -1] / pace[-1]
    for wave in range(half - 2, -1, -1):
        turns = torch.round((numbers * pace[wave] - angles[..., wave]) / math.tau)
        numbers = (angles[..., wave] + math.tau * turns) / pace[wave]
    numbers = numbers.round()
    again = numbers[..., None] * pace
    if not torch.allclose(torch.cat([again.cos(), again.sin()], -1), waves, atol=0.02):
        return None
    return {"added_cond_kwargs": {"text_embeds": text, "time_ids": numbers}}


def width(configs: Mapping[str, Config]) -> int:
    return sum(int(configs[part]["hidden_size"]) for part in ("text_encoder", "text_encoder_2"))


SDXL = Family(
    "sdxl",
    "Stable Diffusion XL",
    1024,
    sd.PARTS | {"text_encoder_2": CLIPTextModelWithProjection, "tokenizer_2": CLIPTokenizer},
    lambda unet: unet.get("addition_embed_type") == "text_time",
    encode_tokens,
    width,
    {"_class_name": "StableDiffusionXLPipeline", ZEROS: True},
    original={
        "unet": sd.UNET,
        "vae": sd.VAE,
        "text_encoder": ("conditioner.embedders.0.", "clip"),
        "text_encoder_2": ("conditioner.embedders.1.", "open_clip"),
    },
    scheduler_config=sd.NOISE | {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"},
    latents={"scaling_factor": 0.13025},
    paddings={"tokenizer": sd.END, "tokenizer_2": sd.MARK},
    spec="stable-diffusion-xl-v1-base",
    kohya=Kohya("sdxl_base_v1-0", blocks=keymaps.unet_modules),  # by its original blocks
    webui=WebUI("SDXL", EMBEDDERS, generative=True, lists="sdxl_"),
    v_sign="tensor",
    aligned=(*AysSchedules["StableDiffusionXLSigmas"][:-1], sd.LEAST_SIGMA),
    named_as=r"(sdxl|stable[ -]diffusion[ -]xl)(?!.*refiner)",
    released={"unet": FULL, "text_encoder": sd.CLIP_L, "text_encoder_2": CLIP_G},
    inputs=(*UNET_INPUTS, "added_cond_kwargs.text_embeds", "added_cond_kwargs.time_ids"),
    without_words=without_words,
    of_vector=of_vector,
    micro_conditioned=micro_conditioned,
)
