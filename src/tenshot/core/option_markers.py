"""What is marked about options beside their types: that a file must be there, that only other programs have one."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from functools import partial
from os.path import exists, isdir, isfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from tenshot.core import gpus, hub_names
from tenshot.core.errors import Fault, faults_of
from tenshot.core.hub_names import HubName, Kind

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

Mark = TypeVar("Mark")
Asked = Callable[[Mark, str, str, str], Iterator[Fault]]  #: of an option's name, its value, and what that is for


@dataclass(frozen=True)
class Elsewhere:
    """An option that commands of other programs have. why: why nothing is lost without it. do: what does the same here.

    fine: the values that need nothing here; empty: any. One with no `why` is never fine, nor one without the option
    `beside` it, where that is named.
    """

    why: str = ""
    do: str = ""
    fine: tuple[str, ...] = ()
    beside: str = ""

    def take(self, where: str, values: Any, others: Container[str]) -> str | Fault:
        """What is to be said where the option is ignored; a fault where that would change the result."""
        given = [str(each) for each in (values if isinstance(values, list | tuple) else [values])]
        if given in (["False"], ["false"], ["None"], ["null"]):
            return f"{where} {given[0]}: nothing to do here"
        in_company = not self.beside or self.beside in others
        if self.why and in_company and (not self.fine or all(each in self.fine for each in given)):
            return f"{where} is not needed here: {self.why}"
        found = f"{' '.join(given)}: there is no such option here".removeprefix(": ")
        fits = f"{' or '.join(self.fine)}: {self.why}" if self.fine and self.why else "an option listed under --help"
        return Fault(where, found, fits, self.do or "leave it out")


@dataclass(frozen=True)
class There:
    """Marks an option whose value must be there: "file", "folder", "file or folder", or "model".

    besides: words that are no paths. strength: a number may follow, as in FILE=0.8. reader: opens what is there, and
    raises Refusal where it is of no use. hub: what it may be of the Hugging Face hub; None: nothing. asker: of a name
    there, what is wanted of it and who named it; raises Refusal where that cannot be had. hint: of a value that nothing
    is called like, how it was probably meant; empty: no idea.
    """

    kind: str
    besides: tuple[str, ...] = ()
    strength: bool = False
    reader: Callable[[Path], object] | None = None
    hub: Kind | None = None
    asker: Callable[[HubName, Kind, str], object] | None = None
    hint: Callable[[str], str] = lambda value: ""

    def path(self, value: str) -> str:
        """The path in a value; empty where it is a word."""
        bare = value if not self.strength or exists(value) else value.rpartition("=")[0] or value
        return "" if bare in self.besides or (self.kind == "model" and bare == "pocket") else bare

    def on_hub(self, value: str) -> HubName | None:
        """The name of the hub in a value, where nothing here is called so."""
        path = self.path(value)
        wanted = self.hub and path and not exists(path) and not self.hint(value)
        return hub_names.parse(path) if wanted else None

    def faults(self, option: str, value: str, description: str) -> Iterator[Fault]:
        path = self.path(value)
        if not value:
            yield Fault(option, "an empty name", description, f"write its name, or leave {option} out")
        if not path:
            return
        if name := self.on_hub(value):
            odd = Fault(option, f"{path}: {name.odd}", hub_names.FORMS, "correct it")
            yield from [odd] if name.odd else []
            return
        is_other = {"file": isdir, "folder": isfile}.get(self.kind)
        do = f"correct the path, or name {hub_names.FORMS}" if self.hub else "correct the path"
        if not exists(path):
            kind = "file or folder" if self.kind == "model" else self.kind
            yield Fault(option, f"{path}: no such {kind}", description, self.hint(value) or do)
        elif is_other and is_other(path):
            kind = "a folder" if self.kind == "file" else "a file"
            yield Fault(option, f"{path} is {kind}", f"a {self.kind}: {description}", do)

    def contents(self, option: str, value: str, description: str) -> Iterator[Fault]:
        """What is wrong within it, where it is there, or can be asked for."""
        path, name = self.path(value), self.on_hub(value)
        if self.hub and self.asker and name and not name.odd:
            yield from faults_of(partial(self.asker, name, self.hub, option))
        elif self.reader and path and exists(path):
            yield from faults_of(partial(self.reader, Path(path)))


@dataclass(frozen=True)
class Computes:
    """Marks an option whose value is a device that has to be here."""

    def faults(self, option: str, value: str, description: str) -> Iterator[Fault]:
        if why := gpus.hurdle(value):
            do = "leave it out: a GPU is taken where there is one"
            yield Fault(option, f"{value!r} cannot be used: {why}", description, do)


def marked(field: FieldInfo, value: object, kind: type[Mark]) -> Iterator[tuple[Mark, str]]:
    """The texts in an option's value that bear a mark of this kind, each with it."""
    for mark in (*field.metadata, *_marks(field.annotation)):
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(mark, kind) and isinstance(each, str | Path):
                yield mark, str(each)


def _marks(annotation: Any) -> Iterator[Any]:
    """What is marked about the parts of a type: about Path in list[Annotated[Path, ...]]."""
    yield from getattr(annotation, "__metadata__", ())
    for part in get_args(annotation):
        yield from _marks(part)
