"""Stable Diffusion 1.x and 2.x: one text encoder, whose last states the UNet attends to."""

from __future__ import annotations

from collections.abc import Mapping

from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.schedulers.scheduling_utils import AysSchedules
from transformers import CLIPTextModel, CLIPTokenizer

from tenshot.core.json_types import Config
from tenshot.families.base import Conditioning, Family, Said, read
from tenshot.families.components import Parts
from tenshot.families.programs import Kohya, WebUI

PARTS = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "tokenizer": CLIPTokenizer,
}
LEAST_SIGMA = 0.029  # where the published tables of Align Your Steps end; diffusers has 0 there
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
}


def encode_tokens(parts: Parts, said: Said, clip_skip: int = 1) -> Conditioning:
    """encoder_hidden_states [prompts, tokens, width]. clip_skip: the layer whose states count, from the last one."""
    encoder = parts["text_encoder"]
    states, _ = read(encoder, said["text_encoder"], -clip_skip)
    if clip_skip > 1:
        states = getattr(encoder, "text_model", encoder).final_layer_norm(states)
    return {"encoder_hidden_states": states}


def width(configs: Mapping[str, Config]) -> int:
    return int(configs["text_encoder"]["hidden_size"])


def _is_sd2(unet: Config) -> bool:
    return bool(unet.get("use_linear_projection")) and unet.get("addition_embed_type") is None


def _is_sd1(unet: Config) -> bool:
    return not unet.get("use_linear_projection") and unet.get("addition_embed_type") is None


NOISE = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "clip_sample": False,
    "prediction_type": "epsilon",
}
UNET, VAE = ("model.diffusion_model.", "unet"), ("first_stage_model.", "vae")
END, MARK = "<|endoftext|>", "!"
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_H = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
NET = {
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (320, 640, 1280, 1280),
}

SD1 = Family(
    "sd1",
    "Stable Diffusion 1.x",
    512,
    PARTS,
    _is_sd1,
    encode_tokens,
    width,
    INDEX,
    original={"unet": UNET, "vae": VAE, "text_encoder": ("cond_stage_model.", "clip")},
    scheduler_config=NOISE,
    latents={"scaling_factor": 0.18215},
    paddings={"tokenizer": END},
    spec="stable-diffusion-v1",
    kohya=Kohya("sd_v1"),
    webui=WebUI("SD1", [("FrozenCLIPEmbedder", {})]),
    clip_skip=True,
    aligned=(*AysSchedules["StableDiffusionSigmas"][:-1], LEAST_SIGMA),
    named_as=r"sd[ _-]?v?1|stable[ -]diffusion[ -]v?1",
    released={"unet": NET | {"cross_attention_dim": 768}, "text_encoder": CLIP_L},
)
SD2 = Family(
    "sd2",
    "Stable Diffusion 2.x",
    768,
    PARTS,
    _is_sd2,
    encode_tokens,
    width,
    INDEX,
    original={"unet": UNET, "vae": VAE, "text_encoder": ("cond_stage_model.", "open_clip")},
    scheduler_config=NOISE,
    latents={"scaling_factor": 0.18215},
    paddings={"tokenizer": MARK},
    spec="stable-diffusion-v2",
    kohya=Kohya("sd_v2", v2=True),
    webui=WebUI("SD2", [("FrozenOpenCLIPEmbedder", {"freeze": True, "layer": "penultimate"})], tells_v=True),
    v_sign="norm",
    v_schedule={"_class_name": "DDIMScheduler"},
    named_as=r"sd[ _-]?v?2|stable[ -]diffusion[ -]v?2",
    released={
        "unet": NET | {"cross_attention_dim": 1024, "use_linear_projection": True},
        "text_encoder": CLIP_H,  # its last layer is not read, and not in every file
    },
)
