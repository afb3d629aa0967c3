"""The ways from noise to pictures that a guided model goes, drawn once and kept in the folder of the run that learns.

A way is kept as what the denoiser was shown at its nodes, [nodes + 1, c, h, w] in float16, the clean latents last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tenshot import pipeline
from tenshot.core import device
from tenshot.core.errors import Cancelled, Fault, Refusal
from tenshot.core.events import Events, Subtask
from tenshot.core.size import Size
from tenshot.diffusion import schedules
from tenshot.diffusion.process import Process
from tenshot.diffusion.samplers import Schedule
from tenshot.io import hashes
from tenshot.model.model import Model
from tenshot.pipeline import Request, SamplingSettings
from tenshot.train.data.latents_cache import IN_MEMORY, TensorCache

SAMPLERS = {"ddpm": "DPM++ 2M", "flow": "Euler"}  # of the teacher, by the name of its process
SCHEDULE: Schedule = "sgm_uniform"  # of teacher and student: its times of 8 steps are among those of 24
KEY = "seen"


@dataclass(frozen=True)
class Recipe:
    """What a trajectory follows from, besides its prompt and seed. nodes: those that are kept of its steps."""

    model: str
    sampler: str
    steps: int
    nodes: int
    guidance: float
    side: int
    precision: str

    @property
    def settings(self) -> SamplingSettings:
        size = Size.square(self.side)
        return SamplingSettings(self.sampler, self.steps, self.guidance, size, schedule=SCHEDULE)

    def key(self, request: Request) -> str:
        return hashes.of_json([vars(self), request.prompt, request.seed])


def sigmas(process: Process, nodes: int) -> list[float]:
    """At the nodes, and 0."""
    return [*schedules.SCHEDULES[SCHEDULE](process, nodes), 0.0]


class Trajectories(Sequence[torch.Tensor]):
    """One for each request; in memory while they are few, else read when their turn comes."""

    def __init__(self, cache: TensorCache, recipe: Recipe, requests: Sequence[Request]) -> None:
        self.cache, self.recipe, self.requests = cache, recipe, requests
        self.near: dict[int, torch.Tensor] = {}
        self.room = IN_MEMORY

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, row: int) -> torch.Tensor:  # type: ignore[override]  # one row at a time
        found = self.find(row)
        if found is None:
            place = str(self.cache.path(self.recipe.key(self.requests[row])))
            raise Refusal(Fault(place, "is gone", "what was drawn in the beginning", "the same command draws it again"))
        return found

    def find(self, row: int) -> torch.Tensor | None:
        if row in self.near:
            return self.near[row]
        kept = self.cache.read(self.recipe.key(self.requests[row]))
        if kept is None:
            return None
        self.room -= kept[KEY].nbytes
        if self.room >= 0:
            self.near[row] = kept[KEY]
        return kept[KEY]

    def missing(self) -> list[int]:
        """The rows that are not kept; what is kept besides goes."""
        self.cache.trim({self.recipe.key(each) for each in self.requests})
        return [row for row in range(len(self)) if self.find(row) is None]


def kept(folder: Path, recipe: Recipe, requests: Sequence[Request], events: Events) -> Trajectories:
    """Those that are in `folder`."""
    return Trajectories(TensorCache(folder, 0, events), recipe, requests)


def ensure(model: Model, found: Trajectories, batch: int, precision: str, events: Events) -> None:
    """Draw those that are missing, each with those it is drawn with: the same in the same batch are the same bits.

    A stop loses one batch at most. Raises Refusal where they come out as no numbers.
    """
    starts = sorted({row - row % batch for row in found.missing()})
    recipe, wanted = found.recipe, found.requests
    events.begin("drawing trajectories", len(starts) * recipe.steps)
    try:
        for number, start in enumerate(starts):
            requests = wanted[start : start + batch]
            heard = Subtask(events, number * recipe.steps)
            with device.autocast(model.device, precision):
                drawn = pipeline.trajectories(model, requests, recipe.settings, recipe.steps // recipe.nodes, heard)
            if not drawn.isfinite().all():
                told = "what the denoiser answered holds NaN or infinite numbers"
                raise Refusal(Fault(str(model.place), told, "finite numbers", "use --mixed_precision bf16 or no"))
            for request, way in zip(requests, drawn.half(), strict=True):
                found.cache.write(recipe.key(request), {KEY: way.contiguous()})
    except Cancelled:
        raise Cancelled("stopped; the trajectories drawn so far are kept, and the same command goes on") from None
    finally:
        events.end()
