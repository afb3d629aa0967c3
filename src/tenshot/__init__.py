"""Tenshot: ten shots in, a fast Stable Diffusion model out."""

__version__ = "0.1.0"
TYPE_CHECKING = False  # as typing has it, whose import takes a moment in which Ctrl-C may come
if TYPE_CHECKING:
    from typing import Any


def load(place: "Any", **settings: "Any") -> "Any":
    """Open a model, compiled or not: `tenshot.runtime.compiled_model.load`."""
    return __import__("tenshot.runtime.compiled_model", fromlist=["load"]).load(place, **settings)
