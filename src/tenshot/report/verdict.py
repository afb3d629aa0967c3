"""What the measures of a demonstration say, in words and digits."""

from __future__ import annotations

import math

from tenshot.report.record import REAL, UNTUNED, WITH_PRIOR, Report

MOST = 10  # times the value before: a change beyond is not said in percent
_THIN, _MINUS, _NOTHING = "\u202f", "\u2212", "\u2013"  # a space at which no line breaks, a minus, a dash

MORE = (
    "Where the pictures do not yet show the subject, teach more: --max_train_steps twice as many, or a higher"
    " --learning_rate. Where they are spoiled or all alike, lower it."
)


def verdict(report: Report) -> tuple[str, ...]:
    """A sentence on the first measure (the subject: did it get better, or plainly not?) and one on the second."""
    said = [_moved(report, measure, judged=number == 0) for number, measure in enumerate(measure_names(report)[:2])]
    found = tuple(filter(None, said)) or ("Nothing was measured: judge by the pictures.",)
    return found if improved(report) is not False else (*found, MORE)


def improved(report: Report) -> bool | None:
    """Whether the first measure moved the right way by 1 % or more; None where that cannot be said."""
    for measure in measure_names(report)[:1]:
        before, after = value_of(report, UNTUNED, measure), value_of(report, WITH_PRIOR, measure)
        direction = report.measure_help.get(measure, ("", ""))[1]
        if before is not None and after is not None and direction:
            return _change(before, after) * (1 if direction == "higher" else -1) > 0
    return None


def _moved(report: Report, measure: str, judged: bool) -> str:
    before, after = value_of(report, UNTUNED, measure), value_of(report, WITH_PRIOR, measure)
    if before is None or after is None:
        return ""
    change, real = _change(before, after), value_of(report, REAL, measure)
    span = f"from {shown(before)} to {shown(after)}{percent(before, after)}"
    span += "" if real is None else f"; real pictures: {shown(real)}"
    wished = {"higher": 1, "lower": -1}.get(report.measure_help.get(measure, ("", ""))[1])
    name = measure[:1].upper() + measure[1:]
    if not judged or wished is None:
        return f"{name} went {span}."
    if change == 0:
        return f"{name} hardly moved: it went {span}."
    if change == wished:
        return f"{name} {'rose' if wished > 0 else 'fell'} {span}."
    return f"{name} did not {'rise' if wished > 0 else 'fall'}: it went {span}."


def _change(before: float, after: float) -> int:
    """-1, 0 or 1; less than 1 % is no change."""
    if abs(after - before) < 0.01 * abs(before) or after == before:
        return 0
    return 1 if after > before else -1


def percent(before: float, after: float) -> str:
    """The change in brackets, as in " (+5 %)"; nothing where `before` is no measure for it: below 0, or next to it."""
    if before <= 0 or abs(after - before) > MOST * before:
        return ""
    rounded = round(100 * (after - before) / before)
    return f" ({rounded:+d}{_THIN}%)".replace("-", _MINUS) if rounded else f" (±0{_THIN}%)"


def measure_names(report: Report) -> list[str]:
    """The measures in the order of the table: those explained first."""
    return list(dict.fromkeys([*report.measure_help, *(name for row in report.measures.values() for name in row)]))


def value_of(report: Report, row: str, measure: str) -> float | None:
    """What was measured; None where nothing was, or nothing finite."""
    value = report.measures.get(row, {}).get(measure)
    return value if value is not None and math.isfinite(value) else None


def best_rows(report: Report, measure: str) -> set[str]:
    """The rows that are best in `measure`'s direction as far as the page's digits show; none where all are alike."""
    direction = report.measure_help.get(measure, ("", ""))[1]
    values = {row: value for row in report.measures if (value := value_of(report, row, measure)) is not None}
    values.pop(REAL, None)
    if not direction or len({shown(value) for value in values.values()}) < 2:
        return set()
    best = shown((max if direction == "higher" else min)(values.values()))
    return {row for row, value in values.items() if shown(value) == best}


def shown(value: str | float | None) -> str:
    """A float with three digits that count, an integer with all of them."""
    if value is None or isinstance(value, str):
        return value or _NOTHING
    if not math.isfinite(value):
        return _NOTHING
    if isinstance(value, int) or abs(value) >= 99.95:
        return f"{value:,.0f}".replace(",", _THIN).replace("-", _MINUS)
    text = f"{value:#.3g}" if abs(value) >= 0.1 or abs(value) < 0.001 else f"{value:.3f}"
    return text.rstrip(".").replace("-", _MINUS)
