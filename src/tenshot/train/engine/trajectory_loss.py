"""The loss that distillation learns by: one step of Euler from node to node of what a guided model drew.

Regression on the teacher's own trajectories: Luhman and Luhman, arXiv 2101.02388; guidance goes into the weights as in
Meng et al., arXiv 2210.03142.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from tenshot.diffusion import solvers
from tenshot.families import base
from tenshot.families.base import Conditioning
from tenshot.train.data import trajectories
from tenshot.train.data.trajectories import Trajectories
from tenshot.train.engine.denoiser_task import DenoiserTask
from tenshot.train.engine.rng import CounterRNG
from tenshot.train.engine.trainable import Trainable, offload_unused
from tenshot.train.options import TrainOptions


class TrajectoryLoss(DenoiserTask):
    """A denoiser that learns to go along trajectories in one step of Euler from each node, told of the prompt alone.

    said: what the denoiser is told of each prompt. rows: those of the trajectories that are learned from.
    """

    def __init__(
        self,
        trainable: Trainable,
        options: TrainOptions,
        ways: Trajectories,
        said: Mapping[str, Conditioning],
        rows: int,
    ) -> None:
        super().__init__(trainable, options)
        self.ways, self.said, self.rows = ways, said, rows
        self.process = trainable.model.process
        self.sigmas = trajectories.sigmas(self.process, ways.recipe.nodes)
        offload_unused(trainable)

    def loss(self, rng: CounterRNG) -> torch.Tensor:
        """The squared error of the latents after a step, as the denoiser is shown them.

        So the error of an answer counts by the square of the step that is made with it, and in the measure in which
        what comes of it in the picture is about as large from any node: in that of samplers the first step is nearly
        all, and the pocket model came 1.2 dB less far in as many steps.
        """
        rows, nodes = rng.pick("trajectory", self.rows), rng.pick("node", len(self.sigmas) - 1)
        where = self.trainable.model.device
        ways = [self.ways[row] for row in rows]
        seen, after = (
            torch.stack([way[node + more].float() for way, node in zip(ways, nodes, strict=True)]).to(where)
            for more in (0, 1)
        )
        times = torch.tensor([self.process.time(self.sigmas[node]) for node in nodes], device=where)
        answers = self._answers(seen, times, [self.ways.requests[row].prompt for row in rows])
        errors = [
            (self.process.seen(self._after(start, answer, node), self.sigmas[node + 1]) - wanted).square().mean()
            for start, answer, wanted, node in zip(seen, answers, after, nodes, strict=True)
        ]
        return torch.stack(errors).mean()

    def _answers(self, seen: torch.Tensor, times: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Of the denoiser, float32. Prompts of as many tokens are told together."""
        said = [self.said[prompt] for prompt in prompts]
        kinds = [tuple(tensor.shape for tensor in base.flattened(each).values()) for each in said]
        found: list[torch.Tensor] = [seen] * len(seen)
        family = self.trainable.model.family
        for kind in dict.fromkeys(kinds):
            rows = [row for row, each in enumerate(kinds) if each == kind]
            told = base.moved(base.joined(*(said[row] for row in rows)), seen.device)
            for row, answer in zip(rows, family.predict(self.denoiser, seen[rows], times[rows], told), strict=True):
                found[row] = answer.float()
        return torch.stack(found)

    def _after(self, seen: torch.Tensor, answer: torch.Tensor, node: int) -> torch.Tensor:
        """Where Euler's sampler gets from a node with the denoiser's answer there."""
        sigma = self.sigmas[node]
        x = seen / self.process.seen(torch.ones((), device=seen.device), sigma)  # as samplers have it
        solving = solvers.euler(x, self.sigmas[node : node + 2], lambda *_: x)
        next(solving)
        try:
            solving.send(self.process.clean(x, answer, sigma))
        except StopIteration as end:
            reached: torch.Tensor = end.value
            return reached
        raise AssertionError("Euler asks once a step")
