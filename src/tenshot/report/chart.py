"""Curves over the steps of a training, as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from tenshot.core.html import Html, el

_WIDE, _HIGH, _LEFT, _RIGHT, _TOP, _BOTTOM = 680, 300, 72, 26, 12, 54
_LABEL = 18  # of a curve's number, and between two of them
_SHOWN = 800  # points of a raw curve that a page can show
Curve = Sequence[tuple[float, float]]


def chart(curves: Mapping[str, Curve]) -> Html:
    """Each curve of (step, loss) as a thin line, and its running mean as a thick one; losses must be finite."""
    smooth = {name: _smoothed(curve) for name, curve in curves.items()}
    steps = [step for curve in curves.values() for step, _ in curve]
    low, high = min(steps), max(max(steps), min(steps) + 1)
    top = _ceiling(curves.values(), smooth.values())

    def place(step: float, loss: float) -> tuple[float, float]:
        x = _LEFT + (step - low) / (high - low) * (_WIDE - _LEFT - _RIGHT)
        return round(x, 1), round(_HIGH - _BOTTOM - min(max(loss / top, 0), 1) * (_HIGH - _TOP - _BOTTOM), 1)

    def line(curve: Curve, kind: str) -> Html:
        thinned = curve[:: max(1, len(curve) // _SHOWN)]
        points = " ".join("{},{}".format(*place(*point)) for point in thinned)
        return el("polyline", points=points, class_=kind)

    raw = [line(curve, f"raw c{number}") for number, curve in enumerate(curves.values())]
    mean = [line(curve, f"mean c{number}") for number, curve in enumerate(smooth.values())]
    parts = (*_axes((low, high), (0, top), ("step", "loss"), place), *raw, *mean)
    return el("svg", *parts, viewBox=f"0 0 {_WIDE} {_HIGH}", role="img", aria_label="loss by step")


def _smoothed(curve: Curve) -> Curve:
    """Each step with the mean loss of the tenth of the steps around it."""
    sums = list(accumulate((loss for _, loss in curve), initial=0.0))
    reach, last = len(curve) // 20, len(curve)

    def mean(start: int, end: int) -> float:
        return (sums[end] - sums[start]) / (end - start)

    return [(step, mean(max(0, n - reach), min(last, n + reach + 1))) for n, (step, _) in enumerate(curve)]


def _ceiling(raw: Iterable[Curve], smooth: Iterable[Curve]) -> float:
    """The loss at the top of the chart: nearly all points lie below it, the thick lines always do."""
    losses = sorted(loss for curve in raw for _, loss in curve)
    crest = max(loss for curve in smooth for _, loss in curve)
    return max(losses[int(0.98 * (len(losses) - 1))], 1.15 * crest) or 1.0


def lines(curves: Mapping[str, Curve], value: str) -> Html:
    """Few points of each curve of (step, value), joined, marked and numbered from 1 at their ends.

    value: what they are, for the axis.
    """
    steps = [step for curve in curves.values() for step, _ in curve]
    values = [each for curve in curves.values() for _, each in curve]
    across = (min(steps), max(max(steps), min(steps) + 1))
    up = (min(0.0, *values), 1.05 * max(values) if max(values) > 0 else 1.0)

    def place(step: float, each: float) -> tuple[float, float]:
        x = _LEFT + (step - across[0]) / (across[1] - across[0]) * (_WIDE - _LEFT - _RIGHT - _LABEL)
        return round(x, 1), round(_HIGH - _BOTTOM - (each - up[0]) / (up[1] - up[0]) * (_HIGH - _TOP - _BOTTOM), 1)

    drawn: list[Html] = []
    for number, curve in enumerate(curves.values()):
        places = [place(*point) for point in curve]
        points = " ".join(f"{x},{y}" for x, y in places)
        drawn.append(el("polyline", points=points, class_=f"mean c{number}"))
        drawn += [el("circle", cx=x, cy=y, r=3.5, class_=f"dot c{number}") for x, y in places]
    ends = _apart([place(*curve[-1]) for curve in curves.values()])
    labels = [el("text", str(number), x=x + 10, y=y, dy="0.35em") for number, (x, y) in enumerate(ends, 1)]
    parts = (*_axes(across, up, ("step", value), place), *drawn, *labels)
    return el("svg", *parts, viewBox=f"0 0 {_WIDE} {_HIGH}", role="img", aria_label=f"{value} by step")


def _apart(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Labels moved down where they would lie on the one above."""
    found = [*places]
    above: dict[float, float] = {}
    for number, (x, y) in sorted(enumerate(places), key=lambda each: each[1][1]):
        found[number] = x, max(y, above.get(x, -_LABEL) + _LABEL)
        above[x] = found[number][1]
    return found


Range = tuple[float, float]


def _axes(across: Range, up: Range, titles: tuple[str, str], place: Callable[[float, float], Range]) -> Iterator[Html]:
    left, floor = place(across[0], up[0])
    right = place(across[1], up[0])[0]
    for value in ticks(*up):
        _, y = place(across[0], value)
        yield el("line", x1=left, x2=right, y1=y, y2=y, class_="rule")
        yield el("text", f"{value:g}", x=left - 8, y=y, dy="0.35em", text_anchor="end")
    for step in ticks(*across):
        yield el("text", f"{step:g}", x=place(step, up[0])[0], y=floor + 20, text_anchor="middle")
    yield el("text", titles[0], x=(left + right) / 2, y=_HIGH - 6, text_anchor="middle")
    middle = (floor + _TOP) / 2
    yield el("text", titles[1], x=14, y=middle, text_anchor="middle", transform=f"rotate(-90 14 {middle})")


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers from low to high."""
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    stride = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    return [stride * n for n in range(math.ceil(low / stride), math.floor(high / stride + 1e-9) + 1)]
