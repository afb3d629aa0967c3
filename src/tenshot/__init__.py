"""Tenshot: ten shots in, a fast Stable Diffusion model out."""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"


def load(place: Any, **settings: Any) -> Any:
    """Open a model, compiled or not: `tenshot.runtime.compiled_model.load`."""
    return import_module("tenshot.runtime.compiled_model").load(place, **settings)
