"""Types of what comes from JSON and goes to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

#: A configuration as diffusers, transformers or peft write it: every class has its own keys, and checks them itself.
Config: TypeAlias = Mapping[str, Any]
#: A JSON schema, nothing referred to.
Schema: TypeAlias = Mapping[str, Any]


def key(name: str) -> str:
    """What a program calls a measure, a fact or a row: words_with_underscores, SI units spelled out."""
    spelled = re.sub(", s$", " seconds", re.sub(", GB$", " bytes", name))
    return re.sub(r"\W+", "_", spelled.lower()).strip("_") or "value"
