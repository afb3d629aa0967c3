"""What a cheaper way to draw has to prove before it is taken: that it draws the same pictures, or as good ones.

Either is a handful of measures, a figure a picture each, whose mean has to reach a limit beyond doubt: the lower 95 %
bound of the mean counts (one-sided, Student's t).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist, mean, stdev

import torch

from tenshot.evaluate import metrics, protocol
from tenshot.evaluate.judge import Images, Judge
from tenshot.option_types import PresetKind

SURE = 0.95
EQUAL = 60.0  # dB that a picture counts at most: single levels of 255 apart; equal ones must not hide others
MARGIN = -0.01  # what may be lost of the reference's mean, in cosines and in shares of pictures
DETAIL = "detail"
LIMITS = {DETAIL: -0.1}  # of measures that are in other units: logarithms
FLAT = 0.01  # of 255 levels: less detail is none
ALIKE = 0.9  # cosine to the reference's picture of the same seed


@dataclass(frozen=True)
class Measure:
    """values: one for each picture that says something. limit: what their mean has to exceed for certain."""

    name: str
    limit: float
    values: Sequence[float]

    @cached_property
    def mean(self) -> float:
        return mean(self.values)

    @property
    def lower(self) -> float:
        return self.mean - self._doubt

    @property
    def upper(self) -> float:
        return self.mean + self._doubt

    @cached_property
    def _doubt(self) -> float:
        count = len(self.values)
        return student(count - 1) * stdev(self.values) / math.sqrt(count) if count > 1 else math.inf


@dataclass(frozen=True)
class Certificate:
    """holds: beyond doubt. hopeless: beyond doubt not. likely: as far as the means tell."""

    kind: PresetKind
    measures: Sequence[Measure]

    @property
    def holds(self) -> bool:
        return all(each.lower > each.limit for each in self.measures)

    @property
    def likely(self) -> bool:
        return all(each.mean > each.limit for each in self.measures)

    @property
    def hopeless(self) -> bool:
        return any(each.upper < each.limit for each in self.measures)

    @property
    def lacking(self) -> list[Measure]:
        """Those that keep it from holding."""
        return [each for each in self.measures if each.lower <= each.limit]


def joined(parts: Sequence[Certificate]) -> Certificate:
    """Of all the pictures that several are of."""
    values: dict[tuple[str, float], list[float]] = {}
    for part in parts:
        for each in part.measures:
            values.setdefault((each.name, each.limit), []).extend(each.values)
    return Certificate(parts[0].kind, [Measure(name, limit, of) for (name, limit), of in values.items()])


def same(images: Images, wanted: Images, limit: float) -> Certificate:
    """Is each picture the one that its sampler approaches with many steps? limit: mean PSNR in dB.

    wanted: those pictures, of the same seeds.
    """
    pairs = list(zip(images, wanted, strict=True))
    return Certificate("same", [Measure("PSNR", limit, [min(EQUAL, metrics.psnr(*pair)) for pair in pairs])])


@dataclass(frozen=True)
class Graded:
    """Pictures as a judge sees them. figures: by a measure's name, one for each picture that it says something of.

    seen: unit features of what the pictures show, [pictures, width].
    """

    figures: Mapping[str, Sequence[float]]
    seen: torch.Tensor


def graded(judge: Judge, images: Images, texts: Sequence[str], shots: Images = ()) -> Graded:
    """texts: each picture's prompt, in words that the judge knows. shots: pictures of the subject, where it has one.

    Prompt likeness alone does not notice that guidance is missing: whether background and style are right does. A judge
    that sees pictures small does not notice that they are blurred: their detail does.
    """
    seen = judge.look(images)
    figures: dict[str, Sequence[float]] = {
        judge.prompt_measure: (seen * judge.read(texts)).sum(-1).tolist(),
        "background": [float(each) for each in protocol.backgrounds_right(images, texts)],
        "style": [float(each) for each in protocol.styles_right(judge, images, texts)],
        DETAIL: [math.log(max(FLAT, metrics.detail(image))) for image in images],
    }
    if shots:
        figures[judge.subject_measure] = (judge.see(images) @ judge.see(shots).T).mean(1).tolist()
    return Graded({name: values for name, values in figures.items() if values}, seen)


def good(found: Graded, reference: Graded, alike: float = ALIKE) -> Certificate:
    """Are pictures as good as the reference's of the same prompts and seeds? Measure for measure, in pairs."""
    measures = [
        Measure(
            name,
            LIMITS.get(name, MARGIN),
            [mine - its for mine, its in zip(values, reference.figures[name], strict=True)],
        )
        for name, values in found.figures.items()
    ]
    own = (found.seen * reference.seen).sum(-1).tolist()
    return Certificate("good", [*measures, Measure("reference likeness", alike, own)])


def student(freedom: int) -> float:
    """The quantile of Student's t at `SURE`, by the expansion of Cornish and Fisher: 1 % off at 2, less from there."""
    z = NormalDist().inv_cdf(SURE)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return float(z + first / freedom + second / freedom**2 + third / freedom**3)
