"""Measures that need no net, on pictures whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from tenshot.evaluate.metrics import COLOURS, background_colour, detail, edge_agreement, psnr


@pytest.mark.parametrize("name", COLOURS)
def test_a_painted_background_is_named(name: str):
    image = Image.new("RGB", (64, 64), COLOURS[name])
    other = next(colour for other, colour in COLOURS.items() if other != name)
    ImageDraw.Draw(image).ellipse((8, 8, 56, 56), other)
    noise = np.random.default_rng(0).normal(0, 6, (64, 64, 3))
    noisy = Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
    assert background_colour(image) == background_colour(noisy) == name


@pytest.mark.parametrize("sides", [("left", "right"), ("top", "bottom")])
def test_every_side_counts(sides: tuple[str, ...]):
    """Two sides with their corners are more than half of the rim, but one of them is not half of the other three."""
    boxes = {"left": (0, 0, 2, 39), "top": (0, 0, 39, 2), "right": (37, 0, 39, 39), "bottom": (0, 37, 39, 39)}
    image = Image.new("RGB", (40, 40), "red")
    for side in sides:
        ImageDraw.Draw(image).rectangle(boxes[side], COLOURS["green"])
    assert background_colour(image) == "green"


def test_a_grey_picture_has_a_background_too():
    assert background_colour(Image.new("L", (20, 20), 128)) == "grey"


def test_psnr_in_closed_form():
    flat = Image.new("RGB", (8, 8), (100, 100, 100))
    assert psnr(flat, Image.new("RGB", (8, 8), (110, 110, 110))) == pytest.approx(20 * math.log10(255 / 10))
    assert psnr(Image.new("RGB", (8, 8), "black"), Image.new("RGB", (8, 8), "white")) == pytest.approx(0)
    one_channel = psnr(flat, Image.new("RGB", (8, 8), (100, 103, 100)))
    assert one_channel == pytest.approx(10 * math.log10(255**2 / 3))
    assert psnr(flat, flat) == math.inf


def test_psnr_of_two_sizes_is_a_mistake():
    with pytest.raises(ValueError, match="8"):
        psnr(Image.new("RGB", (8, 8)), Image.new("RGB", (1, 1)))


def test_edges_agree_where_they_are_near():
    def lines(*columns: int) -> Image.Image:
        levels = np.zeros((40, 40), np.uint8)
        levels[:, list(columns)] = 255
        return Image.fromarray(levels).convert("RGB")

    assert edge_agreement(lines(10, 30), lines(10, 30)) == 1
    assert edge_agreement(lines(10, 30), lines(12, 28)) == 1
    assert edge_agreement(lines(10, 30), lines(13, 27)) == 0
    assert edge_agreement(lines(10, 30), lines(10)) == pytest.approx(2 / 3)  # half found, all of it right
    assert edge_agreement(lines(10), lines(10, 20, 30)) == pytest.approx(1 / 2)  # all found, a third right
    assert edge_agreement(lines(), lines(10)) == 0


def test_detail_is_the_mean_of_what_pixels_differ_from_those_around():
    levels = np.random.default_rng(3).integers(0, 256, (9, 11)).astype(np.uint8)
    kernel = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]]) / 4
    wanted = np.abs(ndimage.convolve(levels.astype(float), kernel))[1:-1, 1:-1].mean()
    assert detail(Image.fromarray(levels)) == pytest.approx(wanted)
    assert detail(Image.new("RGB", (8, 8), "red")) == 0
