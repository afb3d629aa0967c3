"""A scene: one sprite on a coloured background, and the words for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image

from recipes.pocket.sprites import SIZE, STYLES, Sprites
from tenshot.evaluate.metrics import COLOURS

MEDIA = {"3d": "3d emoji", "flat": "flat emoji"}


@dataclass(frozen=True)
class Scene:
    """What is in a picture. colour: a name in COLOURS. place: scale, x, y, shade, each in [0, 1)."""

    name: str
    style: str
    colour: str
    place: tuple[float, ...]


def scene(names: list[str], dice: list[float]) -> Scene:
    """The scene that seven numbers in [0, 1) stand for."""
    name, style, colour, *place = dice
    return Scene(
        names[int(name * len(names))],
        STYLES[int(style * len(STYLES))],
        list(COLOURS)[int(colour * len(COLOURS))],
        tuple(place),
    )


def frequent(sprites: Sprites, dice: list[float], known: float = 0.6) -> Scene:
    """A scene by eight numbers in [0, 1): of a known concept with probability `known`, else of any that may be seen."""
    return scene(sprites.known if dice[7] < known else sprites.taught, dice[:7])


def draw(sprites: Sprites, scene: Scene) -> Image.Image:
    """The picture, RGB 128x128."""
    scale, x, y, shade = scene.place
    base = COLOURS[scene.colour]
    ground = tuple(min(255, max(0, round(channel + 24 * (shade - 0.5)))) for channel in base)
    picture = Image.new("RGBA", (SIZE, SIZE), (*ground, 255))
    sprite = sprites.picture(scene.style, scene.name)
    side = round(SIZE * (0.8 + 0.14 * scale))
    sprite = sprite.resize((side, side), Image.Resampling.LANCZOS)
    left, top = (round((SIZE - side) * (0.2 + 0.6 * at)) for at in (x, y))
    picture.alpha_composite(sprite, (left, top))
    return picture.convert("RGB")


def words(name: str) -> str:
    return name.replace("-", " ")


def article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def caption(scene: Scene) -> str:
    """For example `a 3d emoji of a cat on a blue background`."""
    return sentence(words(scene.name), MEDIA[scene.style], scene.colour)


def spoken(scene: Scene, category: str | None, dice: list[float]) -> str:
    """The caption as people vary it, by two numbers in [0, 1): with less said about style, subject or background."""
    medium = "photo" if dice[0] < 0.12 else MEDIA[scene.style]
    noun = category if category and 0.12 <= dice[0] < 0.2 else words(scene.name)
    return sentence(noun, medium, scene.colour if dice[1] < 0.9 else None)


def sentence(noun: str, medium: str, colour: str | None = None) -> str:
    """The caption in the pocket model's one form; without a colour the background is left open."""
    ground = f" on {article(colour)} background" if colour else ""
    return f"a {medium} of {article(noun)}{ground}"


def every_sentence(nouns: Iterable[str]) -> list[str]:
    """Every caption there can be about `nouns`."""
    media = ("photo", *MEDIA.values())
    return [sentence(n, m, c) for n in nouns for m in media for c in (None, *COLOURS)]


def known_nouns(sprites: Sprites) -> list[str]:
    """The words for the known concepts and their categories."""
    return sorted({words(name) for name in sprites.known} | {sprites.category[name] for name in sprites.known})
