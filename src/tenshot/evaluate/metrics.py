"""Measures of pictures that need no net."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

#: Names of background colours and what they mean, sRGB.
COLOURS = {
    "white": (250, 250, 250),
    "black": (20, 20, 20),
    "grey": (128, 128, 128),
    "red": (215, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (250, 220, 60),
    "green": (50, 160, 70),
    "blue": (45, 95, 215),
    "purple": (130, 60, 170),
    "pink": (250, 165, 200),
}
RIM = 3


def background_colour(image: Image.Image) -> str:
    """The colour name nearest to the median of the RIM outermost pixels on all four sides (distance in sRGB)."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    edges = (pixels[:RIM], pixels[-RIM:], pixels[:, :RIM], pixels[:, -RIM:])
    middle = np.median(np.concatenate([edge.reshape(-1, 3) for edge in edges]), axis=0)
    return min(COLOURS, key=lambda name: float(np.linalg.norm(middle - COLOURS[name])))


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB of two pictures of one size; infinite when they are equal."""
    if a.size != b.size:
        raise ValueError(f"pictures of {a.size} and {b.size} pixels")
    x, y = (np.asarray(image.convert("RGB"), dtype=np.float64) for image in (a, b))
    error = float(np.mean((x - y) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(a: Image.Image, b: Image.Image) -> float:
    """Structural similarity of two pictures of one size, in grey: 1 where they are equal.

    Gaussian windows of 11 pixels and 1.5 deviation, K1 .01, K2 .03, mean over all whole windows (Wang et al. 2004).
    """
    if a.size != b.size:
        raise ValueError(f"pictures of {a.size} and {b.size} pixels")
    x, y = (np.asarray(image.convert("L"), dtype=np.float64) for image in (a, b))
    steady, contrast = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = _blurred(x), _blurred(y)
    spread_x, spread_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    together = _blurred(x * y) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + steady) * (2 * together + contrast)
    return float(np.mean(likeness / ((mean_x**2 + mean_y**2 + steady) * (spread_x + spread_y + contrast))))


def _blurred(values: np.ndarray) -> np.ndarray:
    window = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window /= window.sum()
    for axis in (0, 1):
        values = np.apply_along_axis(np.convolve, axis, values, window, mode="valid")
    return values
