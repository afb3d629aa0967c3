"""Tenshot: ten shots in, a fast Stable Diffusion model out."""

__version__ = "0.1.0"


def load(place, **settings):  # without typing, whose import takes a moment in which Ctrl-C may come
    """Open a model, compiled or not: `tenshot.runtime.compiled_model.load`."""
    from importlib import import_module

    return import_module("tenshot.runtime.compiled_model").load(place, **settings)
