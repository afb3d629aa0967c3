"""Measures of pictures that need no net."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageFilter

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
    """The colour name nearest to `rim_colour` (distance in sRGB)."""
    middle = rim_colour(image)
    return min(COLOURS, key=lambda name: float(np.linalg.norm(middle - COLOURS[name])))


def rim_colour(image: Image.Image) -> np.ndarray:
    """Red, green and blue, the medians of the RIM outermost pixels on all four sides, 0 to 255."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    edges = (pixels[:RIM], pixels[-RIM:], pixels[:, :RIM], pixels[:, -RIM:])
    colour: np.ndarray = np.median(np.concatenate([edge.reshape(-1, 3) for edge in edges]), axis=0)
    return colour


def colour_likeness(a: Image.Image, b: Image.Image, bins: int = 6) -> float:
    """Intersection of the two colour histograms, each of bins^3 colours: 1 where they are equal, 0 where no colour is
    in both (Swain and Ballard 1991). The commonest colour at the rim counts as background, and is left out."""
    return float(np.minimum(_colours(a, bins), _colours(b, bins)).sum())


def _colours(image: Image.Image, bins: int) -> np.ndarray:
    levels = np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BOX), dtype=np.int64)
    numbers = levels * bins // 256 @ [bins * bins, bins, 1]
    edges = (numbers[:RIM], numbers[-RIM:], numbers[:, :RIM], numbers[:, -RIM:])
    counts = np.bincount(numbers.ravel(), minlength=bins**3).astype(np.float64)
    counts[np.bincount(np.concatenate([edge.ravel() for edge in edges])).argmax()] = 0
    shares: np.ndarray = counts / max(counts.sum(), 1)
    return shares


def edge_likeness(a: Image.Image, b: Image.Image, cells: int = 8, angles: int = 9) -> float:
    """Cosine of the histograms of edge directions, in cells x cells places (Dalal and Triggs 2005): 1 where they are
    equal; it sees shape and pose, not colour."""
    one, other = _edges(a, cells, angles), _edges(b, cells, angles)
    return float(one @ other / max(np.linalg.norm(one) * np.linalg.norm(other), 1e-9))


def _edges(image: Image.Image, cells: int, angles: int) -> np.ndarray:
    grey = np.asarray(image.convert("L").resize((64, 64), Image.Resampling.BOX), dtype=np.float64)
    down, right = np.gradient(grey)
    strength, turn = np.hypot(down, right), np.arctan2(down, right) % np.pi / np.pi
    cell = np.arange(64) * cells // 64
    numbers = (cell[:, None] * cells + cell) * angles + (turn * angles).astype(int) % angles
    return np.bincount(numbers.ravel(), strength.ravel(), minlength=cells * cells * angles)


def edge_agreement(one: Image.Image, other: Image.Image, within: int = 2) -> float:
    """Of two maps of edges, white on black: the harmonic mean of how much of each lies within so many pixels of the
    other, as contours are compared (Martin, Fowlkes and Malik 2004). 1 where they agree, 0 where none is near."""
    maps = [image.convert("L").point(lambda level: 255 * (level > 127)) for image in (one, other)]
    thin = [np.asarray(each) > 0 for each in maps]
    thick = [np.asarray(each.filter(ImageFilter.MaxFilter(2 * within + 1))) > 0 for each in maps]
    shares = [(thin[a] & thick[b]).sum() / max(thin[a].sum(), 1) for a, b in ((0, 1), (1, 0))]
    return float(2 * shares[0] * shares[1] / max(sum(shares), 1e-9))


def detail(image: Image.Image) -> float:
    """How much fine detail is in it: the mean of what brightness, 0 to 255, differs from that of the pixels around."""
    grey = np.asarray(image.convert("L"), dtype=np.float64)
    around = (grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]) / 4
    return float(np.abs(grey[1:-1, 1:-1] - around).mean())


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
