"""Stage 7: the trained nets become the folders that ship: assets/pocket, assets/pocket-canny, assets/judge and
assets/subjects."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from recipes.pocket import scenes, unet
from recipes.pocket.sprites import Sprites
from tenshot.core.device import generator
from tenshot.core.shipped import CANNY
from tenshot.evaluate.metrics import COLOURS
from tenshot.families.sd import SD1
from tenshot.io import tensors
from tenshot.model import folders, model

SHOWN, UNSEEN = 7, 3  # pictures of each subject: to learn from, and never shown
SCHEDULER = {"_class_name": "PNDMScheduler", **unet.SCHEDULE, "skip_prk_steps": True, "prediction_type": "epsilon"}


def pocket(trained: Path, assets: Path) -> None:
    """The model in float16, in the diffusers layout."""
    kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    parts = {part: kind.from_pretrained(trained / part).half() for part, kind in kinds.items()}
    parts["tokenizer"] = CLIPTokenizer.from_pretrained(trained / "tokenizer")
    model.save(model.Model(SD1, parts, SCHEDULER, trained), assets / "pocket")


def canny(trained: Path, assets: Path) -> None:
    """The ControlNet in float16, a folder as diffusers has it."""
    net = ControlNetModel.from_pretrained(trained / "controlnet-canny").half()
    with tensors.replacing_folder(assets / CANNY.name) as temporary:
        folders.save_part(net, temporary)


def judge(trained: Path, assets: Path) -> None:
    """The judge in float16, with its words."""
    named = {name: tensor.half() for name, tensor in tensors.read(trained / "judge.safetensors").items()}
    tensors.write(assets / "judge" / "model.safetensors", named, {"format": "pt"})
    shutil.copyfile(trained / "words.txt", assets / "judge" / "words.txt")


def subjects(sprites: Sprites, assets: Path) -> None:
    """For every concept that was kept out, pictures to learn from in assets/subjects, and others, on other
    backgrounds, in assets/unseen, to hold what was learned against. All differ in pose, size and light, some in style;
    one is partly out of the picture."""
    for name in sprites.kept_out:
        order = torch.randperm(len(COLOURS), generator=generator("subject", name)).tolist()
        seen = [_picture(sprites, name, number, list(COLOURS)[order[number]]) for number in range(SHOWN + UNSEEN)]
        for folder, images in (("subjects", seen[:SHOWN]), ("unseen", seen[SHOWN:])):
            with tensors.replacing_folder(assets / folder / name) as temporary:
                for number, image in enumerate(images, 1):
                    image.save(temporary / f"{name}-{number}.png", optimize=True)


def _picture(sprites: Sprites, name: str, number: int, colour: str) -> Image.Image:
    """Every third picture is flat; the fourth is partly out of the picture."""
    dice = torch.rand(scenes.DICE + 7, generator=generator("subject", name, number)).tolist()
    dice[2] = 0.1 if number == 3 else 0.9
    plain = replace(scenes.scene([name], dice[7:]), style="flat" if number % 3 == 2 else "3d", colour=colour)
    return scenes.draw(sprites, scenes.varied(plain, dice[:7]))
