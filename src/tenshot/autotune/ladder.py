"""Ways to draw, from the cheapest up; the first one that proves itself is taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from tenshot import pipeline
from tenshot.autotune import timing
from tenshot.core.size import Size
from tenshot.diffusion import samplers
from tenshot.diffusion.samplers import ALIGN, AUTOMATIC, SAMPLERS, Schedule, Solved
from tenshot.model.model import Model
from tenshot.option_types import PresetKind
from tenshot.pipeline import Request
from tenshot.preset import Preset

STEPS = (4, 6, 8, 10, 12, 14, 16, 18)
#: Whose pictures hardly change from some number of steps on, as they add no noise; the same for all of them.
CONVERGING = ("DPM++ 2M", "UniPC", "Euler")
PARTS = {  # of the steps, with guidance
    "same": ((0.0, 1.0), (0.0, 0.8)),
    "good": ((0.0, 1.0), (0.0, 0.6), (0.1, 0.7)),
}
PACED = 4  # steps of the drawings by which a step is timed


@dataclass(frozen=True)
class Rung:
    """guided, unguided: evaluations of the denoiser, in which a picture has two rows and one. cost: in guided ones."""

    preset: Preset
    guided: int
    unguided: int
    cost: float


def rungs(model: Model, kind: PresetKind, guidance: float, size: Size, unguided: float) -> list[Rung]:
    """All ways that cost less than the usual one, the cheapest first.

    unguided: what an evaluation without guidance costs of one with it.
    """
    found = []
    for preset in _presets(model, kind, guidance):
        asked, alone = pipeline.evaluations(model, preset.settings(size, 1))
        found.append(Rung(preset, asked, alone, asked + unguided * alone))
    most = sum(pipeline.evaluations(model, usual(model, guidance).settings(size, 1)))
    return sorted((rung for rung in found if rung.cost < most), key=lambda rung: rung.cost)


def _presets(model: Model, kind: PresetKind, guidance: float) -> Iterator[Preset]:
    for steps in STEPS:
        for name, schedule in _plans(model, kind):
            for start, end in PARTS[kind]:
                yield Preset(name, schedule, steps, guidance, start, end)
            if kind == "good":
                yield Preset(name, schedule, steps, 1.0)


def _plans(model: Model, kind: PresetKind) -> Iterator[tuple[str, Schedule]]:
    """Samplers, each with the schedules that it can have; of Euler, which wants more steps than the others, one."""
    first = usual(model, 1.0).sampler
    if kind == "good" and first not in CONVERGING:
        yield first, AUTOMATIC
    for name in CONVERGING:
        row = SAMPLERS[name].get(model.family.process.name)
        if row is None:
            continue
        if not isinstance(row, Solved):
            yield name, AUTOMATIC
        elif name == "Euler":
            yield name, "sgm_uniform"
        else:
            yield from ((name, each) for each in _schedules(model))


def _schedules(model: Model) -> list[Schedule]:
    known: tuple[Schedule, ...] = ("uniform", "sgm_uniform", "karras")
    return [*known, ALIGN] if model.family.aligned else [*known]


def usual(model: Model, guidance: float) -> Preset:
    """How it is drawn where nobody says otherwise."""
    return Preset(samplers.names(model.family.process.name)[0], AUTOMATIC, 20, guidance)


def limit(guidance: float, steps: int) -> Preset:
    """What all of CONVERGING approach with many steps, as the one that comes nearest with so many."""
    return Preset(CONVERGING[0], AUTOMATIC, steps, guidance)


def unguided(model: Model, requests: Sequence[Request], guidance: float, size: Size, rounds: int) -> float:
    """What an evaluation without guidance takes of one with it, by denoising in turns."""
    batch = len(requests)
    name = usual(model, guidance).sampler
    with_it = Preset(name, AUTOMATIC, PACED, guidance).settings(size, batch)
    without = Preset(name, AUTOMATIC, PACED, 1.0).settings(size, batch)
    turns = timing.in_turns(
        lambda: pipeline.latents(model, requests, with_it), lambda: pipeline.latents(model, requests, without), rounds
    )
    return median(turns.mine) / median(turns.plain)
