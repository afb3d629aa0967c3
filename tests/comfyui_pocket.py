"""A custom node for ComfyUI, put beside ours in tests only: it teaches ComfyUI the pocket model.

ComfyUI knows architectures by their widths; this is one more row of its table, with pocket's tokenizer, text encoder
and VAE.
"""

import json
import os
from pathlib import Path

import comfy.clip_model
import comfy.latent_formats
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
from diffusers import AutoencoderKL

POCKET = Path(os.environ["TENSHOT_TESTS_POCKET"])
TEXT = json.loads((POCKET / "text_encoder/config.json").read_text())
_vae = comfy.sd.VAE


class FourThirds(int):
    """96 channels become 128, which no whole multiple says."""

    def __mul__(self, channels):
        return channels * 4 // 3

    __rmul__ = __mul__


class Latents(comfy.latent_formats.SD15):
    def __init__(self):
        super().__init__()
        self.scale_factor = 0.3213


class Tokenizer(comfy.sd1_clip.SDTokenizer):
    def __init__(self, **named):
        super().__init__(tokenizer_path=str(POCKET / "tokenizer"), embedding_size=TEXT["hidden_size"], **named)


class Tokenizers(comfy.sd1_clip.SD1Tokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data=None):
        super().__init__(embedding_directory, tokenizer_data or {}, tokenizer=Tokenizer)


class Text(comfy.clip_model.CLIPTextModel):
    def __init__(self, config, dtype, device, operations):
        super().__init__(config, dtype, device, operations)
        words = operations.Embedding(config["vocab_size"], config["hidden_size"], dtype=dtype, device=device)
        self.set_input_embeddings(words)


class TextEncoder(comfy.sd1_clip.SDClipModel):
    def __init__(self, device="cpu", dtype=None, model_options=None):
        ends = {"start": TEXT["bos_token_id"], "end": TEXT["eos_token_id"], "pad": TEXT["pad_token_id"]}
        told = {"textmodel_json_config": TEXT, "special_tokens": ends, "model_options": model_options or {}}
        super().__init__(device=device, dtype=dtype, model_class=Text, return_projected_pooled=False, **told)


class TextEncoders(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options=None):
        super().__init__(device, dtype, model_options or {}, clip_model=TextEncoder)


class Pocket(comfy.supported_models.SD15):
    unet_config = {**comfy.supported_models.SD15.unet_config, "context_dim": 192, "model_channels": 96}  # noqa: RUF012
    unet_extra_config = {"num_heads": -1, "num_head_channels": 32}  # noqa: RUF012
    latent_format = Latents

    def __init__(self, unet_config):
        super().__init__(unet_config)
        self.unet_config["channel_mult"] = [1, FourThirds(1), 2]

    def clip_target(self, state_dict=None):
        return comfy.supported_models_base.ClipTarget(Tokenizers, TextEncoders)


class Vae:
    """diffusers', as ComfyUI's has 32 groups in every norm and pocket's 4."""

    def __init__(self):
        self.net = AutoencoderKL.from_pretrained(POCKET / "vae").eval()

    def decode(self, samples):
        return (self.net.decode(samples.float()).sample.movedim(1, -1) / 2 + 0.5).clamp(0, 1)


def vae(sd=None, **named):
    first = (sd or {}).get("decoder.conv_in.weight")
    return Vae() if first is not None and first.shape[0] == 128 else _vae(sd=sd, **named)


comfy.supported_models.models.insert(0, Pocket)
comfy.sd.VAE = vae
NODE_CLASS_MAPPINGS = {}
