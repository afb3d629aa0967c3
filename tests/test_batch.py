"""Pictures that join and leave a batch at work: each is the one that is drawn alone, whoever is beside it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from tenshot import pipeline
from tenshot.batch import Batch, Drawing
from tenshot.core.size import Size
from tenshot.model import model
from tenshot.model.control import Unit
from tenshot.model.model import Model
from tenshot.pipeline import Request, SamplingSettings, SecondPass
from tests.test_guidance_interval import counted
from tests.test_pictures_in import mask, picture

SIZE = Size(64, 64)
EULER = SamplingSettings("Euler a", 6, 5.0, SIZE)
LONG = "a cat " * 60  # of three times 75 tokens


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def finished(batch: Batch, steps: int = 99) -> None:
    while batch.drawings and steps:
        batch.step()
        steps -= 1


@pytest.fixture(scope="module")
def opened(sd1: Path) -> Model:
    return model.load(str(sd1))


def test_pictures_of_every_kind_meet_in_one_batch(opened: Model, sd1_controlnets: Path):
    """One joins each step: another sampler, fewer steps, no guidance, a mask, a ControlNet, a second pass, ..."""
    net = model.load_controlnet(sd1_controlnets / "edges5", "cpu")
    shown = picture()
    asked = [
        (Request("a cat", 1, "bad"), EULER),
        (Request("a dog", 2), replace(EULER, sampler="Heun", steps=4, guidance=2.0)),
        (Request("a dog", 3), replace(EULER, guidance=1.0)),
        (Request("a", 4, image=shown, mask=mask()), replace(EULER, strength=0.7)),
        (Request("a", 5, control=[shown]), replace(EULER, control=[Unit(net, 0.8, end=0.5, mode="control")])),
        (Request("a", 5, control=[mask().convert("RGB")]), replace(EULER, control=[Unit(net)])),
        (Request("a", 6), replace(EULER, second=SecondPass(Size(96, 96), steps=3))),
        (Request(LONG, 7, variation=(8, 0.2)), replace(EULER, interval=(0.2, 0.7))),
        (Request("[a:b:3] AND c", 8), replace(EULER, sampler="UniPC")),
        (Request("a", 9), replace(EULER, size=Size(32, 96))),
    ]
    batch, joined = Batch(opened), list[Drawing]()
    for request, settings in asked:
        joined += batch.join([request], settings)
        finished(batch, 1)
    finished(batch)
    for (request, settings), drawing in zip(asked, joined, strict=True):
        alone = pipeline.latents(opened, [request], settings)
        assert drawing.over and drawing.done == drawing.total
        assert apart(drawing.latents, alone) < 1e-3, request
    others = [apart(one.latents, other.latents) for one, other in pairwise(joined[:3])]
    assert min(others) > 0.05


def test_rows_at_different_steps_are_asked_in_one_call(sd1: Path):
    """And who leaves is not asked again."""
    opened = counted(sd1)
    batch = Batch(opened)
    batch.model = opened  # which counts the rows of each call
    (first,) = batch.join([Request("a", 1)], EULER)
    finished(batch, 2)
    batch.join([Request("b", 2)], replace(EULER, steps=3, guidance=1.0))
    finished(batch, 1)
    batch.leave(first)
    finished(batch)
    assert opened.rows == [2, 2, 3, 1, 1] and not first.over and first.done == 3


def test_a_batch_keeps_the_weights_that_it_began_with(sd1: Path, sd1_tuned: Path):
    import tenshot

    opened = tenshot.load(str(sd1))
    batch = Batch(opened)
    (drawing,) = batch.join([Request("a", 1)], EULER)
    before = pipeline.latents(opened, [Request("a", 1)], EULER)
    finished(batch, 2)
    opened.load_weights(str(sd1_tuned))
    finished(batch)
    assert torch.equal(drawing.latents, before)
    assert not torch.equal(pipeline.latents(opened, [Request("a", 1)], EULER), before)
