"""The one noun: a Stable Diffusion model with all its parts, as every verb takes it."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from tenshot.core.device import DTYPES, empty_cache
from tenshot.core.errors import Fault, Refusal
from tenshot.core.events import Events, track
from tenshot.core.json_types import Config
from tenshot.core.size import Size
from tenshot.diffusion.process import Process
from tenshot.families import latents, validate
from tenshot.families.base import ZEROS, Conditioning, Family, MicroConditioning
from tenshot.families.components import VAE, Component, Denoiser, Net, TextEncoder, Tokenizer
from tenshot.io import tensors, text_files
from tenshot.model import folders, single_nets
from tenshot.model.control import Residuals
from tenshot.model.resolve import find as find
from tenshot.model.sides import Sides

diffusers.utils.logging.disable_progress_bar()  # progress is told by events
transformers.utils.logging.disable_progress_bar()


class Components(Mapping[str, Component]):
    """Parts that can be put away, out of memory; asked for again they are made anew. makers: part -> its maker."""

    def __init__(self, makers: Mapping[str, Callable[[], Component]]) -> None:
        self.makers = dict(makers)
        self.here: dict[str, Component] = {}

    def __getitem__(self, part: str) -> Component:
        if part not in self.here:
            self.here[part] = self.makers[part]()
        return self.here[part]

    def __contains__(self, part: object) -> bool:
        return part in self.makers

    def __iter__(self) -> Iterator[str]:
        return iter(self.makers)

    def __len__(self) -> int:
        return len(self.makers)

    def offload(self, parts: Iterable[str]) -> None:
        for part in parts:
            self.here.pop(part, None)
        gc.collect()
        empty_cache()


@dataclass(frozen=True)
class Model:
    """parts: by their names in a model folder. scheduler_config: of its noise schedule.

    place: the folder that it was opened from.
    force_zeros_for_empty_prompt: no negative prompt means zeros, not the states of "".
    placeholder_tokens: learned words, and the tokens that each stands for.
    """

    family: Family
    parts: Mapping[str, Component]
    scheduler_config: Config
    place: Path
    force_zeros_for_empty_prompt: bool = False
    placeholder_tokens: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, part: str) -> Component:
        return self.parts[part]

    @property
    def vae(self) -> VAE:
        return self["vae"]

    @property
    def text_encoders(self) -> dict[str, TextEncoder]:
        """By their names in a model folder; those that can learn and those that cannot."""
        return {part: self[part] for part in self.parts if part.startswith("text_encoder")}

    def tokenizer(self, encoder: str = "text_encoder") -> Tokenizer:
        """That of a text encoder."""
        return self[encoder.replace("text_encoder", "tokenizer")]

    @property
    def device(self) -> torch.device:
        where: torch.device = self.denoiser.device
        return where

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.denoiser.dtype
        return dtype

    @property
    def sides(self) -> Sides:
        return Sides.of(self.denoiser.config, self.vae.config)

    @property
    def vae_scale_factor(self) -> int:
        """Pixels a latent stands for, along one side."""
        return self.sides.factor

    @property
    def latent_channels(self) -> int:
        return self.sides.channels

    @property
    def resolution(self) -> int:
        """The side in pixels that the denoiser was trained for."""
        return self.sides.resolution

    @property
    def denoiser(self) -> Denoiser:
        """The part that tells noise from picture."""
        return self[self.family.denoiser]

    @property
    def process(self) -> Process:
        """What the denoiser was trained to undo."""
        return self.family.process.from_config(self.scheduler_config)

    def predict(
        self, x: torch.Tensor, t: torch.Tensor, conditioning: Conditioning, control: Residuals | None = None
    ) -> torch.Tensor:
        """The denoiser's answer to noisy latents [batch, ...]. t: one time for all, or one a row.

        control: what ControlNets answered.
        """
        denoiser = self.denoiser
        if control is not None:
            more = {"down_block_additional_residuals": control.down, "mid_block_additional_residual": control.middle}
            denoiser = partial(denoiser, **more)
        return self.family.predict(denoiser, x, t, conditioning)

    def encode(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the latents of pictures [batch, 3, h, w] in -1..1, as the denoiser knows them.

        Float32, on the CPU.
        """
        posterior = self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist
        return latents.normalized(self.vae, posterior.mean), latents.scaled(self.vae, posterior.std)

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        """Latents as the denoiser knows them as pictures [batch, 3, h, w] in -1..1, float32 on the CPU."""
        plain = latents.restored(self.vae, x.to(self.vae.device, self.vae.dtype))
        pictures: torch.Tensor = self.vae.decode(plain).sample
        return pictures.float().cpu()

    def with_parts(self, **parts: Component) -> Model:
        """The same model with some parts replaced."""
        return replace(self, parts={**self.parts, **parts})

    def only(self, parts: Collection[str] | None) -> Model:
        """The same with these parts alone; None: all."""
        return (
            self if parts is None else replace(self, parts={name: self[name] for name in self.parts if name in parts})
        )

    def snapshot(self) -> Model:
        """The model as it is now: what a picture is drawn with from its first step to its last."""
        return self

    def offload(self, *parts: str) -> None:
        """Release `parts` until they are asked for again. They come back as they were opened: changes are lost."""
        if isinstance(self.parts, Components):
            self.parts.offload(parts)

    def conditioning(self, prompts: list[str], size: Size) -> Conditioning:
        """The denoiser's further arguments for pictures of `size`, told of plain texts; see prompts.py for others."""
        return self.family.micro_conditioned(
            self.encode_prompt(prompts), [MicroConditioning.whole(size)] * len(prompts)
        )

    def encode_prompt(self, prompts: list[str]) -> Conditioning:
        """Those of them that follow from the text."""
        return self.family.encode_prompt(self.parts, [self.expand_tokens(prompt) for prompt in prompts])

    def expand_tokens(self, prompt: str) -> str:
        """The prompt with every learned word as the tokens it stands for."""
        if not self.placeholder_tokens:
            return prompt
        words = sorted(self.placeholder_tokens, key=len, reverse=True)

        def tokens(found: re.Match[str]) -> str:
            alike = (word for word in words if re.fullmatch(re.escape(word), found[0], re.IGNORECASE))
            said = self.placeholder_tokens[found[0] if found[0] in self.placeholder_tokens else next(alike)]
            before, after = prompt[: found.start()][-1:], prompt[found.end() :][:1]
            return " " * before.isalnum() + said + " " * after.isalnum()

        return re.sub("|".join(map(_as_word, words)), tokens, prompt, flags=re.IGNORECASE)


def mentions(prompt: str, word: str) -> bool:
    """Does a prompt say a learned word? In any case: no text encoder here tells A from a."""
    return re.search(_as_word(word), prompt, re.IGNORECASE) is not None


def _as_word(word: str) -> str:
    """`az` is not in `azure`; `<az>` is wherever it stands."""
    before, after = (r"\b" if re.match(r"\w", end) else "" for end in (word[:1], word[-1:]))
    return f"{before}{re.escape(word)}{after}"


def load(
    name: str, *, device: torch.device | str = "cpu", precision: str = "fp32", events: Events | None = None
) -> Model:
    """Open a model: "pocket", a folder in the diffusers layout, or a checkpoint file.

    precision: "fp32" | "fp16" | "bf16". With fp16 the VAE stays float32: in float16 it overflows. Raises Refusal with
    every fault that the model has: missing, truncated or wrongly shaped parts.
    """
    place = find(name)
    family = validate.examine(place)
    index = text_files.read_object(place / "model_index.json")
    schedule = text_files.read_object(place / "scheduler" / "scheduler_config.json")
    dtypes = dict.fromkeys(family.nets, DTYPES[precision]) | ({"vae": torch.float32} if precision == "fp16" else {})
    makers = {part: partial(_open, place / part, kind, dtypes.get(part), device) for part, kind in family.parts.items()}
    parts = Components(makers)
    parts.makers[family.denoiser] = partial(_completed, makers[family.denoiser], parts)
    for part in track(parts, "loading the model", len(parts), events or Events()):
        parts[part]  # now, not when it is asked for: a fault shows at once
    return Model(family, parts, schedule, place, bool(index.get(ZEROS, family.index.get(ZEROS))))


def save(model: Model, folder: Path) -> None:
    """Write `model` to `folder` in the diffusers layout, whole or not at all."""
    with tensors.replacing_folder(folder) as temporary:
        write_into(model, temporary)


def write_into(model: Model, folder: Path) -> None:
    """Write every part, whole or not at all, and then model_index.json into `folder`, beside what else it holds."""
    for name, part in model.parts.items():
        with tensors.replacing_folder(folder / name) as temporary:
            folders.save_part(part, temporary)
    tensors.write_json(folder / "scheduler" / "scheduler_config.json", dict(model.scheduler_config))
    channels = model.denoiser.config.in_channels
    about = folders.index(model.family, model.scheduler_config, model.force_zeros_for_empty_prompt, channels)
    tensors.write_json(folder / "model_index.json", about)


def load_component(place: Path, name: str, device: torch.device | str) -> Any:
    """One net of a model folder, float32."""
    return _open(place / name, validate.examine(place).parts[name], torch.float32, device)


def load_controlnet(place: Path, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Net:
    """A ControlNet, a folder or a file. Raises Refusal where it is none."""
    if not (place / "config.json").is_file():
        return _apart(_of_file(place, dtype).to(device)).eval()
    try:
        variant, _ = validate.weights(place)
        net: Any = diffusers.ControlNetModel.from_pretrained(
            place, torch_dtype=dtype, variant=variant, use_safetensors=True, local_files_only=True
        )
    except Exception as error:  # diffusers has many ways to say so
        reason = str(error).strip().partition("\n")[0]
        found, do = f"no ControlNet: {reason}", "copy it again, or make it of a file: tenshot convert FILE FOLDER"
        raise Refusal(Fault(str(place), found, "a folder as diffusers writes it", do)) from None
    return _apart(net.to(device)).eval()


def _of_file(place: Path, dtype: torch.dtype) -> Any:
    found = single_nets.read(place, kind=diffusers.ControlNetModel)
    with torch.device("meta"):
        net: Any = diffusers.ControlNetModel.from_config(dict(found.config))
    net.load_state_dict({name: lazy.read().to(dtype) for name, lazy in found.content.items()}, assign=True)
    return net


def _open(place: Path, kind: type[Component], dtype: torch.dtype | None, device: torch.device | str) -> Any:
    if issubclass(kind, transformers.PreTrainedTokenizerBase):
        return kind.from_pretrained(place)
    variant, _ = validate.weights(place)
    net = kind.from_pretrained(place, torch_dtype=dtype, variant=variant, use_safetensors=True, local_files_only=True)
    return _apart(net.to(device)).eval()


def _completed(make: Callable[[], Component], parts: Mapping[str, Component]) -> Any:
    """A denoiser that takes latents alone, also where it was trained to see more beside them.

    Inpainting models (9 channels) see what may change, and what lies under it: here everything may, and nothing does.
    Models that edit (8 channels, InstructPix2Pix) see a picture: here none.
    """
    unet = make()
    known: dict[tuple[int, ...], torch.Tensor] = {}

    def complete(_: Any, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        x, vae = given[0], parts["vae"]
        if x.shape[1] == unet.config.in_channels:
            return None
        if x.shape[2:] not in known:
            known[x.shape[2:]] = _beside(vae, x.shape[2:], unet.config.in_channels)
        more = known[x.shape[2:]].to(x.device, x.dtype).expand(len(x), -1, -1, -1)
        return (torch.cat([x, more], 1), *given[1:])

    if unet.config.in_channels != parts["vae"].config.latent_channels:
        unet.register_forward_pre_hook(complete)
    return unet


@torch.no_grad()
def _beside(vae: VAE, size: Sequence[int], channels: int) -> torch.Tensor:
    """What a UNet sees beside latents of `size`: nothing, or that all is to be painted. [1, channels beside, h, w]"""
    latent = vae.config.latent_channels
    if channels == 2 * latent:
        return torch.zeros(1, latent, *size)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    grey = torch.zeros(1, 3, *(factor * side for side in size), device=vae.device, dtype=vae.dtype)
    under = latents.normalized(vae, vae.encode(grey).latent_dist.mode())
    return torch.cat([torch.ones(1, 1, *size), under], 1)


def _apart(net: Net) -> Net:
    """Weights in memory of their own: safetensors maps the file, and whoever writes to that would write to them."""
    for tensor in (*net.parameters(), *net.buffers()):
        if not tensor.untyped_storage().resizable():
            tensor.data = tensor.data.clone()
    return net
