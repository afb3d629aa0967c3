"""Does the pocket model reach its bar? What was asked for, counted in drawn pictures; with a sheet to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from PIL import Image

from recipes.pocket import autoencoder, judge, scenes
from recipes.pocket.controlnet import EDGES
from recipes.pocket.scenes import ATTRIBUTES, DICE, MEDIA, Scene
from recipes.pocket.sprites import STYLES, Sprites
from tenshot import pipeline
from tenshot.core.device import generator
from tenshot.core.shipped import CANNY
from tenshot.evaluate import metrics
from tenshot.evaluate.judge import Judge
from tenshot.evaluate.metrics import COLOURS
from tenshot.evaluate.pocket_judge import load as load_judge
from tenshot.evaluate.subject import SUBJECTS
from tenshot.generate.controlnets import canny
from tenshot.io import tensors
from tenshot.io.png import contact_sheet
from tenshot.model import model
from tenshot.model.control import Unit
from tenshot.model.model import Model
from tenshot.pipeline import Request, SamplingSettings

PROMPTS, CATEGORIES, POSED = 100, 10, 40  # prompts; of each category; with an attribute
BARS = {"background": 0.95, "concept": 0.87, "style": 0.95, "category": 0.85, "subjects told apart": 0.95, "psnr": 27.0}


def measure(sprites: Sprites, folder: Path, place: str = "pocket") -> dict[str, float]:
    """The figures, also in folder/bar.json; the pictures are on folder/bar.png."""
    opened, eye = model.load(place), load_judge()
    asked = [_asked(sprites, number, plain=1.0) for number in range(PROMPTS)]
    posed = [_asked(sprites, number, plain=0.0) for number in range(PROMPTS, PROMPTS + POSED)]
    kinds = [
        kind for kind in dict.fromkeys(sprites.category[name] for name in sprites.known) for _ in range(CATEGORIES)
    ]
    prompts = [*map(scenes.caption, [*asked, *posed]), *(scenes.sentence(kind, "photo") for kind in kinds)]
    requests = [Request(prompt, 1000 + number) for number, prompt in enumerate(prompts)]
    images = pipeline.images(opened, requests, SamplingSettings(batch=20))
    plain, turned, classes = images[:PROMPTS], images[PROMPTS : PROMPTS + POSED], images[PROMPTS + POSED :]
    real, real_posed = ([scenes.draw(sprites, each) for each in those] for those in (asked, posed))
    figures = {
        "background": _share(metrics.background_colour(i) == s.colour for i, s in zip(plain, asked, strict=True)),
        "concept": _share(_concepts(eye, sprites, plain, asked)),
        "concept, real pictures": _share(_concepts(eye, sprites, real, asked)),
        "style": _share(_styles(eye, plain, asked)),
        "style, real pictures": _share(_styles(eye, real, asked)),
        "category": _share(_categories(eye, sprites, classes, kinds)),
        "attribute": _share(_attributes(eye, turned, posed)),
        "attribute, real pictures": _share(_attributes(eye, real_posed, posed)),
        "subjects told apart": judge.held_out(sprites, eye),
        "psnr": autoencoder.fidelity(opened.vae, _unseen(sprites)),
    }
    figures |= _edges(sprites, opened, folder)
    _sheet(prompts, images).save(folder / "bar.png")
    tensors.write_json(folder / "bar.json", {"bars": BARS, "reached": figures})
    return figures


def _asked(sprites: Sprites, number: int, plain: float) -> Scene:
    return scenes.scene(sprites.known, torch.rand(DICE, generator=generator("bar", number)).tolist(), plain)


def _share(right: Sequence[bool] | Mapping[str, bool]) -> float:
    found = list(right)
    return sum(found) / len(found)


def _concepts(eye: Judge, sprites: Sprites, images: Sequence[Image.Image], asked: Sequence[Scene]) -> list[bool]:
    """Is the nearest of all known concepts, in the prompt's words, the one that was asked for?"""
    right = []
    for image, scene in zip(images, asked, strict=True):
        texts = [scenes.sentence(scenes.words(name), MEDIA[scene.style], scene.colour) for name in sprites.known]
        right.append(sprites.known[eye.nearest([image], texts)[0]] == scene.name)
    return right


def _styles(eye: Judge, images: Sequence[Image.Image], asked: Sequence[Scene]) -> list[bool]:
    texts = [[scenes.sentence(scenes.words(scene.name), MEDIA[s], scene.colour) for s in STYLES] for scene in asked]
    return [
        STYLES[eye.nearest([image], own)[0]] == scene.style
        for image, own, scene in zip(images, texts, asked, strict=True)
    ]


def _categories(eye: Judge, sprites: Sprites, images: Sequence[Image.Image], kinds: Sequence[str]) -> list[bool]:
    """Is the nearest of all known concepts, in any style, of the category that was asked for?"""
    texts = [(scenes.sentence(scenes.words(name), medium), name) for name in sprites.known for medium in MEDIA.values()]
    nearest = eye.nearest(images, [text for text, _ in texts])
    return [sprites.category[texts[at][1]] == kind for at, kind in zip(nearest, kinds, strict=True)]


def _attributes(eye: Judge, images: Sequence[Image.Image], asked: Sequence[Scene]) -> list[bool]:
    """Is the nearest of no attribute and each of them among those that were asked for?"""
    said = ("", *ATTRIBUTES)
    right = []
    for image, scene in zip(images, asked, strict=True):
        texts = [
            scenes.sentence(f"{a} {scenes.words(scene.name)}".strip(), MEDIA[scene.style], scene.colour) for a in said
        ]
        right.append(said[eye.nearest([image], texts)[0]] in scene.attributes)
    return right


def _edges(sprites: Sprites, opened: Model, folder: Path) -> dict[str, float]:
    """How far drawn edges agree with those of a picture of a subject that no net ever saw, with the ControlNet and
    without; the prompt names its kind, and another background. The pictures are on folder/canny.png."""
    seen = {place.name: Image.open(min(place.iterdir())).convert("RGB") for place in sorted(SUBJECTS.iterdir())}
    maps = [canny(picture, *EDGES) for picture in seen.values()]
    others = [next(c for c in COLOURS if c != metrics.background_colour(picture)) for picture in seen.values()]
    prompts = [
        scenes.sentence(sprites.category[name], "3d emoji", other) for name, other in zip(seen, others, strict=True)
    ]
    plain = [Request(prompt, 2000 + number) for number, prompt in enumerate(prompts)]
    along = [replace(each, control=(edges,)) for each, edges in zip(plain, maps, strict=True)]
    unit = Unit(model.load_controlnet(CANNY, "cpu"))
    drawn = [
        pipeline.images(opened, plain, SamplingSettings(batch=8)),
        pipeline.images(opened, along, SamplingSettings(batch=8, control=(unit,))),
    ]
    without, followed = (
        mean(metrics.edge_agreement(canny(image, *EDGES), edges) for image, edges in zip(images, maps, strict=True))
        for images in drawn
    )
    rows = [[*each] for each in zip(seen.values(), maps, *drawn, strict=True)]
    heads = ["a picture", "its edges", "without", "along the edges"]
    contact_sheet(rows, prompts, heads, cell=128).save(folder / "canny.png")
    return {"edges followed": followed, "edges, without": without}


def _unseen(sprites: Sprites) -> torch.Tensor:
    """Scenes of every concept that was kept out, in both styles, [n, 3, 128, 128]."""
    made = []
    for number, (name, style) in enumerate((n, s) for n in sprites.kept_out for s in STYLES):
        dice = torch.rand(DICE, generator=generator("unseen", number)).tolist()
        dice[1] = (STYLES.index(style) + 0.5) / len(STYLES)
        made.append(autoencoder.as_tensor(scenes.draw(sprites, scenes.scene([name], dice))))
    return torch.stack(made)


def _sheet(prompts: Sequence[str], images: Sequence[Image.Image]) -> Image.Image:
    rows = [list(images[start : start + 10]) for start in range(0, len(images), 10)]
    return contact_sheet(rows, [prompt[:40] for prompt in prompts[::10]], [""] * 10, cell=128)
