"""Options: one frozen record a verb. The command line, the recipe file and the help text follow from its fields."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from tenshot.errors import Fault, Refusal


class Options(BaseModel):
    """Base of every options record. Unknown names, wrong types and values out of range are all refused together."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


O = TypeVar("O", bound=Options)


def resolve(kind: type[O], given: Mapping[str, Any]) -> O:
    """Validate `given` (names with dashes or underscores) as a whole. Raises Refusal with every fault."""
    try:
        return kind.model_validate({name.replace("-", "_"): value for name, value in given.items()})
    except ValidationError as error:
        raise Refusal(*(_fault(kind, each) for each in error.errors())) from None


def read_recipe(path: Path) -> dict[str, Any]:
    """The mapping in a YAML recipe. Raises Refusal where the file is missing or is no mapping."""
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refusal(Fault(str(path), f"cannot be read: {error.strerror}", "a YAML recipe")) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Refusal(Fault(str(path), f"not YAML: {error}", "a YAML recipe: one `option: value` a line")) from None
    if not isinstance(recipe, dict) or not all(isinstance(name, str) for name in recipe):
        raise Refusal(Fault(str(path), "holds no `option: value` lines", "a YAML recipe"))
    return recipe


def as_recipe(options: Options) -> str:
    """The YAML recipe that reproduces `options`."""
    return yaml.safe_dump(options.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _fault(kind: type[Options], error: Mapping[str, Any]) -> Fault:
    name = ".".join(map(str, error["loc"])) or kind.__name__
    option = f"--{name}" if error["loc"] else "options"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, kind.model_fields, 3)
        fits = " or ".join(f"--{each}" for each in near) or "an option listed under --help"
        return Fault(option, "no such option", fits, "correct the name, or leave it out")
    found = "is needed but was not given" if error["type"] == "missing" else f"{error['input']!r}: {error['msg']}"
    field = kind.model_fields.get(name)
    return Fault(option, found, (field.description or "") if field else "")
