"""A scene: one sprite on a coloured background, and the words for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from recipes.pocket.sprites import SIZE, STYLES, Sprites
from tenshot.evaluate.metrics import COLOURS

MEDIA = {"3d": "3d emoji", "flat": "flat emoji"}
ATTRIBUTES = ("small", "tilted", "upside down")
DICE = 16  # numbers in [0, 1) that a scene and its pose are made of


@dataclass(frozen=True)
class Pose:
    """How the sprite stands. side: its share of the picture's. angle: degrees against the clock. x, y: of the room
    that is left to move in, .5 in the middle; beyond 0 and 1 a part is out of the picture. light: factors of red,
    green and blue."""

    mirrored: bool = False
    side: float = 0.87
    angle: float = 0.0
    x: float = 0.5
    y: float = 0.5
    light: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Scene:
    """What is in a picture. colour: a name in COLOURS. shade: of the background, in [0, 1)."""

    name: str
    style: str
    colour: str
    pose: Pose = Pose()
    shade: float = 0.5
    attributes: tuple[str, ...] = ()


def scene(names: Sequence[str], dice: Sequence[float], plain: float = 1.0) -> Scene:
    """The scene that DICE numbers in [0, 1) stand for; with an attribute or two, unless dice[7] < plain."""
    name, style, colour, side, x, y, shade, posed, mirrored, *rest = dice
    seen = Scene(
        names[int(name * len(names))],
        STYLES[int(style * len(STYLES))],
        list(COLOURS)[int(colour * len(COLOURS))],
        Pose(mirrored < 0.5, 0.8 + 0.14 * side, 0.0, 0.2 + 0.6 * x, 0.2 + 0.6 * y),
        shade,
    )
    return seen if posed < plain else _with_attributes(seen, rest)


def frequent(sprites: Sprites, dice: Sequence[float], known: float = 0.6, plain: float = 0.8) -> Scene:
    """A scene by 1 + DICE numbers: of a known concept with probability `known`, else of any that may be seen."""
    return scene(sprites.known if dice[0] < known else sprites.taught, dice[1:], plain)


def _with_attributes(seen: Scene, dice: Sequence[float]) -> Scene:
    """The scene small, tilted or upside down; a quarter of the small ones turned as well."""
    kind, side, angle, both, *_ = dice
    small, turned = kind < 0.45, kind >= 0.45 or both < 0.25
    pose, attributes = seen.pose, []
    if small:
        pose = replace(pose, side=0.45 + 0.13 * side)
        attributes.append("small")
    if turned and both < 0.125 + 0.125 * (not small):
        pose = replace(pose, angle=180.0)
        attributes.append("upside down")
    elif turned:
        degrees = (25 + 20 * abs(2 * angle - 1)) * (1 if angle < 0.5 else -1)
        pose = replace(pose, angle=degrees, side=0.85 * pose.side)
        attributes.append("tilted")
    return replace(seen, pose=pose, attributes=tuple(attributes))


def varied(seen: Scene, dice: Sequence[float]) -> Scene:
    """The scene as another camera would have it, by seven numbers in [0, 1): turned a little, in another size, a
    quarter of them partly out of the picture, in another light."""
    turn, size, out, where, *light = dice
    side = 0.55 + 0.4 * size
    pose = replace(seen.pose, side=side, angle=seen.pose.angle + 40 * (turn - 0.5))
    if out < 0.25:
        hidden = side * (0.2 + out)
        beyond = (1 - side + hidden if where < 0.5 else -hidden) / (1 - side)
        pose = replace(pose, x=beyond) if (where * 4) % 1 < 0.5 else replace(pose, y=beyond)
    red, green, blue = (0.82 + 0.36 * each for each in light)
    return replace(seen, pose=replace(pose, light=(red, green, blue)))


def draw(sprites: Sprites, scene: Scene) -> Image.Image:
    """The picture, RGB 128x128."""
    pose = scene.pose
    ground = tuple(min(255, max(0, round(channel + 24 * (scene.shade - 0.5)))) for channel in COLOURS[scene.colour])
    picture = Image.new("RGBA", (SIZE, SIZE), (*ground, 255))
    sprite = sprites.picture(scene.style, scene.name)
    if pose.mirrored:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if pose.angle:
        sprite = sprite.rotate(pose.angle, Image.Resampling.BICUBIC, expand=True)
    sprite = sprite.resize([round(pose.side * over) for over in sprite.size], Image.Resampling.LANCZOS)
    if pose.light != (1.0, 1.0, 1.0):
        levels = np.asarray(sprite).astype(np.float32) * (*pose.light, 1.0)
        sprite = Image.fromarray(levels.clip(0, 255).astype(np.uint8), "RGBA")
    side = SIZE * pose.side
    where = zip((pose.x, pose.y), sprite.size, strict=True)
    left, top = (round((SIZE - side) * at - (over - side) / 2) for at, over in where)
    picture.paste(sprite, (left, top), sprite)
    return picture.convert("RGB")


def words(name: str) -> str:
    return name.replace("-", " ")


def article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def caption(scene: Scene) -> str:
    """For example `a 3d emoji of a small cat on a blue background`."""
    return sentence(" ".join((*scene.attributes, words(scene.name))), MEDIA[scene.style], scene.colour)


def spoken(scene: Scene, category: str | None, dice: Sequence[float]) -> str:
    """The caption as people vary it, by five numbers in [0, 1): with less said about style, subject or background,
    in another order, with other small words."""
    by_category, photo, unsaid, form, attribute = dice
    noun = category if category and by_category < 0.15 else words(scene.name)
    noun = " ".join((*(scene.attributes if attribute < 0.9 else ()), noun))
    colour = scene.colour if unsaid < 0.85 else None
    medium = "photo" if photo < 0.25 else MEDIA[scene.style]
    if form < 0.6:
        return sentence(noun, medium, colour)
    if form < 0.75:
        return article(noun) + (f" on {article(colour)} background" if colour else "")
    if form < 0.9:
        return f"{medium} of {article(noun)}" + (f", {colour} background" if colour else "")
    style = "" if medium == "photo" else f" in {scene.style} style"
    return article(noun) + style + (f", {colour} background" if colour else "")


def sentence(noun: str, medium: str, colour: str | None = None) -> str:
    """The caption in the pocket model's one form; without a colour the background is left open."""
    ground = f" on {article(colour)} background" if colour else ""
    return f"a {medium} of {article(noun)}{ground}"


def every_sentence(nouns: Iterable[str]) -> list[str]:
    """Every caption there can be about `nouns`, in the one form."""
    media = ("photo", *MEDIA.values())
    return [sentence(n, m, c) for n in nouns for m in media for c in (None, *COLOURS)]


def known_nouns(sprites: Sprites) -> list[str]:
    """The words for the known concepts and their categories."""
    return sorted({words(name) for name in sprites.known} | {sprites.category[name] for name in sprites.known})
