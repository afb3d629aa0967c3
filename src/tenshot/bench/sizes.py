"""Models of full size with random weights: for speed, memory and file formats they are as good as real ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tenshot.families.components import Component
from tenshot.families.sd import SD1
from tenshot.families.sdxl import FULL, SDXL
from tenshot.model import model
from tenshot.model.model import Components, Model

NOISE = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
SD15_UNET = {"sample_size": 64, "cross_attention_dim": 768}
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}


def random_model(name: str, device: torch.device, seed: int = 0) -> Model:
    """ "sd15" or "sdxl", float32, the same weights for the same seed. The tokenizers are the pocket model's."""
    family, makers = (SD1, _sd15()) if name == "sd15" else (SDXL, _sdxl())
    parts = Components({part: partial(_made, maker, device, seed) for part, maker in makers.items()})
    return Model(family, parts, NOISE, Path(name))


def _made(maker: Callable[[], Component], device: torch.device, seed: int) -> Component:
    torch.manual_seed(seed)
    with torch.device(device):
        part = maker()
    return part.eval() if isinstance(part, torch.nn.Module) else part


def _sd15() -> dict[str, Callable[[], Component]]:
    return {
        "unet": lambda: UNet2DConditionModel(**SD15_UNET),
        "vae": lambda: AutoencoderKL(**VAE, sample_size=512, scaling_factor=0.18215),
        "text_encoder": lambda: CLIPTextModel(_clip(CLIP_L)),
        "tokenizer": _words,
    }


def _sdxl() -> dict[str, Callable[[], Component]]:
    more = {"hidden_act": "gelu", "projection_dim": 1280}
    return {
        "unet": lambda: UNet2DConditionModel(**FULL),
        "vae": lambda: AutoencoderKL(**VAE, sample_size=1024, scaling_factor=0.13025),
        "text_encoder": lambda: CLIPTextModel(_clip(CLIP_L)),
        "text_encoder_2": lambda: CLIPTextModelWithProjection(_clip(CLIP_G, **more)),
        "tokenizer": _words,
        "tokenizer_2": _words,
    }


def _words() -> Component:
    return model.load("pocket")["tokenizer"]


def _clip(size: dict[str, int], **more: object) -> CLIPTextConfig:
    return CLIPTextConfig(vocab_size=49408, max_position_embeddings=77, **size, **more)
