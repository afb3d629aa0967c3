"""Times as a person would say them."""

from __future__ import annotations


def span(low: float, high: float) -> str:
    """Seconds as a person would say them: "40 s", "4 to 6 minutes", "about 12 hours"."""
    size, unit = next(((s, u) for s, u in ((3600, "hours"), (60, "minutes")) if high >= 2 * s), (1, "s"))
    a, b = (f"{each / size:.0f}" if each >= 9.5 * size else f"{each / size:.1g}" for each in (low, high))
    return f"{b if a == b else f'{a} to {b}'} {unit}"
