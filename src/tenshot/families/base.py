"""A family answers for itself: parts, sizes, text conditioning, what the UNet predicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch

from tenshot.core.json_types import Config
from tenshot.core.size import Size
from tenshot.diffusion.process import DDPM, Process
from tenshot.families.components import Component, Denoiser, Parts, TextEncoder, Tokenizer
from tenshot.families.programs import Kohya, VSign, WebUI
from tenshot.prompt.chunks import Chunks, emphasised

#: The entry of model_index.json by which a model says that no negative prompt means zeros, not the states of "".
ZEROS = "force_zeros_for_empty_prompt"

#: What a denoiser is told beside latents and times, the batch first; by the names of its forward's arguments.
Conditioning: TypeAlias = Mapping[str, torch.Tensor | Mapping[str, torch.Tensor]]

#: What each text encoder reads, by its name in a model folder.
Said: TypeAlias = Mapping[str, Chunks]


@dataclass(frozen=True)
class MicroConditioning:
    """What a picture was before it was scaled and cropped, which Stable Diffusion XL is told (arXiv 2307.01952, 2.2).

    original_size: before scaling. crops_coords_top_left: what was cropped above and at the left, after scaling.
    target_size: what is left. In pixels, the height first.
    """

    original_size: Size
    crops_coords_top_left: tuple[int, int]
    target_size: Size

    @classmethod
    def whole(cls, size: Size) -> MicroConditioning:
        """A picture that was neither scaled nor cropped, such as one to draw."""
        return cls(size, (0, 0), size)


CLIP_LAYERS = {"attention": ("q_proj", "k_proj", "v_proj", "out_proj"), "transformer": ("fc1", "fc2"), "all": ()}
UNET_LAYERS = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "transformer": ("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    "all": ("conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv"),
}


_UNET = (
    r"(down_blocks|up_blocks|mid_block)\..+|conv_in|conv_out|conv_norm_out|(time|add)_embedding\.linear_[12]"
    r"|(input_blocks|output_blocks|middle_block|time_embed|label_emb|out)\..+"  # the original ones
)
UNET_INPUTS = ("sample", "timestep", "encoder_hidden_states")


def of_unet(unet: Denoiser, x: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
    """What diffusers' UNets answer."""
    answer: torch.Tensor = unet(x, t, **conditioning).sample
    return answer


def tokenize(parts: Parts, prompts: Sequence[str]) -> Said:
    """Each text encoder's tokens, one chunk a prompt."""
    encoders = [part for part in parts if part.startswith("text_encoder")]
    return {part: Chunks(tokens(parts[tokenizer_of(part)], prompts)[:, None]) for part in encoders}


def tokenizer_of(encoder: str) -> str:
    """The name of the part that reads for a text encoder."""
    return encoder.replace("text_encoder", "tokenizer")


def read(encoder: TextEncoder, chunks: Chunks, layer: int = -1) -> tuple[torch.Tensor, Any]:
    """What a CLIP text encoder says of prompts: states [prompts, chunks * length, width], and the whole answer.

    layer: -1 for the last states, normalised; -2 for those before the last layer, as they are.
    """
    shape = chunks.ids.shape[:2]
    out = encoder(
        chunks.ids.flatten(0, 1).to(encoder.device), **({} if layer == -1 else {"output_hidden_states": True})
    )
    states = out.last_hidden_state if layer == -1 else out.hidden_states[layer]
    return emphasised(states.unflatten(0, shape), chunks).flatten(1, 2), out


def pooled(answer: Any, chunks: Chunks) -> torch.Tensor:
    """The projected states [prompts, projection] of each prompt's first chunk."""
    found: torch.Tensor = answer.text_embeds.unflatten(0, chunks.ids.shape[:2])[:, 0]
    return found


@dataclass(frozen=True)
class Family:
    """One line of models.

    parts: part, as a model folder names it -> its class in diffusers or transformers. denoiser: which of them it is.
    process: what the denoiser was trained to undo. fits: does a denoiser's configuration belong to this family?
    encode_tokens: (parts, what each text encoder reads, clip skip) -> the denoiser's further arguments that follow from
    the text, the batch first. clip_skip: does it heed that? tokenize: (parts, prompts) -> what each encoder reads, cut.
    micro_conditioned: (conditioning, a frame for each row) -> the same with what the family tells of frames beside.
    inputs: what the denoiser's forward takes: noisy latents, times, the conditioning; "a.b" for b in the mapping a.
    of_vector: (the one vector in which Stability's code tells the denoiser all that is no text, its configuration) ->
    the same as conditioning, or None where it cannot be read; None: there is no such vector.
    predict: (denoiser, noisy latents, times, conditioning) -> its answer. Times are one for all or one a row.
    width: what text width the denoiser should find, from the text encoders' configurations; it calls it `text_width`.
    index: what model_index.json says beside the parts.
    without_words: a conditioning -> the same with zeros for the text, in families that know ZEROS.
    original: part -> where a file of the original layout has it, and in which dialect (families/conversion.py).
    scheduler_config: the noise schedule of a file that says nothing about it. latents: their scale and shift, likewise.
    paddings: tokenizer -> the token with which it fills up.
    spec: its name in the Stability AI model metadata specification, with {} for its variant.
    variants: those that were released; variant: which of them a denoiser is, by its configuration.
    lora_targets: attention, transformer, all -> how the names of the denoiser's layers end that get additions (LoRA).
    kohya, webui: what kohya's scripts and AUTOMATIC1111 know of it. named_as: how headers name it, as a pattern.
    v_sign: by what ComfyUI tells that a checkpoint predicts v. v_schedule: what the schedule is then besides.
    takes_controlnet: is there any for it here?
    layers: how its denoiser's layers are called, as a pattern. widths: of its blocks, by the denoiser's configuration.
    sizes: the widths that were released, where there is more than one.
    aligned: the 11 sigmas of ten steps that were found best (Align Your Steps, arXiv 2404.14507), where any were.
    released: part -> its configuration as it was released. optional: nets that a model of the family may lack.
    """

    name: str
    title: str
    resolution: int
    parts: Mapping[str, type[Component]]
    fits: Callable[[Config], bool]
    encode_tokens: Callable[[Parts, Said, int], Conditioning]
    width: Callable[[Mapping[str, Config]], int]
    index: Config
    original: Mapping[str, tuple[str, str]]
    scheduler_config: Config
    latents: Mapping[str, float]
    paddings: Mapping[str, str]
    spec: str
    kohya: Kohya
    webui: WebUI
    named_as: str
    released: Mapping[str, Config]
    without_words: Callable[[Conditioning], Conditioning] | None = None
    micro_conditioned: Callable[[Conditioning, Sequence[MicroConditioning]], Conditioning] = lambda conditioning, _: {
        **conditioning
    }
    clip_skip: bool = False
    tokenize: Callable[[Parts, Sequence[str]], Said] = tokenize
    variants: tuple[str, ...] = ("",)
    variant: Callable[[Config], str] = lambda _: ""
    v_sign: VSign = "nothing"
    v_schedule: Config = field(default_factory=dict)
    denoiser: str = "unet"
    takes_controlnet: bool = True
    layers: str = _UNET
    widths: Callable[[Config], tuple[int, ...]] = lambda unet: tuple(unet["block_out_channels"])
    sizes: tuple[tuple[int, ...], ...] = ()
    inputs: tuple[str, ...] = UNET_INPUTS
    optional: frozenset[str] = frozenset()
    aligned: tuple[float, ...] = ()
    of_vector: Callable[[torch.Tensor, Config], Conditioning | None] | None = None
    text_width: str = "cross_attention_dim"
    process: type[Process] = DDPM
    lora_targets: Mapping[str, Sequence[str]] = field(default_factory=lambda: UNET_LAYERS)
    predict: Callable[[Denoiser, torch.Tensor, torch.Tensor, Conditioning], torch.Tensor] = of_unet

    def encode_prompt(self, parts: Parts, prompts: Sequence[str]) -> Conditioning:
        """The denoiser's further arguments that follow from plain texts, which are cut where an encoder ends."""
        return self.encode_tokens(parts, self.tokenize(parts, prompts), 1)

    def targets(self, part: str, layers: str) -> list[str]:
        """How the names of a part's layers end that get additions. layers: a group, which has those before it, too."""
        groups = self.lora_targets if part == self.denoiser else CLIP_LAYERS
        chosen = list(groups)[: list(groups).index(layers) + 1]
        return [name for group in chosen for name in groups[group]]

    @property
    def known_widths(self) -> tuple[tuple[int, ...], ...]:
        return self.sizes or (self.widths(self.released[self.denoiser]),)

    @property
    def nets(self) -> tuple[str, ...]:
        """The parts that have weights."""
        return tuple(part for part in self.parts if not part.startswith("tokenizer"))

    def without(self, *nets: str) -> Family:
        """The same for a model that lacks some of the optional nets, and so their tokenizers."""
        gone = {*nets, *(net.replace("text_encoder", "tokenizer") for net in nets)}
        kept: dict[str, Any] = {
            name: {part: value for part, value in getattr(self, name).items() if part not in gone}
            for name in ("parts", "original", "paddings", "released")
        }
        return replace(self, **kept, index={**self.index, **{part: [None, None] for part in gone}}) if gone else self

    @property
    def encoders(self) -> tuple[str, ...]:
        """The text encoders that can learn: one that a model may lack is too large for it."""
        return tuple(part for part in self.parts if part.startswith("text_encoder") and part not in self.optional)


def tokens(tokenizer: Tokenizer, prompts: Sequence[str], length: int | None = None) -> torch.Tensor:
    """Token numbers [prompts, length], cut and padded. length: None for the tokenizer's own.

    Not by the tokenizer's own padding, which is a setting of it: threads would get each other's.
    """
    length = length or tokenizer.model_max_length
    whole = tokenizer(list(prompts), truncation=False, padding=False, verbose=False).input_ids
    cut = [row if len(row) <= length else [*row[: length - 1], row[-1]] for row in whole]
    return torch.tensor([[*row, *[tokenizer.pad_token_id] * (length - len(row))] for row in cut])


def overlong(tokenizer: Tokenizer, prompt: str) -> str:
    """The end of `prompt` that does not fit the text encoder; empty where all of it fits."""
    whole = tokenizer(prompt, truncation=False, verbose=False).input_ids
    lost = whole[tokenizer.model_max_length - 1 : -1]
    return tokenizer.decode(lost).strip() if lost else ""


def moved(conditioning: Conditioning, where: torch.device | str) -> Conditioning:
    """The same conditioning on another device."""
    return nested({name: tensor.to(where) for name, tensor in flattened(conditioning).items()})


def joined(*conditionings: Conditioning) -> Conditioning:
    """Several conditionings as one batch."""
    flat = [flattened(each) for each in conditionings]
    return nested({name: torch.cat([each[name] for each in flat]) for name in flat[0]})


def flattened(conditioning: Conditioning) -> dict[str, torch.Tensor]:
    """{"a": {"b": tensor}} as {"a.b": tensor}."""
    found: dict[str, torch.Tensor] = {}
    for name, value in conditioning.items():
        inner = flattened(value) if isinstance(value, Mapping) else {"": value}
        found |= {f"{name}.{rest}".removesuffix("."): tensor for rest, tensor in inner.items()}
    return found


def nested(flat: Mapping[str, torch.Tensor]) -> Conditioning:
    """And back."""
    inner: dict[str, dict[str, torch.Tensor]] = {}
    found: dict[str, torch.Tensor | Mapping[str, torch.Tensor]] = {}
    for name, tensor in flat.items():
        outer, _, rest = name.partition(".")
        if rest:
            found[outer] = inner.setdefault(outer, {})
            inner[outer][rest] = tensor
        else:
            found[outer] = tensor
    return found
