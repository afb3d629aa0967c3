"""The denoiser's answers, led towards the prompts (classifier-free guidance; composition of several prompts)."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import torch

from tenshot.families import base
from tenshot.families.base import Conditioning
from tenshot.model.control import Control, Residuals
from tenshot.model.model import Model
from tenshot.model.prompts import Scheduled


@dataclass(frozen=True)
class Told:
    """What the denoiser is told of one picture.

    prompts: each with how far it leads away from the negative prompt. negative: None without guidance.
    """

    prompts: Sequence[tuple[float, Scheduled]]
    negative: Scheduled | None


class Guided:
    """The denoiser's answer, led from the negative prompts towards the prompts (arXiv 2207.12598, 2206.01714)."""

    def __init__(
        self,
        model: Model,
        told: Sequence[Told],
        beside: torch.Tensor | None = None,
        control: Control | None = None,
        interval: Container[int] | None = None,
    ) -> None:
        """beside: what the denoiser sees beside the latents, [pictures, channels, h, w]. control: asked first.

        interval: the evaluations in which there is guidance; None: all. In the others the prompt's answer counts as it
        is, and the negative prompt is not asked; pictures of several prompts are led throughout.
        """
        self.model, self.told, self.beside, self.control, self.interval = model, told, beside, control, interval
        self.prompts = [(row, *prompt) for row, each in enumerate(told) for prompt in each.prompts]
        self.negative: list[tuple[int, Scheduled]] = []
        self.rows: list[int] = []
        self.said: list[Conditioning] = []
        self.groups: list[tuple[list[int], Conditioning]] = []

    def __call__(self, seen: torch.Tensor, time: float, number: int) -> torch.Tensor:
        """Of evaluation `number`, float32."""
        self._listen(number)
        shown = seen if self.beside is None else torch.cat([seen, self.beside.to(seen)], 1)
        when, answers = torch.tensor(time), [seen] * len(self.rows)
        for places, conditioning in self.groups:
            rows = [self.rows[place] for place in places]
            more = self._controlled(seen[rows], when, conditioning, places, number)
            found = self.model.predict(shown[rows], when, conditioning, more).float()
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer
        count = len(self.negative)
        without = {row: answer for (row, _), answer in zip(self.negative, answers, strict=False)}
        led = dict(without)
        for (row, weight, _), answer in zip(self.prompts, answers[count:], strict=True):
            led[row] = led[row] + weight * (answer - without[row]) if row in without else answer
        return torch.stack([led[row] for row in range(len(seen))])

    def _controlled(
        self, seen: torch.Tensor, when: torch.Tensor, conditioning: Conditioning, places: Sequence[int], number: int
    ) -> Residuals | None:
        if self.control is None:
            return None
        prompted = [place >= len(self.negative) for place in places]
        return self.control(seen, when, conditioning, [self.rows[place] for place in places], prompted, number)

    def _listen(self, number: int) -> None:
        """Groups the rows by how many tokens they are told; one group where all are told as many."""
        led = self.interval is None or number in self.interval
        self.negative = [
            (row, each.negative)
            for row, each in enumerate(self.told)
            if each.negative is not None and (led or len(each.prompts) > 1)
        ]
        self.rows = [*(row for row, _ in self.negative), *(row for row, *_ in self.prompts)]
        schedules = (*(each for _, each in self.negative), *(each for _, _, each in self.prompts))
        said = [next((told for last, told in each if number <= last), each[-1][1]) for each in schedules]
        if len(said) == len(self.said) and all(new is old for new, old in zip(said, self.said, strict=True)):
            return
        sizes = [tuple(tensor.shape for tensor in base.flattened(each).values()) for each in said]
        alike = [[place for place, size in enumerate(sizes) if size == kind] for kind in dict.fromkeys(sizes)]
        self.groups = [(places, base.joined(*(said[place] for place in places))) for places in alike]
        self.said = said
