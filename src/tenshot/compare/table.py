"""The figures of a comparison: means over trainings with their spread, and which method they speak for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from tenshot.compare.cells import Outcome
from tenshot.evaluate.judge import Judge
from tenshot.evaluate.measures import Figures, help_of
from tenshot.report.record import REAL, UNTUNED
from tenshot.train.subject_options import Method
from tenshot.train.ways import WAYS

RECOGNISED = 0.8  # of what real pictures reach: from there on it is the subject
NEARLY = 0.95  # of the best likeness: then the lighter result is the better one
OBEYED = 0.8  # of the backgrounds and styles that were right before training
KEPT = 0.95  # of prompt likeness, where those are not counted


@dataclass(frozen=True)
class Table:
    """Rows are real, untuned, and the methods' names. spread: standard deviation over trainings, where there are more.

    recommended: a method; None where none learned the subject. advice: why, in a sentence or two.
    """

    measures: Mapping[str, Figures]
    spread: Mapping[str, Figures]
    costs: Mapping[str, Mapping[str, float]]
    help: Mapping[str, tuple[str, str]]
    recommended: Method | None
    advice: str


def tabulated(outcomes: Sequence[Outcome], real: Figures, judge: Judge) -> Table:
    names = dict.fromkeys(each.cell.row for each in outcomes)
    of = {row: [each for each in outcomes if each.cell.row == row] for row in names}
    figures = {REAL: real, **{row: _each([o.figures for o in those], mean) for row, those in of.items()}}
    spread = {row: _each([o.figures for o in those], stdev) for row, those in of.items() if those[1:]}
    trained = {row: [o.costs for o in those] for row, those in of.items() if row != UNTUNED}
    costs = {row: {name: mean(each[name] for each in those) for name in those[0]} for row, those in trained.items()}
    chosen, advice = _advice(figures, costs, judge)
    return Table(figures, spread, costs, help_of(judge), chosen, advice)


def score(drawn: Figures, before: Figures, judge: Judge) -> float:
    """Likeness to the subject, times the share that was kept of drawing as asked (at most 1)."""
    counted = [name for name in ("background", "style") if drawn.get(name) is not None] or [judge.prompt_measure]
    asked, once = (sum(each.get(name) or 0.0 for name in counted) for each in (drawn, before))
    return (drawn[judge.subject_measure] or 0.0) * (min(1.0, asked / once) if once > 0 else 1.0)


def _each(of: Sequence[Figures], figure: Callable[[Sequence[float]], float]) -> Figures:
    """`figure` of each measure; None where one of them says nothing."""
    columns = {name: [each[name] for each in of] for name in of[0]}
    return {
        name: None
        if any(value is None for value in values)
        else figure([value for value in values if value is not None])
        for name, values in columns.items()
    }


def _advice(
    figures: Mapping[str, Figures], costs: Mapping[str, Mapping[str, float]], judge: Judge
) -> tuple[Method | None, str]:
    """The most alike of those that learned the subject and keep to prompts; a lighter one if it is nearly as like."""
    own, prompt = judge.subject_measure, judge.prompt_measure
    real = "" if figures[REAL][own] is None else f" (real pictures {figures[REAL][own]:.2f})"
    scores: dict[Method, float] = {row: figures[row][own] or 0.0 for row in WAYS if row in costs}
    learned = [row for row in scores if _learned(figures[row], figures[REAL])]
    if not learned:
        best = max(scores, key=lambda row: scores[row])
        told = f"No method learned the subject: {WAYS[best].title} came nearest, with {own} {scores[best]:.2f}"
        return None, f"{told}{real}. Train longer: --max_train_steps twice as many."
    obeying = [row for row in learned if _obeys(figures[row], figures[UNTUNED], prompt)] or learned
    best = max(obeying, key=lambda row: scores[row])
    light = min(
        (row for row in obeying if scores[row] >= NEARLY * scores[best]), key=lambda row: costs[row]["file_bytes"]
    )
    if light == best:
        others = "" if len(obeying) == 1 else ", the most of all that keep to their prompts"
        return best, f"{WAYS[best].title}: {own} {scores[best]:.2f}{others}{real}."
    share, size = scores[light] / scores[best], costs[light]["file_bytes"] / 1e6
    return light, (
        f"{WAYS[light].title}: it reaches {share:.0%} of what {WAYS[best].title} does ({own} {scores[light]:.2f} of"
        f" {scores[best]:.2f}), in {size:.3g} MB instead of {costs[best]['file_bytes'] / 1e6:.0f}."
    )


def _learned(drawn: Figures, real: Figures) -> bool:
    """Is it this subject? Where there are no others that it could be taken for, nothing speaks against it."""
    recognised, most = drawn["recognised"], real["recognised"]
    if recognised is None or most is None:
        return True
    return recognised >= RECOGNISED * most and (drawn["margin"] or 0.0) > 0


def _obeys(drawn: Figures, before: Figures, prompt: str) -> bool:
    """Does it still draw what is asked for? Counted where that can be: a subject that is no usual member of its class
    takes prompt likeness from pictures that are as asked."""
    counted = [name for name in ("background", "style") if drawn.get(name) is not None]
    share = OBEYED if counted else KEPT
    return all((drawn[name] or 0.0) >= share * (before[name] or 0.0) for name in counted or [prompt])
