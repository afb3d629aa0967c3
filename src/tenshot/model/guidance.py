"""The denoiser's answers, led towards the prompts (classifier-free guidance; composition of several prompts)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from tenshot.families import base
from tenshot.families.base import Conditioning
from tenshot.model import control
from tenshot.model.control import Control
from tenshot.model.model import Model
from tenshot.model.prompts import Scheduled


@dataclass(frozen=True)
class Told:
    """What the denoiser is told of one picture.

    prompts: each with how far it leads away from the negative prompt. negative: None without guidance.
    """

    prompts: Sequence[tuple[float, Scheduled]]
    negative: Scheduled | None


@dataclass(frozen=True)
class Row:
    """One picture at one evaluation of the denoiser. seen: what it is shown, [1, channels, h, w].

    number: of the evaluation, from 0. beside: what it sees beside the latents, [1, channels, h, w]. control: what is
    asked first. led: is there guidance? Without, the prompt's answer counts as it is, and the negative prompt is not
    asked; pictures of several prompts are led throughout.
    """

    told: Told
    seen: torch.Tensor
    time: float
    number: int = 0
    beside: torch.Tensor | None = None
    control: Control | None = None
    led: bool = True


class _Question(NamedTuple):
    """What the denoiser is asked of a row. weight: of a prompt; None: it is the negative prompt."""

    place: int
    row: Row
    weight: float | None
    said: Conditioning
    units: control.Shown


def guided(model: Model, rows: Sequence[Row]) -> list[torch.Tensor]:
    """Each row's answer, [1, ...], float32, led from its negative prompt towards its prompts.

    As arXiv 2207.12598 and 2206.01714. Rows may be at times of their own; those of one shape are asked at once.
    """
    questions = [*_negative(rows), *_prompts(rows)]
    without: dict[int, torch.Tensor] = {}
    led: dict[int, torch.Tensor] = {}
    answers = _asked(model, questions)
    for number, (place, _, weight, *_) in enumerate(questions):
        if weight is None:
            led[place] = without[place] = answers[number]
        elif place in without:
            led[place] = led[place] + weight * (answers[number] - without[place])
        else:
            led[place] = answers[number]
    return [led[place] for place in range(len(rows))]


def _negative(rows: Sequence[Row]) -> Iterable[_Question]:
    for place, row in enumerate(rows):
        if row.told.negative is not None and (row.led or len(row.told.prompts) > 1):
            yield _question(place, row, None, row.told.negative)


def _prompts(rows: Sequence[Row]) -> Iterable[_Question]:
    return (_question(place, row, *each) for place, row in enumerate(rows) for each in row.told.prompts)


def _question(place: int, row: Row, weight: float | None, schedule: Scheduled) -> _Question:
    said = next((told for last, told in schedule if row.number <= last), schedule[-1][1])
    return _Question(place, row, weight, said, row.control.at(row.number) if row.control else ())


def _asked(model: Model, questions: Sequence[_Question]) -> dict[int, torch.Tensor]:
    """By the number of the question; in one call where all have the same shapes, tokens and ControlNets."""
    groups: dict[object, list[int]] = {}
    for number, (_, row, _, said, units) in enumerate(questions):
        shapes = tuple(tensor.shape for tensor in base.flattened(said).values())
        beside = row.beside is not None
        groups.setdefault((row.seen.shape, beside, shapes, *(id(unit.net) for unit, _ in units)), []).append(number)
    answers: dict[int, torch.Tensor] = {}
    for numbers in groups.values():
        group = [questions[number] for number in numbers]
        found = _group(model, group).float()
        answers |= zip(numbers, found.split(1), strict=True)
    return answers


def _group(model: Model, questions: Sequence[_Question]) -> torch.Tensor:
    rows = [each.row for each in questions]
    seen = torch.cat([row.seen for row in rows]).to(model.dtype)
    beside = [row.beside for row in rows if row.beside is not None]
    shown = torch.cat([seen, torch.cat(beside).to(seen)], 1) if beside else seen
    times = torch.tensor([row.time for row in rows], device=seen.device)
    conditioning = base.joined(*(each.said for each in questions))
    prompted = [each.weight is not None for each in questions]
    more = control.residuals(seen, times, conditioning, [each.units for each in questions], prompted)
    return model.predict(shown, times, conditioning, more)
