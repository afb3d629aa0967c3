"""Pictures within a page, which then needs nothing beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from PIL import Image, ImageOps

from tenshot.core.html import Html, el

SIDE = 160  # pixels of a picture on a page


def picture(image: Image.Image, alt: str) -> Html:
    small = ImageOps.pad(image.convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS, "white")
    with io.BytesIO() as written:
        small.save(written, "JPEG", quality=88)
        content = base64.b64encode(written.getvalue()).decode()
    return el("img", src=f"data:image/jpeg;base64,{content}", alt=alt, width=SIDE, height=SIDE)


def strip(images: Sequence[Image.Image], alt: str) -> Html:
    """Side by side."""
    return el("div", *(picture(each, alt) for each in images), class_="strip", style=f"--n:{len(images)}")


def captioned(images: Sequence[Image.Image], names: Sequence[str], alt: str = "") -> Html:
    """Side by side, each with its name below."""
    figures = [
        el("figure", picture(image, f"{name}: {alt}" if alt else name), el("figcaption", name))
        for image, name in zip(images, names, strict=True)
    ]
    return el("div", *figures, class_="strip", style=f"--n:{len(figures)}")
