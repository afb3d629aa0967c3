"""Does the pocket model reach its bar? Backgrounds, concepts and reconstructions, counted; with a sheet to look at."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from recipes.pocket import autoencoder, scenes
from recipes.pocket.sprites import STYLES, Sprites
from tenshot import pipeline
from tenshot.core.device import generator
from tenshot.evaluate import judge, metrics
from tenshot.io import tensors
from tenshot.io.png import contact_sheet
from tenshot.model import model
from tenshot.pipeline import Request, SamplingSettings

PROMPTS = 100
BARS = {"background": 95, "concept": 70, "psnr": 27.0}


def measure(sprites: Sprites, folder: Path, place: str = "pocket") -> dict[str, float]:
    """The figures, also in folder/bar.json; the pictures are on folder/bar.png."""
    opened, eye = model.load(place), judge.load()
    asked = [_asked(sprites, number) for number in range(PROMPTS)]
    requests = [Request(scenes.caption(scene), 1000 + number) for number, scene in enumerate(asked)]
    images = pipeline.images(opened, requests, SamplingSettings(batch=20))
    figures = {
        "background": sum(metrics.background_colour(i) == s.colour for i, s in zip(images, asked, strict=True)),
        "concept": sum(_right(eye, sprites, i, s) for i, s in zip(images, asked, strict=True)),
        "concept, real pictures": sum(_right(eye, sprites, scenes.draw(sprites, s), s) for s in asked),
        "psnr": autoencoder.fidelity(opened["vae"], _unseen(sprites)),
    }
    _sheet(requests, images).save(folder / "bar.png")
    tensors.write_json(folder / "bar.json", {"bars": BARS, "reached": figures, "prompts": PROMPTS})
    return figures


def _asked(sprites: Sprites, number: int) -> scenes.Scene:
    return scenes.scene(sprites.known, torch.rand(7, generator=generator("bar", number)).tolist())


def _right(eye: judge.Judge, sprites: Sprites, image: Image.Image, asked: scenes.Scene) -> bool:
    """Is the nearest of all known concepts, in the prompt's words, the one that was asked for?"""
    medium = scenes.MEDIA[asked.style]
    captions = [scenes.sentence(scenes.words(name), medium, asked.colour) for name in sprites.known]
    return sprites.known[eye.nearest([image], captions)[0]] == asked.name


def _unseen(sprites: Sprites) -> torch.Tensor:
    """Scenes of every concept that was kept out, in both styles, [n, 3, 128, 128]."""
    made = []
    for number, (name, style) in enumerate((n, s) for n in sprites.kept_out for s in STYLES):
        dice = torch.rand(7, generator=generator("unseen", number)).tolist()
        colour = scenes.scene([name], dice).colour
        made.append(autoencoder.as_tensor(scenes.draw(sprites, scenes.Scene(name, style, colour, tuple(dice[3:])))))
    return torch.stack(made)


def _sheet(requests: list[Request], images: list[Image.Image]) -> Image.Image:
    rows = [images[start : start + 10] for start in range(0, len(images), 10)]
    names = [" / ".join(r.prompt.split(" of a", 1)[1].split()[0:1]) for r in requests[::10]]
    return contact_sheet(rows, [""] * len(rows), [""] * len(names), cell=128)
