"""How what was drawn becomes larger before it is drawn once more: the names of WebUI, and what is behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LatentUpscaler:
    """Latents are interpolated, as torch.nn.functional.interpolate does. mode: its name there."""

    mode: str
    antialias: bool = False


@dataclass(frozen=True)
class PixelUpscaler:
    """The picture is scaled by Pillow, and encoded again. resampling: its name there."""

    resampling: Literal["LANCZOS", "NEAREST"]


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
