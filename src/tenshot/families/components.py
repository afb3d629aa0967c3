"""What a model consists of, by the classes of diffusers and transformers, neither of which is imported for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, ControlNetModel, SD3Transformer2DModel, UNet2DConditionModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Denoiser: TypeAlias = "UNet2DConditionModel | SD3Transformer2DModel"
VAE: TypeAlias = "AutoencoderKL"
TextEncoder: TypeAlias = "PreTrainedModel"
Tokenizer: TypeAlias = "PreTrainedTokenizerBase"
Net: TypeAlias = "Denoiser | VAE | TextEncoder | ControlNetModel"
Component: TypeAlias = "Net | Tokenizer"
Parts: TypeAlias = Mapping[str, Component]  #: by the names that a model folder gives them
