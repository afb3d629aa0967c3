"""Checkpoints that are not a whole model of a known family: what such a file is, and what it lacks.

A part of it must not pass for the whole: an autoencoder within it, say, for a file that holds nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tenshot.core.errors import Fault, Refusal
from tenshot.families import conversion, registry
from tenshot.io.tensor_files import Lazy

UNET, EMA, VAE, CONTROL = "model.diffusion_model.", "model_ema.", "first_stage_model.", "control_model."
CLIP, OPEN_CLIP, CLIPS = "cond_stage_model.transformer.", "cond_stage_model.model.", "conditioner.embedders."
#: Beginnings of names -> models that are none of the families here.
OTHERS = {
    "double_blocks.0.": "Flux",
    "double_layers.0.": "AuraFlow",
    "cap_embedder.": "Lumina",
    "distilled_guidance_layer.": "Chroma",
    "down_blocks.0.1.channelwise.": "Stable Cascade",
    "joint_transformer_blocks.0.": "AuraFlow, in diffusers' names",
    "single_transformer_blocks.0.": "Flux, in diffusers' names",
}
LACKS = "--config MODEL gives it those of that model folder; or take the whole checkpoint"
VAE_LACKS = "--vae FILE|FOLDER gives it one; or take the whole checkpoint"
WHOLE = "a whole checkpoint of Stable Diffusion 1.x, 2.x, XL or 3"


@dataclass(frozen=True)
class Nature:
    """what: the file, in words. has, lacks: parts of a model. do: what would help."""

    what: str
    has: tuple[str, ...]
    lacks: tuple[str, ...]
    do: str


def describe(named: Mapping[str, Lazy]) -> Nature | None:
    """What a file with these tensors is, where it is part of a checkpoint or another family's; None for all others."""
    if nature := _of_transformer(named):
        return nature
    starts = {name.removeprefix(UNET) for name in named}
    for mark, title in OTHERS.items():
        if any(name.startswith(mark) for name in starts):
            return Nature(f"a model of {title}", (), (), "Tenshot does not know this family; diffusers and ComfyUI may")
    has = [
        title
        for mark, title in (
            (UNET, "UNet"),
            (EMA, "running average of the UNet"),
            (VAE, "VAE"),
            (CLIP, "text encoder (CLIP)"),
            (OPEN_CLIP, "text encoder (OpenCLIP)"),
            (f"{CLIPS}0.transformer.", "text encoder (CLIP-L)"),
            (f"{CLIPS}0.model.", "text encoder (OpenCLIP bigG) in the first place"),
            (f"{CLIPS}1.model.", "text encoder (OpenCLIP bigG)"),
            (CONTROL, "ControlNet"),
        )
        if any(name.startswith(mark) for name in named)
    ]
    if len(has) < 2 and has != ["running average of the UNet"]:
        return None  # a net alone, or nothing of a checkpoint
    return _lacking(named, tuple(has))


def _of_transformer(named: Mapping[str, Lazy]) -> Nature | None:
    """A family whose denoiser's names are no UNet's: some of its parts, and others missing."""
    for family in registry.FAMILIES:
        marks = conversion.landmarks(family)
        if family.denoiser != "unet" and marks[family.denoiser] in named:
            has = tuple(part for part, mark in marks.items() if mark in named)
            if has == (family.denoiser,):
                return None  # it alone
            lacks = tuple(part for part in marks if part not in has and part not in family.optional)
            do = VAE_LACKS if lacks == ("vae",) else LACKS
            return Nature(f"a checkpoint of {family.title}, without {' and '.join(lacks)}", has, lacks, do)
    return None


def _lacking(named: Mapping[str, Lazy], has: tuple[str, ...]) -> Nature:
    title = _title(named, has)
    if "refiner" in title:
        do = "it refines what a Stable Diffusion XL model drew, and is no model to draw or train with: take the base"
        return Nature(f"a {title}", has, (), do)
    lacks = [] if "UNet" in has else ["UNet"]
    lacks += [] if "VAE" in has else ["VAE"]
    texts = [part for part in has if part.startswith("text encoder")]
    wanted = 2 if title.endswith("XL") else 1
    lacks += ["text encoder" if wanted == 1 else "text encoders"] if len(texts) < wanted else []
    do = LACKS if "UNet" in has else "take the whole checkpoint"
    if lacks == ["VAE"]:
        do = VAE_LACKS
    elif "UNet" in lacks and EMA and "running average of the UNet" in has:
        do = "it holds the average of the weights alone: take the file with the weights themselves"
    without = f", without {' and '.join(lacks)}" if lacks else ""
    return Nature(f"a checkpoint of {title}{without}", has, tuple(lacks), do)


def _title(named: Mapping[str, Lazy], has: tuple[str, ...]) -> str:
    """The family that the UNet's shapes, and the text encoders' names, point to."""
    if any(name.startswith(f"{UNET}joint_blocks.") for name in named):
        return "Stable Diffusion 3"
    label = named.get(f"{UNET}label_emb.0.0.weight")
    if "text encoder (OpenCLIP bigG) in the first place" in has:
        return "Stable Diffusion XL refiner"
    if label is not None and label.shape[1:] == (2560,):
        return "Stable Diffusion XL refiner"
    if label is not None or any(name.startswith(CLIPS) for name in named):
        return "Stable Diffusion XL"
    width = next((lazy.shape[-1:] for name, lazy in named.items() if name.endswith("attn2.to_k.weight")), ())
    if width == (1024,) or "text encoder (OpenCLIP)" in has:
        return "Stable Diffusion 2.x"
    return "Stable Diffusion 1.x" if width == (768,) or "text encoder (CLIP)" in has else "an unknown family"


def refuse(place: Path, named: Mapping[str, Lazy]) -> None:
    """Raise Refusal where the tensors are part of a checkpoint, or another family's model."""
    if nature := describe(named):
        has = f"; it has: {', '.join(nature.has)}" if nature.has else ""
        raise Refusal(Fault(str(place), f"is {nature.what}{has}", WHOLE, nature.do))
