"""Is it the subject, and only the subject? The scores against plain loops, with a judge that sees mean colours."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image

from tenshot.evaluate import subject
from tenshot.evaluate.metrics import colour_likeness, edge_likeness

SIZE = 64


class ByColour:
    """A judge whose features are the mean colour, of unit length."""

    def see(self, images):
        means = torch.tensor(np.array([np.asarray(image).mean((0, 1)) for image in images]), dtype=torch.float32)
        return torch.nn.functional.normalize(means, dim=-1)


def plain(*colours: tuple[int, int, int]) -> list[Image.Image]:
    return [Image.new("RGB", (SIZE, SIZE), colour) for colour in colours]


def striped(step: int, turned: bool = False, shift: int = 0) -> Image.Image:
    levels = np.broadcast_to(255 * ((np.arange(SIZE) + shift) // step % 2), (SIZE, SIZE)).astype(np.uint8)
    return Image.fromarray(levels.T.copy() if turned else levels.copy()).convert("RGB")


def sprite(colour: tuple[int, int, int], ground: tuple[int, int, int]) -> Image.Image:
    picture = Image.new("RGB", (SIZE, SIZE), ground)
    picture.paste(colour, (16, 16, 48, 48))
    return picture


def test_the_subject_is_told_from_its_nearest_other():
    drawn = plain((200, 40, 0), (180, 90, 0))
    shown, unseen = plain((255, 0, 0)), plain((250, 10, 0), (240, 30, 0))
    others = {"green": plain((0, 255, 0)), "orange": plain((255, 160, 0)), "blue": plain((0, 0, 255))}
    found = subject.scores(ByColour(), drawn, shown, others, unseen)

    def cosine(a, b):
        x, y = (np.asarray(image, dtype=np.float64).mean((0, 1)) for image in (a, b))
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))

    own = [np.mean([cosine(a, b) for b in unseen]) for a in drawn]
    nearest = [max(cosine(a, b) for b in (*shown, *unseen)) for a in drawn]
    orange = [cosine(a, others["orange"][0]) for a in drawn]
    assert found.other == "orange"
    assert found.likeness == pytest.approx(np.mean(own), abs=1e-6)
    assert found.margin == pytest.approx(np.mean(own) - np.mean(orange), abs=1e-6)
    assert found.identified == np.mean([a > b for a, b in zip(nearest, orange, strict=True)]) == 0.5


def test_without_unseen_pictures_the_shown_ones_count_and_copying_is_not_told():
    drawn, shown = plain((200, 40, 0)), plain((255, 0, 0))
    found = subject.scores(ByColour(), drawn, shown, {"green": plain((0, 255, 0))})
    assert found.likeness == pytest.approx(200 / np.hypot(200, 40), abs=1e-6)
    assert found.copying is None


def test_a_copy_of_a_shown_picture_is_seen():
    shown = [striped(step) for step in (3, 4, 5, 6)]
    unseen = [striped(step, turned=True) for step in (4, 6)]
    assert subject.copying([shown[1]], shown, unseen) > 0.4
    assert subject.copying([unseen[1]], shown, unseen) < -0.4


def test_copying_takes_as_many_shown_pictures_as_unseen_ones():
    shown, unseen = [striped(s) for s in (3, 5, 7)], [striped(4, turned=True), striped(6)]
    drawn = striped(5, shift=2)
    pairs = [max(edge_likeness(drawn, a), edge_likeness(drawn, b)) for a, b in combinations(shown, 2)]
    best = max(edge_likeness(drawn, other) for other in unseen)
    assert subject.copying([drawn], shown, unseen) == pytest.approx(np.mean(pairs) - best)


def test_colours_are_held_against_without_the_background():
    red, blue = (230, 20, 20), (20, 20, 230)
    same = colour_likeness(sprite(red, (250, 250, 250)), sprite(red, (20, 20, 20)))
    assert same == 1 and colour_likeness(sprite(red, (250, 250, 250)), sprite(blue, (250, 250, 250))) == 0


def test_edges_are_shape_not_colour():
    dark, light = sprite((20, 20, 20), (250, 250, 250)), sprite((250, 250, 250), (20, 20, 20))
    assert edge_likeness(dark, light) == pytest.approx(1)
    assert edge_likeness(striped(8), striped(8, turned=True)) < 0.1


def test_the_gallery_leaves_the_subject_out():
    others = subject.gallery("koala")
    assert len(others) == 15 and "koala" not in others
    assert all(len(images) >= 7 for images in others.values())


def test_the_ceiling_leaves_each_picture_out():
    given = plain((255, 0, 0), (240, 60, 0), (200, 100, 0))
    others = {"green": plain((0, 255, 0)), "orange": plain((255, 200, 0))}
    found = subject.ceiling(ByColour(), given, others)
    each = [
        subject.scores(ByColour(), [image], [other for other in given if other is not image], others) for image in given
    ]
    assert found.likeness == pytest.approx(np.mean([score.likeness for score in each]), abs=1e-6)
    assert found.margin == pytest.approx(np.mean([score.likeness - score.nearest_other for score in each]), abs=1e-6)
    assert found.identified == pytest.approx(np.mean([score.identified for score in each]))
    assert found.edges == pytest.approx(np.mean([score.edges for score in each]))
    assert found.copying is None
