"""How what was drawn becomes larger before it is drawn once more: the names of WebUI, and what is behind them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tenshot.core.size import Size

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class LatentUpscaler:
    """Latents are interpolated, as torch.nn.functional.interpolate does. mode: its name there."""

    mode: str
    antialias: bool = False


@dataclass(frozen=True)
class PixelUpscaler:
    """The picture is scaled by Pillow, and encoded again. resampling: its name there."""

    resampling: Literal["LANCZOS", "NEAREST"]

    def resized(self, image: Image.Image, size: Size) -> Image.Image:
        from PIL import Image  # which no option needs

        return image.resize(size.pillow, Image.Resampling[self.resampling])


LATENT, LANCZOS = "Latent", "Lanczos"
UPSCALERS: dict[str, LatentUpscaler | PixelUpscaler] = {
    LATENT: LatentUpscaler("bilinear"),
    "Latent (antialiased)": LatentUpscaler("bilinear", antialias=True),
    "Latent (bicubic)": LatentUpscaler("bicubic"),
    "Latent (bicubic antialiased)": LatentUpscaler("bicubic", antialias=True),
    "Latent (nearest)": LatentUpscaler("nearest"),
    "Latent (nearest-exact)": LatentUpscaler("nearest-exact"),
    LANCZOS: PixelUpscaler("LANCZOS"),
    "Nearest": PixelUpscaler("NEAREST"),
}


def meant(name: str) -> str:
    """What to do with a name that nothing has; empty: no idea."""
    near = difflib.get_close_matches(name, UPSCALERS, 1)
    return f"did you mean {near[0]}?" if near else ""
