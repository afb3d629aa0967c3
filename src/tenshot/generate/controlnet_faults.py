"""What keeps ControlNets from being asked: their files, the model's family, what is not installed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from diffusers import ControlNetModel

from tenshot.core.errors import Fault, Refusal
from tenshot.core.json_types import Config
from tenshot.families import registry, validate
from tenshot.families.base import Family
from tenshot.generate.controlnet_options import Asked, Preprocessor
from tenshot.model import single_nets
from tenshot.model.sides import Sides
from tenshot.runtime import compiled_model

#: What a ControlNet must share with its UNet, and what diffusers takes where nothing is said.
SHARED = {
    "cross_attention_dim": 1280,
    "addition_embed_type": None,
    "projection_class_embeddings_input_dim": None,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
}


def here(model: str, vae: Path | None, controlnets: Sequence[str]) -> bool:
    """Is all there that tells faults, without work? A checkpoint file would have to be made a folder first."""
    try:
        places = [Path(Asked.parsed(given).place) for given in controlnets]
    except ValueError:
        return False
    places += [vae] if vae else []
    return all(place.exists() for place in places) and (model == "pocket" or Path(model).is_dir())


def faults(
    model: str, vae: Path | None, controlnets: Sequence[str], preprocessors: Sequence[Preprocessor]
) -> Iterator[Fault]:
    """controlnets: as options name them."""
    if "canny" in preprocessors and not find_spec("cv2"):
        do = 'pip install "tenshot[controlnet]", or give the edges as the picture, with --control_preprocessor none'
        yield Fault("--control_preprocessor", "canny is OpenCV's, which is not installed", "opencv-python-headless", do)
    family: Family | None = None
    try:
        folder = compiled_model.folder(compiled_model.find(model, vae=vae))
        family, unet, sides = validate.examine(folder), validate.denoiser_config(folder), Sides.of_folder(folder)
    except Refusal:  # told elsewhere
        pass
    if family and not family.takes_controlnet:
        fits = ", ".join(each.title for each in registry.FAMILIES if each.takes_controlnet)
        yield Fault("--controlnet", f"ControlNets for {family.title} are not known here", fits, "leave it out")
        return
    for given in controlnets:
        try:
            place = Path(Asked.parsed(given).place)
            found = single_nets.read(place, kind=ControlNetModel)
        except ValueError:  # told by the options themselves
            continue
        except Refusal as refusal:
            yield from refusal.faults
            continue
        if family:
            yield from _misfits(place, found.config, unet, family)
            yield from _other_latents(place, found.config, sides)


def _misfits(place: Path, config: Config, unet: Config, family: Family) -> Iterator[Fault]:
    """What keeps a ControlNet from speaking to a UNet."""
    pairs = {name: [_plain(each.get(name, usual)) for each in (config, unet)] for name, usual in SHARED.items()}
    if wrong := {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}:
        other = registry.of({**config, "_class_name": "UNet2DConditionModel"})
        kind = f"a ControlNet for {other.title}" if other and other is not family else "a ControlNet for another UNet"
        told = "; ".join(f"{name} {mine}, and the model has {theirs}" for name, (mine, theirs) in wrong.items())
        yield Fault("--controlnet", f"{place} is {kind}: {told}", f"one for {family.title}", "name another one")


def _other_latents(place: Path, config: Config, sides: Sides) -> Iterator[Fault]:
    factor = 2 ** (len(config.get("conditioning_embedding_out_channels", (16, 32, 96, 256))) - 1)
    for what, mine, theirs in (
        ("pixels a latent", factor, sides.factor),
        ("channels of latents", config.get("in_channels", 4), sides.channels),
    ):
        if mine != theirs:
            yield Fault("--controlnet", f"{place} is for {mine} {what}", f"{theirs}, as the model", "name another one")


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
