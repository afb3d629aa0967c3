"""Stage 4: the trained nets become the folders that ship: assets/pocket, assets/judge and assets/subjects."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from recipes.pocket import scenes, unet
from recipes.pocket.sprites import Sprites
from tenshot.core.device import generator
from tenshot.evaluate.metrics import COLOURS
from tenshot.families.sd import SD1
from tenshot.io import tensors
from tenshot.model import model

PICTURES = 7  # of each subject
SCHEDULER = {"_class_name": "PNDMScheduler", **unet.SCHEDULE, "skip_prk_steps": True, "prediction_type": "epsilon"}


def pocket(trained: Path, assets: Path) -> None:
    """The model in float16, in the diffusers layout."""
    kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    parts = {part: kind.from_pretrained(trained / part).half() for part, kind in kinds.items()}
    parts["tokenizer"] = CLIPTokenizer.from_pretrained(trained / "tokenizer")
    model.save(model.Model(SD1, parts, SCHEDULER, trained), assets / "pocket")


def judge(pair: Path, assets: Path) -> None:
    """The picture tower and the projections in float16; the text tower is the pocket model's own."""
    named = {name: t.half() for name, t in tensors.read(pair).items() if not name.startswith("words.")}
    tensors.write(assets / "judge" / "model.safetensors", named, {"format": "pt"})


def subjects(sprites: Sprites, assets: Path) -> None:
    """For every concept that was kept out, PICTURES in the style "3d", each on another background."""
    for name in sprites.kept_out:
        with tensors.replacing_folder(assets / "subjects" / name) as temporary:
            order = torch.randperm(len(COLOURS), generator=generator("subject", name)).tolist()
            for number in range(PICTURES):
                place = torch.rand(4, generator=generator("subject", name, number)).tolist()
                seen = scenes.Scene(name, "3d", list(COLOURS)[order[number]], tuple(place))
                scenes.draw(sprites, seen).save(temporary / f"{name}-{number + 1}.png", optimize=True)
