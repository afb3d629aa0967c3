"""What ControlNets see of their pictures: of the shape that is drawn, the part around a mask, edges."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tenshot.core.size import Size
from tenshot.generate import canvas, controlnets
from tenshot.generate.controlnet_options import Asked
from tests.test_pictures_in import mask, picture

SIZE = Size(64, 64)


def test_the_part_around_a_mask_sees_its_part_of_the_control_picture():
    given = canvas.Pictures(picture(300, 200), mask(300, 200, (100, 50, 139, 69)))
    begun = given.canvas(SIZE, 0, True, 8)
    asked = controlnets.ControlNet(Asked("net"), given.image, "none", "balanced", (100, 200))
    assert np.array_equal(np.asarray(asked.map(SIZE, begun)), np.asarray(begun.image))
    assert asked.map(SIZE, None).size == (64, 64)


@pytest.mark.parametrize("preprocessor", ["none", "canny"])
def test_shapes_of_the_control_picture(preprocessor: Any):
    """Cropped as fit_picture does, stretched, or whole in a frame of its edge's colour, in which canny finds none."""
    wide = picture(300, 100)
    wide.paste((9, 200, 30), (0, 0, 300, 8)), wide.paste((9, 200, 30), (0, 92, 300, 100))

    def seen(resize: Any, start: canvas.Canvas | None = None) -> np.ndarray:
        net = controlnets.ControlNet(Asked("net"), wide, preprocessor, "balanced", (100, 200), resize)
        return np.asarray(net.map(Size(96, 192), start))

    def made(image: Image.Image) -> np.ndarray:
        return np.asarray(controlnets.canny(image, 100, 200) if preprocessor == "canny" else image)

    lanczos = Image.Resampling.LANCZOS
    assert np.array_equal(seen("crop"), made(wide.crop((50, 0, 250, 100)).resize((192, 96), lanczos)))
    assert np.array_equal(seen("stretch"), made(wide.resize((192, 96), lanczos)))
    filled, whole = seen("fill"), made(wide.resize((192, 64), lanczos))
    assert np.array_equal(filled[16:80], whole)
    assert np.unique(np.concatenate([filled[:16], filled[80:]]).reshape(-1, 3), axis=0).shape == (1, 3)
    assert tuple(filled[0, 0]) == ((0, 0, 0) if preprocessor == "canny" else tuple(whole[0, 0]))
    thin = controlnets.ControlNet(Asked("net"), picture(900, 1), preprocessor, "balanced", (100, 200), "fill")
    assert thin.map(SIZE, None).size == (64, 64)


def test_canny_is_opencvs():
    shown = picture(96, 64)
    for low, high in ((100, 200), (20, 60)):
        expected = cv2.Canny(np.asarray(shown), low, high)
        found = np.asarray(controlnets.canny(shown, low, high))
        assert found.shape == (64, 96, 3) and (found == expected[..., None]).all()
    assert 0 < (expected > 0).mean() < 0.5
