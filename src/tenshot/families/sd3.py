"""Stable Diffusion 3 and 3.5: a transformer that attends to text and picture at once (MMDiT, arXiv 2403.03206).

Its text is CLIP-L's and CLIP-G's second last states side by side, widened with zeros to those of T5, which follow; its
pooled text both CLIPs' projections. T5 is large, and may be absent: then zeros are in its place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from tenshot.core.json_types import Config
from tenshot.diffusion.process import RectifiedFlow
from tenshot.families import base, mmdit, sd, sdxl
from tenshot.families.base import Conditioning, Family, Said, pooled, read
from tenshot.families.components import Denoiser, Parts, Tokenizer
from tenshot.families.programs import Kohya, OriginalLayers, WebUI
from tenshot.prompt.chunks import Chunks

MEDIUM = {
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "joint_attention_dim": 4096,
    "pos_embed_max_size": 192,
}  # the transformer of Stable Diffusion 3 medium; those of 3.5 are told by their shapes
T5_XXL = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
LAYERS = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    "transformer": ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
    "all": ("norm1.linear", "norm1_context.linear", "context_embedder", "proj_out"),
}
WEBUI_LACKS = (
    "AUTOMATIC1111 knows 3 medium alone, since 1.10, and takes the text encoders as they were released, not from here; "
    "Forge knows 3.5"
)
T5_TOKENS = 256  # of a prompt, in diffusers' pipeline; the encoder itself has no end


def tokenize(parts: Parts, prompts: Sequence[str]) -> Said:
    """Both CLIPs' tokens, and T5's, which are more and without learned words."""
    said = {part: each for part, each in base.tokenize(parts, prompts).items() if part != "text_encoder_3"}
    if "text_encoder_3" in parts:
        words = said_to_t5(parts["tokenizer"], prompts)
        said["text_encoder_3"] = Chunks(base.tokens(parts["tokenizer_3"], words, T5_TOKENS)[:, None])
    return said


def encode_tokens(parts: Parts, said: Said, clip_skip: int = 1) -> Conditioning:
    """encoder_hidden_states [prompts, CLIP's tokens + 256, width]; pooled_projections [prompts, both projections].

    clip_skip: unheeded.
    """
    states, projections = [], []
    for part in ("text_encoder", "text_encoder_2"):
        found, answer = read(parts[part], said[part], -2)
        states.append(found)
        projections.append(pooled(answer, said[part]))
    clip = torch.cat(states, dim=-1)
    if "text_encoder_3" in parts:
        t5, _ = read(parts["text_encoder_3"], said["text_encoder_3"])
    else:
        t5 = clip.new_zeros(len(clip), T5_TOKENS, parts["transformer"].config.joint_attention_dim)
    clip = torch.nn.functional.pad(clip, (0, t5.shape[-1] - clip.shape[-1]))
    return {
        "encoder_hidden_states": torch.cat([clip, t5.to(clip.device, clip.dtype)], dim=1),
        "pooled_projections": torch.cat(projections, dim=-1),
    }


def said_to_t5(clip: Tokenizer, prompts: Sequence[str]) -> list[str]:
    """The prompts without the words that CLIP has learned: T5 has no vectors for them, and would spell them."""
    learned = set(clip.get_added_vocab()).difference(clip.all_special_tokens)
    if not learned:
        return list(prompts)
    any_of = "|".join(re.escape(word) for word in sorted(learned, key=len, reverse=True))
    return [re.sub(rf"(?:{any_of})\s*", "", prompt) for prompt in prompts]


def predict(transformer: Denoiser, x: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
    """The velocity. t: one time for all, or one a row."""
    times = torch.as_tensor(t, device=x.device).expand(len(x))
    answer: torch.Tensor = transformer(hidden_states=x, timestep=times, **conditioning).sample
    return answer


def width(configs: Mapping[str, Config]) -> int:
    """T5's width; without T5 any is right into which the states of both CLIPs fit."""
    if "text_encoder_3" in configs:
        return int(configs["text_encoder_3"]["d_model"])
    clip = sum(int(configs[part]["hidden_size"]) for part in ("text_encoder", "text_encoder_2"))
    return max(clip, int(configs["transformer"]["joint_attention_dim"]))


def variant(transformer: Config) -> str:
    """As kohya's scripts tell them apart."""
    if not transformer.get("qk_norm"):
        return "medium"
    return "5-medium" if transformer.get("dual_attention_layers") else "5-large"


SD3 = Family(
    "sd3",
    "Stable Diffusion 3",
    1024,
    {
        "transformer": SD3Transformer2DModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModelWithProjection,
        "text_encoder_2": CLIPTextModelWithProjection,
        "text_encoder_3": T5EncoderModel,
        "tokenizer": CLIPTokenizer,
        "tokenizer_2": CLIPTokenizer,
        "tokenizer_3": T5Tokenizer,
    },
    lambda _: True,
    encode_tokens,
    width,
    {"_class_name": "StableDiffusion3Pipeline", "image_encoder": [None, None], "feature_extractor": [None, None]},
    original={
        "transformer": ("model.diffusion_model.", "mmdit"),
        "vae": sd.VAE,
        "text_encoder": ("text_encoders.clip_l.", "clip_l"),
        "text_encoder_2": ("text_encoders.clip_g.", "clip_g"),
        "text_encoder_3": ("text_encoders.t5xxl.", "t5"),
    },
    scheduler_config={"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0},
    latents={"scaling_factor": 1.5305, "shift_factor": 0.0609},
    paddings={"tokenizer": sd.END, "tokenizer_2": sd.MARK, "tokenizer_3": "<pad>"},
    spec="stable-diffusion-3-{}",
    variants=("medium", "5-medium", "5-large"),
    variant=variant,
    kohya=Kohya(
        "{}",
        modules=r".+",
        original=OriginalLayers(mmdit.module_of, mmdit.layers),
        words=mmdit.WORDS,
    ),
    webui=WebUI("Unknown", lacks=WEBUI_LACKS),
    named_as=r"sd[ _-]?v?3|stable[ -]diffusion[ -]v?3|(5-)?(medium|large)$",
    released={
        "transformer": MEDIUM,
        "text_encoder": sd.CLIP_L | {"projection_dim": 768},
        "text_encoder_2": sdxl.CLIP_G,
        "text_encoder_3": T5_XXL,
    },
    tokenize=tokenize,
    denoiser="transformer",
    takes_controlnet=False,
    layers=r"transformer_blocks\.\d+\..+|(pos_embed|context_embedder|time_text_embed|norm_out|proj_out)(\..+)?"
    r"|joint_blocks\.\d+\..+|((x|t|y)_embedder|final_layer)\..+",  # the original ones
    widths=lambda transformer: (transformer["num_attention_heads"] * transformer.get("attention_head_dim", 64),),
    sizes=((24 * 64,), (38 * 64,)),
    inputs=("hidden_states", "timestep", "encoder_hidden_states", "pooled_projections"),
    text_width="joint_attention_dim",
    process=RectifiedFlow,
    predict=predict,
    lora_targets=LAYERS,
    optional=frozenset({"text_encoder_3"}),
)
