"""Whole models too small to be good at anything: random weights, seeded, in the diffusers layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from tokenizers import pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

SIDE = 64  # pixels of a picture; its latents have 8 x 8
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def sd1(folder: Path) -> Path:
    """Stable Diffusion 1.x in small: predicts the noise."""
    scheduler = PNDMScheduler(**NOISE, skip_prk_steps=True, set_alpha_to_one=False)
    return _sd(folder, _unet(16, attention_head_dim=2), _encoder(CLIPTextModel, 16), scheduler)


def sd2_v(folder: Path) -> Path:
    """Stable Diffusion 2.x in small: linear projections, predicts the velocity."""
    scheduler = DDIMScheduler(**NOISE, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False)
    unet = _unet(32, attention_head_dim=(2, 4), use_linear_projection=True)
    return _sd(folder, unet, _encoder(CLIPTextModel, 32, hidden_act="gelu"), scheduler)


def sdxl(folder: Path) -> Path:
    """Stable Diffusion XL in small: two text encoders, the picture's size as a condition."""
    torch.manual_seed(1)
    unet = _unet(
        16 + 32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )
    StableDiffusionXLPipeline(
        vae=_vae(0.13025),
        unet=unet,
        text_encoder=_encoder(CLIPTextModel, 16),
        text_encoder_2=_encoder(CLIPTextModelWithProjection, 32, hidden_act="gelu", projection_dim=32),
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        scheduler=EulerDiscreteScheduler(**NOISE, timestep_spacing="leading"),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def sd3(folder: Path) -> Path:
    """Stable Diffusion 3 in small, without T5 as many have it."""
    return _sd3(folder)


def sd35(folder: Path) -> Path:
    """Stable Diffusion 3.5 medium in small, with T5: queries and keys are normed, one block attends twice."""
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("\u2581", -2.0),
        *((chr(n), -3.0) for n in range(33, 127)),
    ]
    torch.manual_seed(6)
    config = T5Config(
        vocab_size=len(pieces),
        d_model=48,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    t5 = T5EncoderModel(config).eval()
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)
    return _sd3(folder, t5, tokenizer, qk_norm="rms_norm", dual_attention_layers=(0,))


def _sd3(folder: Path, t5: Any = None, tokenizer_3: Any = None, **more: Any) -> Path:
    torch.manual_seed(5)
    transformer = SD3Transformer2DModel(
        sample_size=SIDE // 8,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        caption_projection_dim=32,
        pooled_projection_dim=16 + 24,
        pos_embed_max_size=8,
        **more,
    ).eval()
    clip_l = _encoder(CLIPTextModelWithProjection, 16, projection_dim=16)
    torch.nn.init.eye_(clip_l.text_projection.weight)  # it is not projected in Stability's code
    StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(1.5305, latent_channels=16, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_l,
        tokenizer=_tokenizer(),
        text_encoder_2=_encoder(CLIPTextModelWithProjection, 24, hidden_act="gelu", projection_dim=24),
        tokenizer_2=_tokenizer(),
        text_encoder_3=t5,
        tokenizer_3=tokenizer_3,
    ).save_pretrained(folder)
    return folder


def pictures(folder: Path, count: int, side: int = SIDE, seed: int = 0) -> Path:
    """`count` square pictures, each of a few coloured fields of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    dice = np.random.default_rng(seed)
    for number in range(count):
        fields = Image.fromarray(dice.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        fields.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"picture-{number}.png")
    return folder


def _sd(folder: Path, unet: Any, encoder: Any, scheduler: Any) -> Path:
    StableDiffusionPipeline(
        vae=_vae(0.18215),
        unet=unet,
        text_encoder=encoder,
        tokenizer=_tokenizer(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def _unet(width: int, **more: Any) -> UNet2DConditionModel:
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    torch.manual_seed(2)
    return UNet2DConditionModel(
        sample_size=SIDE // 8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=width,
        **(blocks | more),
    ).eval()


def _vae(scaling_factor: float, latent_channels: int = 4, **more: Any) -> AutoencoderKL:
    torch.manual_seed(3)
    return AutoencoderKL(
        sample_size=SIDE,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=latent_channels,
        scaling_factor=scaling_factor,
        **more,
    ).eval()


def _encoder(kind: Any, width: int, **more: Any) -> Any:
    vocabulary = _vocabulary()
    torch.manual_seed(4)
    return kind(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=vocabulary[SPECIAL[0]],
            eos_token_id=vocabulary[SPECIAL[1]],
            pad_token_id=vocabulary[SPECIAL[1]],
            **more,
        )
    ).eval()


def _vocabulary() -> dict[str, int]:
    """CLIP's without its merges: every byte as a letter, and as a letter that ends a word."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    return {token: number for number, token in enumerate([*letters, *(f"{each}</w>" for each in letters), *SPECIAL])}


def _tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer(vocab=_vocabulary(), merges=[], model_max_length=77)
