"""Recipes: YAML files of options. What comes from outside is bounded in size, depth and meaning before it is read."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import yaml
from pydantic import BaseModel

from tenshot.core.errors import Fault, Refusal

Say: TypeAlias = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """A file that options are read from.

    read: (file, say) -> their values; say hears what is to be known; raises Refusal. kind: what file it is, in a word.
    help: in the help text. gives: the options that it always has. joins: lists that go on with what it says, as if
    the command line said it.
    """

    read: Callable[[Path, Say], Mapping[str, object]]
    kind: str
    help: str
    gives: tuple[str, ...] = ()
    joins: tuple[str, ...] = ()


SIZE = 100_000  # bytes; ours have three thousand
DEPTH = 8  # values within values
FITS = "a YAML recipe: one `option: value` a line"


def read_recipe(path: Path) -> dict[str, object]:
    """The mapping in a YAML recipe. Raises Refusal where the file is missing or is no mapping."""
    try:
        recipe = yaml.load(_text(path), _Loader)
    except yaml.YAMLError as error:
        do = "correct that place; quote text that has : or # in it"
        raise Refusal(Fault(str(path), f"not YAML: {error}", FITS, do)) from None
    if not isinstance(recipe, dict) or not all(isinstance(name, str) for name in recipe):
        do = "write one option a line, as in seed: 1"
        raise Refusal(Fault(str(path), "holds no `option: value` lines", "a YAML recipe", do))
    return recipe


def as_recipe(options: BaseModel) -> str:
    """The YAML recipe that reproduces `options`."""
    return yaml.safe_dump(options.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


RECIPE = Recipe(lambda path, _: read_recipe(path), "YAML recipe", "YAML file of options; the command line wins.")


def _text(path: Path) -> str:
    do = "correct the path after --recipe"
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            kind = "a folder" if path.is_dir() else "a pipe or a device"
            raise Refusal(Fault(str(path), f"is {kind}", "a file: a YAML recipe", do))
        with path.open("rb") as file:
            content = file.read(SIZE + 1)
        if len(content) > SIZE:
            found = f"has {path.stat().st_size:,} bytes"
            raise Refusal(Fault(str(path), found, f"a YAML recipe of {SIZE:,} bytes at most", do))
        return content.decode("utf-8-sig")
    except OSError as error:
        raise Refusal(Fault(str(path), f"cannot be read: {error.strerror}", "a YAML recipe", do)) from None
    except UnicodeDecodeError as error:
        found = f"not UTF-8: {error.reason} at byte {error.start}"
        raise Refusal(Fault(str(path), found, FITS, "save it again with UTF-8 encoding")) from None


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain values: `no` is the word no (mixed_precision: no), 5e-6 is a number, 12:30 and 007 are text.

    No tags, no aliases, no name twice, nothing nested deeply.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {}  # type: ignore[misc]  # its stub has no ClassVar
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # of yaml's stubs
        if isinstance(event, yaml.AliasEvent):
            raise _wrong("an alias; write the value itself", event)
        if getattr(event, "tag", None):
            raise _wrong(f"the tag {event.tag}; write the value without it, text in quotation marks", event)
        if self.depth >= DEPTH:
            raise _wrong(f"values within values, more than {DEPTH} deep", event)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[object] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _wrong("a name that is no word", key)
            if key.value in seen:
                raise _wrong(f"{key.value!r} a second time", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > 100:
            raise _wrong(f"a number of {len(node.value)} digits", node)
        return super().construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def _wrong(problem: str, at: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)
