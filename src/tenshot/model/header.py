"""What our own files say beside their tensors: what the original layout cannot say."""

from __future__ import annotations

from typing import Any

from tenshot.core.errors import Fault, Refusal
from tenshot.io import tensor_files
from tenshot.io.tensor_files import Container

TOLD = "tenshot"  # the metadata's key, with JSON behind it


def read(source: Container) -> dict[str, Any]:
    """What our own files say beside their tensors. Raises Refusal where that is damaged."""
    text = source.metadata.get(TOLD) or source.rest.get(TOLD) or "{}"
    found = tensor_files.json_metadata({TOLD: text}, TOLD)
    mappings = [found, *(found.get(name, {}) for name in ("configs", "schedule", "tokenizers"))]
    mappings += [each for outer in mappings[1::2] if isinstance(outer, dict) for each in outer.values()]
    if (text != "{}" and not found) or not all(isinstance(each, dict) for each in mappings):
        do = "copy it again, or name the folder of a model like it: --config FOLDER"
        raise Refusal(Fault(str(source.place), f"{TOLD} in its header is damaged", "what tenshot wrote there", do))
    return found
