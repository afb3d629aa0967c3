"""The values in a net's configuration, beside those that its class has of itself.

Most have no say in any shape, so that nothing but the first drawing would find out that one is of another kind.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import diffusers

from tenshot.core.json_types import Config
from tenshot.families.components import Net

MOST = 2**24
LIMITS = {"layers": 1000, "sample_size": 16384}  # of settings with this in their names: a net takes long to make


def strange(kind: type[Net], config: Config) -> str:
    """The settings whose values are of another kind than the class's own, in words; empty where none is."""
    usual = _usual(kind)
    odd = [
        name
        for name, value in config.items()
        if name in usual and not (_alike(value, usual[name]) and _bounded(name, value))
    ]
    told = [f"{name} {str(config[name])[:40]!r}" for name in odd[:3]]
    return f"{', '.join(told)}{', ...' if len(odd) > 3 else ''}: not what a {kind.__name__} takes" if odd else ""


def _usual(kind: type[Net]) -> dict[str, object]:
    if issubclass(kind, diffusers.ModelMixin):
        parameters = inspect.signature(kind.__init__).parameters.values()
        return {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}
    return {name: value for name, value in kind.config_class().to_dict().items() if not name.startswith("_")}


def _bounded(name: str, value: Any) -> bool:
    """Is it a number that a net can have, or none at all? What is multiplied with or divided by is one, and not 0."""
    if isinstance(value, list):
        return all(_bounded(name, each) for each in value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if name.endswith("_factor") and value is not None:
        return is_number and (value != 0 or name == "shift_factor")
    return not is_number or abs(value) <= next((most for part, most in LIMITS.items() if part in name), MOST)


def _alike(value: object, usual: object) -> bool:
    """Of one kind? What may be one value for all blocks may be a list of them, and anything may be left open."""
    if value is None or usual is None:
        return not isinstance(value, float) or math.isfinite(value)
    if isinstance(value, list):
        first = next(iter(usual), None) if isinstance(usual, list | tuple) else usual
        if not value:
            return usual in ([], ())
        return not isinstance(usual, str | dict | float) and all(_alike(each, first) for each in value)
    if isinstance(usual, list | tuple):
        return False
    if isinstance(usual, bool | str | dict):
        return isinstance(value, type(usual))
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
