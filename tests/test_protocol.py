"""What is asked for after training, and what is counted: on pictures of which all is known."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from tenshot.evaluate import protocol
from tenshot.evaluate.metrics import COLOURS
from tests.test_subject_scores import ByColour

SIZE = 64


def arrow(ground: str, angle: float = 0) -> Image.Image:
    """A head on a shaft, black, that points to the right above the middle."""
    picture = Image.new("RGB", (SIZE, SIZE), COLOURS[ground])
    picture.paste((0, 0, 0), (10, 20, 50, 26))
    for row in range(14):
        picture.paste((0, 0, 0), (38, 16 + row, 38 + min(row, 14 - row) * 2 + 2, 17 + row))
    return picture.rotate(angle, Image.Resampling.BICUBIC, fillcolor=COLOURS[ground])


class Reader(ByColour):
    """Knows what it was told of each picture."""

    def __init__(self, styles: dict[int, str]) -> None:
        self.styles = styles

    def nearest(self, images, texts):
        return [next(n for n, text in enumerate(texts) if self.styles[id(image)] in text) for image in images]

    def prompt_likeness(self, images, texts):
        self.asked = list(texts)
        return 0.25

    def likeness(self, images, others):
        return (self.see(images) @ self.see(others).T).mean().item()

    def diversity(self, images):
        return 0.75


def test_what_no_picture_showed_is_asked_for():
    shown = [arrow(colour) for colour in ("white", "grey", "orange", "green", "pink", "purple", "black")]
    asked = protocol.contexts(shown)
    assert {each.colour for each in asked} == {"red", "yellow", "blue"}
    assert len({(each.style, each.colour, each.view) for each in asked}) == len(asked) == 8
    assert {each.view for each in asked} == {"", "tilted", "upside down"}
    assert protocol.Context("flat", "blue").prompt("az animal") == "a flat emoji of az animal on a blue background"
    turned = protocol.Context("3d", "orange", "upside down")
    assert turned.prompt("az fox") == "a 3d emoji of upside down az fox on an orange background"
    assert turned.plain("fox") == "a 3d emoji of an upside down fox on an orange background"


def test_views_are_told_by_edges():
    given = [arrow("white"), arrow("blue", 5), arrow("pink", -5)]
    assert protocol.view_of(arrow("red", 8), given) == ""
    assert protocol.view_of(arrow("red", 180), given) == "upside down"
    assert protocol.view_of(arrow("red", 35), given) == "tilted"
    assert protocol.view_of(arrow("red", -35), given) == "tilted"


def test_shares_are_counted():
    shown, unseen = [arrow("white"), arrow("pink")], [arrow("yellow")]
    right, wrong = arrow("blue"), arrow("red")
    turned, upright = arrow("blue", 180), arrow("blue", 2)
    flat, upside = protocol.Context("flat", "blue"), protocol.Context("3d", "blue", "upside down")
    judge = Reader({id(right): "flat", id(wrong): "3d", id(turned): "3d", id(upright): "3d"})
    others = {"dot": [Image.new("RGB", (SIZE, SIZE), (0, 255, 0))]}
    found = protocol.measure(
        judge, {flat: [right, wrong], upside: [turned, upright]}, [right], "animal", shown, others, unseen
    )
    assert (found.background, found.style, found.view) == (0.75, 0.75, 0.5)
    assert judge.asked == [flat.plain("animal")] * 2 + [upside.plain("animal")] * 2
    one, other = (torch.tensor(np.asarray(each).mean((0, 1))) for each in (right, unseen[0]))
    assert abs(found.pres - torch.nn.functional.cosine_similarity(one, other, dim=0).item()) < 1e-5
    assert found.subject.other == "dot" and found.div == 0.75 and found.prompt == 0.25
