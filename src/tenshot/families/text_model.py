"""`text_model.`, which versions of transformers put before the names of a CLIP text encoder, or leave out.

Here names go without; files have it, as older versions want it.
"""

from __future__ import annotations

PREFIX = "text_model."


def bare(name: str) -> str:
    """As it is called here."""
    return name.removeprefix(PREFIX)


def stored(name: str) -> str:
    """As files call it: the projection stands beside the text model."""
    return bare(name) if bare(name).startswith("text_projection") else f"{PREFIX}{bare(name)}"
