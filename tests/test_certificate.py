"""Certificates hold for the reference itself, and fail where pictures lose colours, sharpness, or the subject."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy import stats

from tenshot import pipeline
from tenshot.autotune import certificate
from tenshot.autotune.certificate import Certificate, Measure
from tenshot.evaluate import metrics, pocket_judge, protocol
from tenshot.evaluate.judge import Judge
from tenshot.evaluate.metrics import background_colour
from tenshot.evaluate.protocol import MEDIA, Context
from tenshot.evaluate.subject import SUBJECTS, UNSEEN, pictures
from tenshot.model import model
from tenshot.pipeline import Request, SamplingSettings

KOALA = "koala"


@pytest.fixture(scope="module")
def judge() -> Judge:
    return pocket_judge.load()


@pytest.fixture(scope="module")
def drawn(judge: Judge) -> tuple[list[Image.Image], list[str]]:
    """Pictures of all subjects in place of drawn ones, and prompts of which background and style are right."""
    images = [image for folder in sorted(SUBJECTS.iterdir()) for image in pictures(folder)]
    texts = []
    for image in images:
        of = [Context(style, background_colour(image)).plain("animal") for style in MEDIA]
        texts.append(of[judge.nearest([image], of)[0]])
    return images, texts


def certified(judge: Judge, found: list[Image.Image], drawn: tuple[list[Image.Image], list[str]]) -> Certificate:
    images, texts = drawn
    one, other = (certificate.graded(judge, each, texts) for each in (found, images))
    return certificate.good(one, other)


def lacking(found: Certificate) -> set[str]:
    return {each.name for each in found.lacking}


def test_the_bound_is_that_of_students_t():
    for freedom in (3, 7, 23, 99):
        assert certificate.student(freedom) == pytest.approx(stats.t.ppf(0.95, freedom), rel=3e-3)
    values = np.random.default_rng(0).normal(1.0, 0.3, 24)
    found = Measure("any", 0.9, values.tolist())
    low, high = stats.t.interval(0.9, 23, values.mean(), stats.sem(values))  # one-sided 95 %
    assert (found.lower, found.upper) == pytest.approx((low, high), rel=1e-4)
    assert Measure("any", 0.9, [1.0]).lower == -math.inf  # one picture proves nothing


def test_the_reference_is_as_good_as_itself_and_the_same(judge: Judge, drawn: tuple[list[Image.Image], list[str]]):
    found = certified(judge, drawn[0], drawn)
    assert found.holds and found.likely and not found.hopeless
    assert {each.name for each in found.measures} == {
        "prompt likeness", "background", "style", "detail", "reference likeness",
    }  # fmt: skip
    same = certificate.same(drawn[0], drawn[0], 33)
    assert same.holds and same.measures[0].mean == certificate.EQUAL


def test_one_background_in_twenty_that_is_another_is_noticed(judge: Judge, drawn: tuple[list[Image.Image], list[str]]):
    def other(image: Image.Image) -> Image.Image:
        ground = metrics.COLOURS[background_colour(image)]
        levels = np.asarray(image.convert("RGB")).astype(int)
        away = np.abs(levels - ground).sum(-1, keepdims=True)
        return Image.fromarray(np.where(away < 160, metrics.COLOURS["purple"], levels).astype(np.uint8))

    some = [number for number in range(0, len(drawn[0]), 20) if background_colour(drawn[0][number]) != "purple"]
    found = [other(image) if number in some else image for number, image in enumerate(drawn[0])]
    assert len(some) >= 4
    assert "background" in lacking(certified(judge, found, drawn))


def test_a_decoder_that_blurs_is_noticed(judge: Judge, drawn: tuple[list[Image.Image], list[str]]):
    blurred = [image.convert("RGB").filter(ImageFilter.GaussianBlur(1)) for image in drawn[0]]
    found = certificate.same(blurred, drawn[0], 40)
    assert not found.holds and found.hopeless
    assert "detail" in lacking(certified(judge, blurred, drawn))  # the judge sees 64 pixels, and misses little


def test_a_subject_that_is_forgotten_is_noticed(judge: Judge):
    """Koalas in place of the subject's pictures, and other animals of the same prompts in place of what forgot it."""
    shots, koalas = pictures(SUBJECTS / KOALA), pictures(UNSEEN / KOALA) * 8
    others = (pictures(SUBJECTS / "penguin") + pictures(UNSEEN / "penguin"))[:3] * 8
    texts = [protocol.article("animal")] * len(koalas)
    one, other, itself = (certificate.graded(judge, each, texts, shots) for each in (others, koalas, koalas))
    assert certificate.good(itself, other).holds
    assert judge.subject_measure in lacking(certificate.good(one, other))


def test_what_no_prompt_says_is_not_counted(judge: Judge, drawn: tuple[list[Image.Image], list[str]]):
    found = certificate.graded(judge, drawn[0][:4], ["a photo of a cat"] * 4)
    assert set(found.figures) == {"prompt likeness", "detail"}
    assert protocol.counts("a cat on an orange background") and protocol.counts("a flat emoji of a cat")
    assert not protocol.counts("a photo of an orange cat")


@pytest.mark.slow
def test_what_pocket_draws_without_early_guidance_is_not_as_good(judge: Judge):
    """Not only pictures that were made to fail: guidance left out in the first half, and a latent that is blurred."""
    pocket = model.load("pocket")
    nouns, colours = ("cat", "rocket", "apple"), ("red", "green", "blue", "yellow")
    prompts = [Context(s, c).plain(n) for s in MEDIA for c in colours for n in nouns]
    requests = [Request(prompt, seed) for seed, prompt in enumerate(prompts)]
    way = SamplingSettings("DPM++ 2M", 10, schedule="sgm_uniform", batch=8)
    latents = pipeline.latents(pocket, requests, way)
    whole = pipeline.decode(pocket, latents)
    late = pipeline.images(pocket, requests, replace(way, interval=(0.5, 1)))
    one, other = (certificate.graded(judge, each, prompts) for each in (late, whole))
    assert not certificate.good(one, other).holds
    smooth = torch.nn.functional.avg_pool2d(latents, 3, 1, 1)
    assert certificate.same(pipeline.decode(pocket, smooth), whole, 33).hopeless
    assert certificate.same(late, whole, 33).hopeless
