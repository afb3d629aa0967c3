"""Types of what comes from JSON and goes to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

#: A configuration as diffusers, transformers or peft write it: every class has its own keys, and checks them itself.
Config: TypeAlias = Mapping[str, Any]
#: A JSON schema, nothing referred to.
Schema: TypeAlias = Mapping[str, Any]
