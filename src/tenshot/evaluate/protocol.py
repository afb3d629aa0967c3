"""What a small model is asked to draw of a new subject, and how the pictures are measured.

The subject, under its name, in both styles on backgrounds that none of its pictures had, and in views that none had;
and its class without the name, to see what became of it. Subject and prompt fidelity, PRES and DIV are DreamBooth's
(arXiv 2208.12242); backgrounds, styles and views are counted, as the small model's world has few of each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from PIL import Image

from tenshot.evaluate.judge import Judge
from tenshot.evaluate.metrics import COLOURS, background_colour, edge_likeness, rim_colour
from tenshot.evaluate.subject import Images, SubjectScores, scores

MEDIA = {"3d": "3d emoji", "flat": "flat emoji"}
ANGLES: Mapping[str, Sequence[float]] = {"": (0,), "tilted": (35, -35), "upside down": (180,)}  # degrees
VIEWS = [view for view in ANGLES if view]
BACKGROUNDS = 3  # that are asked for in each style
_GROUND = re.compile(rf"\bon an? ({'|'.join(COLOURS)}) background\b")
_STYLE = re.compile(rf"\b({'|'.join(MEDIA.values())})\b")


@dataclass(frozen=True)
class Context:
    """One prompt. view: "" where none is asked for."""

    style: str
    colour: str
    view: str = ""

    def prompt(self, name: str) -> str:
        """name: the subject's, which takes no article."""
        return self._of(f"{self.view} {name}".strip())

    def plain(self, noun: str) -> str:
        """The same of the class, in words that a judge knows."""
        return self._of(article(f"{self.view} {noun}".strip()))

    def _of(self, words: str) -> str:
        return f"a {MEDIA[self.style]} of {words} on {article(self.colour)} background"

    @property
    def new(self) -> str:
        """What in it no picture of the subject showed, for people."""
        return f"another background{self.view and ', another view'}"


@dataclass(frozen=True)
class Learned:
    """subject: of all pictures of the subject. The rest are means over pictures.

    prompt: cosine of pictures and their prompts. background, style, view: shares that are as the prompt says. pres: of
    class pictures and the subject's, lower is better. div: 1 - cosine among class pictures, higher is better.
    """

    subject: SubjectScores
    prompt: float
    background: float
    style: float
    view: float
    pres: float
    div: float


def contexts(shown: Images) -> list[Context]:
    """Both styles on BACKGROUNDS backgrounds that none of the pictures shown has; each view on the first of them."""
    seen = {background_colour(image) for image in shown}
    unseen = [colour for colour in COLOURS if colour not in seen] or list(COLOURS)
    grounds = [Context(style, colour) for style in MEDIA for colour in unseen[:BACKGROUNDS]]
    return grounds + [Context("3d", unseen[0], view) for view in VIEWS]


def measure(
    judge: Judge,
    drawn: Mapping[Context, Images],
    class_pictures: Images,
    noun: str,
    shown: Images,
    others: Mapping[str, Images],
    unseen: Images = (),
) -> Learned:
    """noun: the subject's class, which the judge knows. shown, others, unseen: as for `scores`."""
    pairs = [(context, image) for context, images in drawn.items() for image in images]
    images = [image for _, image in pairs]
    viewed = [(context, image) for context, image in pairs if context.view]
    return Learned(
        scores(judge, images, shown, others, unseen),
        judge.prompt_likeness(images, [context.plain(noun) for context, _ in pairs]),
        *as_asked(judge, drawn, noun),
        mean(view_of(image, shown) == context.view for context, image in viewed),
        judge.likeness(class_pictures, unseen or shown),
        judge.diversity(class_pictures),
    )


def as_asked(judge: Judge, drawn: Mapping[Context, Images], noun: str) -> tuple[float, float]:
    """The shares of pictures whose background, and whose style, is as the prompt says."""
    pairs = [(context, image) for context, images in drawn.items() for image in images]
    texts, images = [context.plain(noun) for context, _ in pairs], [image for _, image in pairs]
    ground, style = (mean(each) for each in (backgrounds_right(images, texts), styles_right(judge, images, texts)))
    return ground, style


def counts(text: str) -> bool:
    """Does a prompt say a background or a style, so that these can be counted?"""
    return bool(_GROUND.search(text) or _STYLE.search(text))


def backgrounds_right(images: Images, texts: Sequence[str]) -> list[bool]:
    """Of the pictures whose own text says a background, in their order: is it that?"""
    asked = [(image, found[1]) for image, text in zip(images, texts, strict=True) if (found := _GROUND.search(text))]
    return [background_colour(image) == colour for image, colour in asked]


def styles_right(judge: Judge, images: Images, texts: Sequence[str]) -> list[bool]:
    """Likewise of styles: does the judge find it nearer to its text than to that of another style?"""
    styles = [*MEDIA.values()]
    asked = [
        (image, text, found[1]) for image, text in zip(images, texts, strict=True) if (found := _STYLE.search(text))
    ]
    return [
        styles[judge.nearest([image], [text.replace(said, style) for style in styles])[0]] == said
        for image, text, said in asked
    ]


def view_of(image: Image.Image, given: Images) -> str:
    """ "" or one of VIEWS: as which the nearest of the subject's pictures, or that picture turned, stands, by edges.

    Of real pictures of the subjects that ship it is right for 4 in 5.
    """
    nearest = {
        view: max(edge_likeness(image, turned) for other in given for turned in _turned(other, angles))
        for view, angles in ANGLES.items()
    }
    return max(nearest, key=lambda view: nearest[view])


def _turned(image: Image.Image, angles: Sequence[float]) -> list[Image.Image]:
    fill = tuple(int(level) for level in rim_colour(image))
    return [image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=fill) for angle in angles]


def article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
