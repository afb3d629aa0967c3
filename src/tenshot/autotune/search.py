"""Every candidate has its trial; the fastest within the error allowed is kept."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

from tenshot.autotune import timing, trial
from tenshot.autotune.calibration import Calls
from tenshot.autotune.options import CompileOptions
from tenshot.autotune.trial import Trial, TrialResult
from tenshot.core.events import Events, track
from tenshot.runtime import rewrites
from tenshot.runtime.artifact import PARTS, Program, Section
from tenshot.runtime.backend import Candidate, backend
from tenshot.runtime.registry import BACKENDS

PLAIN = Candidate("eager", "fp32")  # what everything is measured against
SHARE = 0.6
SPENT = "not tried: the budget is spent (--budget)"
LEAST = 300.0  # seconds that a trial gets at least, while there is budget: full-size denoisers take minutes


@dataclass(frozen=True)
class SectionSearch:
    """The outcomes of a section's candidates. chosen: the fastest that may be used; None: torch in float32."""

    section: str
    outcomes: Sequence[TrialResult]
    chosen: TrialResult | None


def candidates(options: CompileOptions, where: torch.device) -> Iterator[Candidate | TrialResult]:
    """What is tried, in order; and an outcome for each backend that cannot be, with the reason."""
    for name in options.backend or BACKENDS:
        kind = backend(name)
        if reason := kind.missing(where):
            yield TrialResult(Candidate(name, ""), failed=f"not here: {reason}")
            continue
        fitting = (each for each in kind.candidates(where) if options.allows(each.precision))
        yield from (each for each in fitting if each != PLAIN)


def search(
    options: CompileOptions,
    folder: Path,
    recorded: Mapping[str, Calls],
    where: torch.device,
    events: Events,
    end: float = math.inf,
) -> Iterator[SectionSearch]:
    """One section after the other; each may take SHARE of the time that is left until `end`, the last one all of it.

    What is far behind in the first one, the denoiser, is not built for the others.
    """
    tried = list(candidates(options, where))
    total = len(recorded) * len(tried)
    ticks = track(range(total), "trying", total, events)
    behind: Mapping[str, str] = {}
    for section, calls in recorded.items():
        torch.save({"inputs": calls.inputs, "outputs": calls.outputs}, folder / f"{section}.calls")
        outcomes = []
        now = time.monotonic()
        until = end if section == [*recorded][-1] else now + SHARE * (end - now)
        for number, each in enumerate(tried):
            next(ticks, None)
            if isinstance(each, Candidate) and each.backend in behind:
                each = TrialResult(each, failed=behind[each.backend])
            elif isinstance(each, Candidate):
                place = folder / "trials" / f"{section}-{number}"
                job = _trial(folder, section, each, place, options.turns, where)
                each = _tried(job, until - time.monotonic(), len(tried) - number, events.cancelled)
            outcomes.append(each)
            events.say(f"{section}: {spoken(each)}")
        outcomes += _with_rewrites(options, folder, section, best(outcomes, options.max_error), where, until, events)
        contest = _contest(section, outcomes, options.max_error)
        behind = behind or far_behind(contest, options.max_error)
        yield contest
    next(ticks, None)


def _with_rewrites(
    options: CompileOptions,
    folder: Path,
    section: str,
    found: TrialResult | None,
    where: torch.device,
    until: float,
    events: Events,
) -> Iterator[TrialResult]:
    """The best with one rewrite more at a time; one that is no faster is left out of the next trial."""
    if found is None or not options.rewrites:
        return
    for name in rewrites.fitting(trial.opened(folder, section, where)):
        each = replace(found.candidate, rewrites=(*found.candidate.rewrites, name))
        place = folder / "trials" / f"{section}-{'-'.join(each.rewrites)}"
        new = _tried(
            _trial(folder, section, each, place, options.turns, where), until - time.monotonic(), 1, events.cancelled
        )
        events.say(f"{section}: {spoken(new)}")
        yield new
        found = best([found, new], options.max_error) or found


def _contest(section: str, outcomes: Sequence[TrialResult], max_error: float) -> SectionSearch:
    """With a row for torch itself, against which all were timed."""
    plain = [each.plain for each in outcomes if each.plain]
    itself = [TrialResult(PLAIN, seconds=median(plain), plain=median(plain), spread=(1.0, 1.0))] if plain else []
    return SectionSearch(section, [*outcomes, *itself], best(outcomes, max_error))


def far_behind(contest: SectionSearch, max_error: float) -> dict[str, str]:
    """Each backend whose best was less than half as fast as the fastest, and how that is told."""
    fastest = contest.chosen.speedup if contest.chosen else 0.0
    found: dict[str, float] = {}
    for each in contest.outcomes:
        if not each.failed and each.error <= max_error:
            found[each.candidate.backend] = max(found.get(each.candidate.backend, 0.0), each.speedup)
    told = f"not tried: in {contest.section} it was less than half as fast as"
    return {
        name: f"{told} {contest.chosen.candidate}"
        for name, reached in found.items()
        if contest.chosen and reached < fastest / 2 and name != PLAIN.backend
    }


def _trial(folder: Path, section: str, candidate: Candidate, place: Path, rounds: int, where: torch.device) -> Trial:
    place.mkdir(parents=True)
    return Trial(folder, section, candidate, folder / f"{section}.calls", place, rounds, str(where))


def _tried(job: Trial, rest: float, left: int, cancelled: Callable[[], bool]) -> TrialResult:
    """rest: seconds for the `left` trials of a section; one may take twice its even share."""
    if rest <= 0:
        return TrialResult(job.candidate, failed=SPENT)
    return trial.run(job, min(rest, max(LEAST, 2 * rest / left)), cancelled)


def best(outcomes: Sequence[TrialResult], max_error: float) -> TrialResult | None:
    """The fastest with an error of at most `max_error`; None where none is for certain faster than torch in float32."""
    fitting = [each for each in outcomes if not each.failed and each.error <= max_error and each.candidate != PLAIN]
    return max((each for each in fitting if each.faster), key=lambda each: each.speedup, default=None)


def spoken(each: TrialResult) -> str:
    if each.failed:
        return f"{each.candidate}: {each.failed}"
    speed = timing.told(each.speedup, each.spread)
    return f"{each.candidate}: {each.seconds:.4f} s, {speed}, error {each.error:.1e}"


def kept(folder: Path, contest: SectionSearch, calls: Calls) -> Section | None:
    """Move what was chosen to its place in the artifact; None where torch runs the section."""
    if contest.chosen is None:
        return None
    name = f"{PARTS}/{contest.section}"
    (folder / PARTS).mkdir(exist_ok=True)
    contest.chosen.folder.rename(folder / name)
    found = contest.chosen
    program = Program(found.candidate, shapes_of(calls), name)
    return Section((program,), found.error, found.seconds, found.speedup)


def shapes_of(calls: Calls) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(each.shape) for each in calls.inputs[0])


def further(
    options: CompileOptions, folder: Path, section: Section, name: str, calls: Calls, where: torch.device, end: float
) -> Program | TrialResult:
    """The same way to run it, for another size, without rewrites where they do not fit; or how that failed."""
    size = "x".join(map(str, calls.inputs[0][0].shape[2:]))
    torch.save({"inputs": calls.inputs, "outputs": calls.outputs}, folder / f"{name}.calls")
    choice = section.programs[0].choice
    found = TrialResult(choice, failed="not tried")
    for each in dict.fromkeys((choice, replace(choice, rewrites=()))):
        place = folder / PARTS / f"{name}-{size}"
        found = _tried(_trial(folder, name, each, place, 0, where), end - time.monotonic(), 1, lambda: False)
        if not found.failed and found.error <= options.max_error:
            return Program(each, shapes_of(calls), f"{PARTS}/{name}-{size}")
        shutil.rmtree(place)
    return found
