"""Values and JSON schemas in the words of a command line."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from tenshot.core.json_types import Schema


def spell(value: object) -> str:
    """A value as a person would type it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return " ".join(map(spell, value)) or "nothing"
    if isinstance(value, Mapping):
        return " ".join(f"{key}={spell(each)}" for key, each in value.items()) or "nothing"
    short = f"{value:g}" if isinstance(value, float) else ""
    return short if short and float(short) == value else str(value) or "''"


def command(*words: object) -> str:
    """`tenshot WORDS`, as a shell takes it; a word in capitals is for the reader to fill in."""
    return shlex.join(["tenshot", *map(str, words)])


def words_of(value: object) -> list[str]:
    """What stands after an option on the command line."""
    if isinstance(value, Mapping):
        return [f"{key}={spell(each)}" for key, each in value.items()]
    if isinstance(value, list | tuple):
        return [spell(each) if each != "" else "" for each in value]
    return [] if value is True else [spell(value) if value != "" else ""]


def brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


_WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "object": "values NAME=VALUE",
    "null": "null",
}
_BOUNDS = {
    "minimum": "from {}",
    "exclusiveMinimum": "above {}",
    "maximum": "to {}",
    "exclusiveMaximum": "below {}",
    "multipleOf": "a multiple of {}",
    "minLength": "of length {} or more",
    "maxLength": "of length {} or less",
    "minItems": "at least {}",
    "maxItems": "at most {}",
}
_SPECIAL = {("minLength", 1): "not empty", ("minItems", 1): "at least one"}


def form(schema: Schema) -> str:
    kind = schema.get("type", "")
    if kind == "array":
        items = schema.get("items", {})
        word = f"values, each {', or '.join(map(form, items.get('anyOf', [items])))}"
    elif kind == "object" and "additionalProperties" in schema:
        word = f"values NAME=VALUE, each {form(schema['additionalProperties'])}"
    elif choices_of(schema):
        return limits(schema)
    else:
        word = "a path" if "path" in schema.get("format", "") else _WORDS.get(kind, "a value")
    comma = "," if kind in ("string", "array") else ""
    return f"{word}{comma} {limits(schema)}".rstrip(", ")


def limits(schema: Schema) -> str:
    choices = [str(choice) for choice in choices_of(schema)]
    if choices:
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    bounds = [(name, schema[name]) for name in _BOUNDS if name in schema]
    return ", ".join(_SPECIAL.get(bound, _BOUNDS[bound[0]]).format(spell(bound[1])) for bound in bounds)


def choices_of(schema: Schema) -> list[object]:
    return [schema["const"]] if "const" in schema else schema.get("enum", [])


def inline(node: Any, defs: Schema) -> Any:
    """A JSON schema with every reference replaced by what it refers to."""
    if isinstance(node, list):
        return [inline(each, defs) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        node = {**defs[node["$ref"].rsplit("/", 1)[1]], **{key: node[key] for key in node.keys() - {"$ref"}}}
    return {key: inline(value, defs) for key, value in node.items()}
