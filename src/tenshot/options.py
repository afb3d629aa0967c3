"""Options: one frozen record a verb. The command line, the recipe file and the help text follow from its fields."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from tenshot.errors import Fault, Refusal, refuse_if


class Options(BaseModel):
    """Base of every options record. Unknown names, wrong types and values out of range are all refused together."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    words: ClassVar[tuple[str, ...]] = ()  #: options that may be given without their names, in this order
    also: ClassVar[Mapping[str, str]] = {}  #: what other programs call an option -> its name here

    @property
    def home(self) -> Path | None:
        """The folder of a long job, where its log lies; None: it is not that long."""
        return getattr(self, "output_dir", None)


Record = TypeVar("Record", bound=Options)

MISSING: Any = object()  #: the default of an option that has none


@dataclass(frozen=True)
class Entry:
    """One option, as the command line, a refusal and the help text see it. schema: its JSON schema, nothing referred.

    section: the record that first named it; an option of the verb itself and one it shares have different sections.
    """

    name: str
    schema: Mapping[str, Any]
    default: Any
    section: type[Options]

    @property
    def description(self) -> str:
        return self.schema.get("description", "")

    @cached_property
    def alternatives(self) -> list[Mapping[str, Any]]:
        return self.schema.get("anyOf", [self.schema])

    @cached_property
    def kinds(self) -> set[str]:
        """JSON's names of the types it takes."""
        return {each.get("type", "") for each in self.alternatives}

    @property
    def flag(self) -> bool:
        return "boolean" in self.kinds and self.kinds <= {"boolean", "null"}

    @property
    def many(self) -> bool:
        return "array" in self.kinds

    @property
    def mapping(self) -> bool:
        return "object" in self.kinds

    @cached_property
    def choices(self) -> list[str]:
        parts = [part for each in self.alternatives for part in (each, each.get("items", {}))]
        return [str(choice) for part in parts for choice in _choices(part)]

    @property
    def form(self) -> str:
        """What it takes, in words: "a whole number from 1, or null"."""
        return ", or ".join(map(_form, self.alternatives))

    @property
    def limits(self) -> str:
        """What narrows its type: "from 64, a multiple of 8"; empty where nothing does."""
        parts = [part for each in self.alternatives for part in (each, each.get("items", {}))]
        return "; ".join(filter(None, map(_limits, parts)))

    def read(self, word: str) -> str | None:
        """A word of the command line as a value; `null` and `none` mean no value where that is allowed."""
        nothing = "null" in self.kinds and word.lower() in ("null", "none") and word not in self.choices
        return None if nothing else word


def entries(kind: type[Options]) -> dict[str, Entry]:
    """Every option of `kind` by name, in the record's order."""
    schema = kind.model_json_schema()
    properties = _inline(schema["properties"], schema.get("$defs", {})) if kind.model_fields else {}
    return {
        name: Entry(
            name,
            properties[name],
            MISSING if field.is_required() else field.get_default(call_default_factory=True),
            next(base for base in reversed(kind.__mro__) if name in getattr(base, "model_fields", ())),
        )
        for name, field in kind.model_fields.items()
    }


def resolve(kind: type[Record], given: Mapping[str, Any], places: Mapping[str, str] | None = None) -> Record:
    """Validate `given` (names with dashes or underscores) as a whole. Raises Refusal with every fault.

    places: where a value was found, by name, if not on the command line; refusals say it.
    """
    places = places or {}
    try:
        return kind.model_validate({_named(kind, name): value for name, value in given.items()})
    except ValidationError as error:
        known = entries(kind)
        # A union reports each of its types; the person gave one value.
        faults = {(e["loc"][:1], repr(e["input"]) if e["loc"] else e["msg"]): e for e in error.errors()}
        raise Refusal(*(_fault(known, each, places) for each in faults.values())) from None


def gather(kind: type[Record], words: Sequence[str]) -> Record:
    """The options that a command line spells, over those of the recipe it may name with --recipe.

    Raises Refusal with every fault of the words, the recipe and the values together.
    """
    given, faults = _parse(kind, _with_names(kind.words, words))
    recipe: dict[str, Any] = {}
    places: dict[str, str] = {}
    for path in given.pop("recipe", []):
        try:
            found = {_named(kind, name): value for name, value in read_recipe(Path(path)).items()}
        except Refusal as refusal:
            faults += refusal.faults
            continue
        recipe |= found
        places |= {name: f"{path}: {name}" for name in found.keys() - given.keys()}
    try:
        options = resolve(kind, {**recipe, **given}, places)
    except Refusal as refusal:
        faults += [each for each in refusal.faults if each.where not in {fault.where for fault in faults}]
    refuse_if(faults)
    return options


def read_recipe(path: Path) -> dict[str, Any]:
    """The mapping in a YAML recipe. Raises Refusal where the file is missing or is no mapping."""
    try:
        recipe = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        found = f"cannot be read: {error.strerror}"
        raise Refusal(Fault(str(path), found, "a YAML recipe", "correct the path after --recipe")) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        fits, do = "a YAML recipe: one `option: value` a line", "correct that place; quote text that has : or # in it"
        raise Refusal(Fault(str(path), f"not YAML: {error}", fits, do)) from None
    if not isinstance(recipe, dict) or not all(isinstance(name, str) for name in recipe):
        do = "write one option a line, as in seed: 1"
        raise Refusal(Fault(str(path), "holds no `option: value` lines", "a YAML recipe", do))
    return recipe


def as_recipe(options: Options) -> str:
    """The YAML recipe that reproduces `options`."""
    return yaml.safe_dump(options.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain values: `no` is the word no (mixed_precision: no), 5e-6 is a number, 12:30 and 007 are text."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {}  # type: ignore[misc]  # its stub has no ClassVar


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def _plain(name: str) -> str:
    return name.replace("-", "_")


def _named(kind: type[Options], name: str) -> str:
    """An option's name here, however it was written."""
    return kind.also.get(_plain(name), _plain(name))


def _with_names(order: Sequence[str], words: Sequence[str]) -> list[str]:
    """The words with the first ones, which stand alone, as options."""
    alone = next((place for place, word in enumerate(words) if word.startswith("--")), len(words))
    count = min(alone, len(order))
    return [f"--{name}={word}" for name, word in zip(order, words[:count], strict=False)] + list(words[count:])


def _parse(kind: type[Options], words: Sequence[str]) -> tuple[dict[str, Any], list[Fault]]:
    """Values by name, and what is wrong with the words themselves. An unknown name keeps its place for `resolve`."""
    known = entries(kind)
    given: dict[str, Any] = {}
    faults: list[Fault] = []
    for written, values in _grouped(words):
        name = _named(kind, written)
        entry = known.get(name)
        denied = known.get(name.removeprefix("no_")) if name.startswith("no_") else None
        if name == "":
            do = "write the option's name before it; --help lists them"
            faults.append(Fault(" ".join(values), "belongs to no option", "--option value", do))
        elif name == "recipe":
            empty = Fault("--recipe", "is given no value", "the path of a YAML recipe", "--recipe FILE")
            faults += [] if values else [empty]
            given[name] = [*given.get(name, []), *values]
        elif entry is None and denied and denied.flag:
            given[denied.name] = False
            faults += [_stray(f"--no-{denied.name}", values, "no value")] if values else []
        elif entry is None:
            given[name] = values
        elif entry.flag and len(values) < 2:
            given[name] = entry.read(values[0]) if values else True
        elif not values:
            faults.append(Fault(f"--{name}", "is given no value", entry.form, _remedy(entry, "")))
        elif entry.many:
            given[name] = [*given.get(name, []), *values]
        elif entry.mapping:
            pairs = [value.partition("=") for value in values]
            given[name] = given.get(name, {}) | {key: value for key, sign, value in pairs if sign}
            faults += [_stray(f"--{name}", ["".join(p)], "NAME=VALUE") for p in pairs if not p[1]]
        else:
            given[name] = entry.read(values[0])
            faults += [_stray(f"--{name}", values, "one value")] if len(values) > 1 else []
    return given, faults


def _grouped(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each option's name and the words up to the next option; words before the first go by the name ""."""
    groups: list[tuple[str, list[str]]] = [("", [])]
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            groups.append((_plain(name), [value] if equals else []))
        else:
            groups[-1][1].append(word)
    return (group for group in groups if group != ("", []))


def _stray(option: str, values: Sequence[str], fits: str) -> Fault:
    text = " ".join(values)
    if fits == "NAME=VALUE":
        return Fault(option, text, fits, f"{option} {text}=VALUE")
    quoted = f"if it is one text, quote it: {option} {shlex.quote(text)}" if fits == "one value" else "leave it out"
    count = "1 value" if len(values) == 1 else f"{len(values)} values"
    return Fault(option, f"is given {count}: {shlex.join(values)}", fits, quoted)


def _fault(known: Mapping[str, Entry], error: Mapping[str, Any], places: Mapping[str, str]) -> Fault:
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return Fault("options", message)
    name = str(error["loc"][0])
    where = places.get(name, f"--{name}")
    entry = known.get(name)
    if entry is None:
        near = difflib.get_close_matches(name, [*known, "recipe"], 3) or [
            each for each in known if each.startswith(name)
        ]
        fits = " or ".join(f"--{each}" for each in near) or "an option listed under --help"
        return Fault(where, "no such option", fits, "correct the name, or leave it out")
    fits = f"{entry.form} ({entry.description})" if entry.description else entry.form
    if error["type"] == "missing":
        return Fault(
            where, "is needed but was not given", fits, f"add --{name} {'PATH' if 'path' in entry.form else 'VALUE'}"
        )
    found = _short(error["input"])
    if error["type"] in ("value_error", "assertion_error"):  # the record's own rule, in its own words
        return Fault(where, f"{found}: {message}", fits, _remedy(entry, str(error["input"])))
    return Fault(where, found, fits, _remedy(entry, str(error["input"])))


def _remedy(entry: Entry, found: str) -> str:
    near = difflib.get_close_matches(found.lower(), entry.choices, 1)
    if near:
        return f"did you mean {near[0]}?"
    do = "correct it" if found else "write one after it"
    return do if entry.default is MISSING else f"{do}, or leave it out for {spell(entry.default)}"


def as_words(options: Options, leave: Sequence[str] = ()) -> list[str]:
    """The command line that spells `options`: the verb's own words first, and what is not the default."""
    words = [spell(getattr(options, name)) for name in options.words]
    for name, entry in entries(type(options)).items():
        value = getattr(options, name)
        if name in (*leave, *options.words) or value == entry.default:
            continue
        words += [f"--{name}", *_words(value)]
    return words


def _words(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [f"{key}={spell(each)}" for key, each in value.items()]
    if isinstance(value, list | tuple):
        return [spell(each) for each in value]
    return [] if value is True else [spell(value)]


def spell(value: Any) -> str:
    """A value as a person would type it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return " ".join(map(spell, value)) or "nothing"
    if isinstance(value, Mapping):
        return " ".join(f"{key}={spell(each)}" for key, each in value.items()) or "nothing"
    short = f"{value:g}" if isinstance(value, float) else ""
    return short if short and float(short) == value else str(value) or "''"


def _short(value: Any) -> str:
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


def _form(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type", "")
    if kind == "array":
        items = schema.get("items", {})
        word = f"values, each {', or '.join(map(_form, items.get('anyOf', [items])))}"
    elif _choices(schema):
        return _limits(schema)
    else:
        word = "a path" if "path" in schema.get("format", "") else _WORDS.get(kind, "a value")
    comma = "," if kind in ("string", "array") else ""
    return f"{word}{comma} {_limits(schema)}".rstrip(", ")


def _limits(schema: Mapping[str, Any]) -> str:
    choices = [str(choice) for choice in _choices(schema)]
    if choices:
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    bounds = [(name, schema[name]) for name in _BOUNDS if name in schema]
    return ", ".join(_SPECIAL.get(bound, _BOUNDS[bound[0]]).format(spell(bound[1])) for bound in bounds)


def _choices(schema: Mapping[str, Any]) -> list[Any]:
    return [schema["const"]] if "const" in schema else schema.get("enum", [])


def _inline(node: Any, defs: Mapping[str, Any]) -> Any:
    """A JSON schema with every reference replaced by what it refers to."""
    if isinstance(node, list):
        return [_inline(each, defs) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        node = {**defs[node["$ref"].rsplit("/", 1)[1]], **{key: node[key] for key in node.keys() - {"$ref"}}}
    return {key: _inline(value, defs) for key, value in node.items()}
