"""Options: one frozen record a verb. The command line, the recipe file and the help text follow from its fields."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tenshot.core.errors import Fault, Refusal, refuse_if
from tenshot.core.hub_names import HubName, Kind
from tenshot.core.json_types import Schema
from tenshot.core.option_markers import Asked, Computes, Elsewhere, Mark, There, marked
from tenshot.core.option_text import brief, choices_of, form, inline, limits, spell, words_of
from tenshot.core.recipes import RECIPE, Recipe, Say
from tenshot.core.shipped import spelled


class Options(BaseModel):
    """Base of every options record. Unknown names, wrong types and values out of range are all refused together."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    words: ClassVar[tuple[str, ...]] = ()  #: options that may be given without their names, in this order
    also: ClassVar[Mapping[str, str]] = {}  #: what other programs call an option -> its name here
    elsewhere: ClassVar[Mapping[str, Elsewhere]] = {}  #: options that only other programs have
    recipes: ClassVar[Mapping[str, Recipe]] = {"recipe": RECIPE}  #: files of options, by the option that names them
    half_serves: ClassVar[bool] = False  #: is fetching weights in float16 enough, where the hub has both?

    def faults(self) -> Iterator[Fault]:
        """What can be told from the options alone: those that do not go together."""
        return iter(())

    def obstacles(self) -> Iterator[Fault]:
        """What is in the way of the result: told with what the files hold, or beside other faults of the words."""
        return iter(())

    def contents(self, wrong: Container[str] = ()) -> Iterator[Fault]:
        """What is wrong in folders that are looked at as other options say; told like `obstacles`.

        wrong: the names of options that are not to be trusted.
        """
        return iter(())

    def named_within(self) -> Iterator[tuple[str, HubName, Kind]]:
        """What values name of the hub that are no such names themselves: which option's, and what it is to be."""
        return iter(())

    def notes(self) -> Iterator[str]:
        """What whoever chose these options should know beforehand."""
        return iter(())

    def next_commands(self) -> Sequence[str]:
        """The commands that one types next, once this is done."""
        return ()

    @property
    def sources(self) -> list[Path]:
        """Every file and folder that is to be read."""
        fields = type(self).model_fields
        found = (each for name, field in fields.items() for each in marked(field, getattr(self, name), There))
        return [Path(mark.path(value)) for mark, value in found if mark.path(value)]

    @property
    def home(self) -> Path | None:
        """The folder of a long job, where its log lies; None: it is not that long."""
        return getattr(self, "output_dir", None)


Record = TypeVar("Record", bound=Options)

MISSING: object = object()  #: the default of an option that has none


@dataclass(frozen=True)
class Entry:
    """One option, as the command line, a refusal and the help text see it. schema: its JSON schema, nothing referred.

    section: the record that first named it; an option of the verb itself and one it shares have different sections.
    """

    name: str
    schema: Schema
    default: object
    section: type[Options]

    @property
    def needed(self) -> bool:
        return self.default is MISSING

    @property
    def description(self) -> str:
        return str(self.schema.get("description", ""))

    @cached_property
    def alternatives(self) -> list[Schema]:
        found: list[Schema] = self.schema.get("anyOf", [self.schema])
        return found

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
        return [str(choice) for part in self._parts for choice in choices_of(part)]

    @property
    def _parts(self) -> list[Schema]:
        """What it takes, and what is in it where it takes several."""
        inner = ("items", "additionalProperties")
        return [part for each in self.alternatives for part in (each, *(each[name] for name in inner if name in each))]

    @property
    def form(self) -> str:
        """What it takes, in words: "a whole number from 1, or null"."""
        return ", or ".join(map(form, self.alternatives))

    @property
    def limits(self) -> str:
        """What narrows its type: "from 64, a multiple of 8"; empty where nothing does."""
        return "; ".join(filter(None, map(limits, self._parts)))

    def read(self, word: str) -> str | None:
        """A word of the command line as a value; `null` and `none` mean no value where that is allowed."""
        nothing = "null" in self.kinds and word.lower() in ("null", "none") and word not in self.choices
        return None if nothing else word


@cache
def entries(kind: type[Options]) -> dict[str, Entry]:
    """Every option of `kind` by name, in the record's order."""
    schema = kind.model_json_schema()
    properties = inline(schema["properties"], schema.get("$defs", {})) if kind.model_fields else {}
    return {
        name: Entry(
            name,
            properties[name],
            MISSING if field.is_required() else field.get_default(call_default_factory=True),
            next(base for base in reversed(kind.__mro__) if name in getattr(base, "model_fields", ())),
        )
        for name, field in kind.model_fields.items()
    }


def resolve(kind: type[Record], given: Mapping[str, object], places: Mapping[str, str] | None = None) -> Record:
    """Validate `given` (names with dashes or underscores) as a whole. Raises Refusal with every fault.

    places: where a value was found, by name, if not on the command line; refusals say it.
    """
    likely, faults, _ = _resolved(kind, {_named(kind, name): value for name, value in given.items()}, places or {})
    refuse_if(faults)
    return likely[0]


def _resolved(
    kind: type[Record], given: Mapping[str, object], places: Mapping[str, str]
) -> tuple[list[Record], list[Fault], set[str]]:
    """The options that `given` makes; what is wrong; the names of the options that are wrong.

    Where some are wrong or missing, the options are as they might be: once for each set of stand-ins, as far as any
    make options.
    """
    known = entries(kind)
    unspeakable = {
        name: fault for name, value in given.items() for fault in _unspeakable(known.get(name), name, value, places)
    }
    try:
        options = kind.model_validate({name: value for name, value in given.items() if name not in unspeakable})
        return [options], [*unspeakable.values()], {*unspeakable}
    except ValidationError as error:
        # A union reports each of its types; the person gave one value.
        found = {(e["loc"][:1], repr(e["input"]) if e["loc"] else e["msg"]): e for e in error.errors()}
    wrong = {str(loc[0]) for loc, _ in found if loc} | {*unspeakable}
    faults = [*unspeakable.values()]
    faults += [_fault(known, each, places) for each in found.values() if not unspeakable.keys() & set(each["loc"])]
    right = {name: value for name, value in given.items() if name not in wrong}
    likely = []
    needed = [entry for name, entry in known.items() if entry.needed and name not in right]
    with suppress(ValidationError):
        for values in (["to be given 0"], ["to be given 0", "to be given 1"]):
            stand_ins = {entry.name: values if entry.many else values[-1] for entry in needed}
            likely.append(kind.model_validate({**stand_ins, **right}))
    return likely, faults, wrong


def gather(kind: type[Record], words: Sequence[str], say: Say = lambda text: None) -> Record:
    """The options that a command line spells, over those of the recipe it may name with --recipe.

    say: hears what is to be known of options that are taken without effect. Raises Refusal with every fault of the
    words, the recipe, the values and the files that they name together.
    """
    alone = min(next((place for place, word in enumerate(words) if word.startswith("--")), len(words)), len(kind.words))
    first = [f"--{name}={word}" for name, word in zip(kind.words, words[:alone], strict=False)]
    given, faults = _parse(kind, [*first, *words[alone:]])
    recipe: dict[str, object] = {}
    places: dict[str, str] = {}
    unread: set[str] = set()
    for source, path in [(each, path) for name, each in kind.recipes.items() for path in given.pop(name, [])]:
        try:
            found = {_named(kind, name): value for name, value in source.read(Path(path), say).items()}
        except Refusal as refusal:
            faults += refusal.faults
            unread |= {f"--{each}" for each in source.gives}
            continue
        given |= {name: [*_listed(given.get(name)), *_listed(found.pop(name))] for name in source.joins}
        recipe |= found
        places |= {name: f"{path}: {name}" for name in found.keys() - given.keys()}
    chosen = {**recipe, **given}
    notes = []
    for name in [name for name in chosen if name in kind.elsewhere and name not in kind.model_fields]:
        there = kind.elsewhere[name].take(places.get(name, f"--{name}"), chosen.pop(name), chosen)
        if isinstance(there, Fault):
            faults.append(there)
        else:
            notes.append(there)
    likely, wrong, names = _resolved(kind, chosen, places)
    told = {fault.where for fault in faults} | (unread - {f"--{name}" for name in chosen})
    faults += [each for each in wrong if each.where not in told]
    faults += _held([each.faults() for each in likely], names)
    right = [name for name in kind.model_fields if name in chosen and name not in names]
    faults += _told_of(kind, right, chosen, There, There.faults)
    if faults:
        faults += _held([each.obstacles() for each in likely], names)
        faults += _told_of(kind, right, chosen, Computes, Computes.faults)
        faults += _told_of(kind, right, chosen, There, There.contents)
        faults += _held([each.contents(names) for each in likely[:1]], names)
    refuse_if(faults)
    (options,) = likely
    for note in (*notes, *options.notes()):
        say(note)
    return options


def _listed(value: object) -> list[object]:
    return [*value] if isinstance(value, list) else [] if value is None else [value]


def _unspeakable(entry: Entry | None, name: str, value: object, places: Mapping[str, str]) -> Iterator[Fault]:
    """Text that neither files nor other programs could be told."""
    unfit = "[\ud800-\udfff\0]" if entry and "path" in entry.form else "[\ud800-\udfff]"
    texts = [value, *value, *value.values()] if isinstance(value, Mapping) else value
    for text in texts if isinstance(texts, list | tuple) else [texts]:
        if isinstance(text, str) and re.search(unfit, text):
            where = places.get(name, f"--{name}")
            yield Fault(where, f"{text!a} is no text", "text in UTF-8", "rename the file, or type the text anew")
            return


def _held(told: Sequence[Iterable[Fault]], wrong: Container[str]) -> list[Fault]:
    """The faults that hold whatever will stand in place of the options that are wrong or missing."""
    first, *others = [list(each) for each in told] or [[]]
    held = [each for each in first if all(each in other for other in others)]
    return [each for each in held if each.where.removeprefix("--") not in wrong]


def _told_of(
    kind: type[Options], names: Iterable[str], chosen: Mapping[str, object], mark: type[Mark], ask: Asked[Mark]
) -> list[Fault]:
    """What marks have against the values of these options."""
    fields = kind.model_fields
    return [
        fault
        for name in names
        for each, value in marked(fields[name], chosen[name], mark)
        for fault in ask(each, f"--{name}", value, fields[name].description or "")
    ]


def _named(kind: type[Options], name: str) -> str:
    """An option's name here, however it was written."""
    plain = name.replace("-", "_")
    return kind.also.get(plain, plain)


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
        elif name in kind.recipes:
            empty = Fault(
                f"--{name}", "is given no value", f"the path of a {kind.recipes[name].kind}", f"--{name} FILE"
            )
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
            groups.append((name.replace("-", "_"), [value] if equals else []))
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


def _fault(known: Mapping[str, Entry], error: Schema, places: Mapping[str, str]) -> Fault:
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
    found = brief(error["input"])
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
    words = [spelled(spell(getattr(options, name))) for name in options.words]
    for name, entry in entries(type(options)).items():
        value = getattr(options, name)
        if name in (*leave, *options.words) or value == entry.default:
            continue
        words += [f"--{name}", *map(spelled, words_of(value))]
    return words
