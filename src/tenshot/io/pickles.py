"""torch's pickles, opened without running anything in them.

Everything that a pickle would import is listed first. Of that, a few functions make tensors; of classes out of other
programs, as trainers leave them beside the weights, inert stand-ins take the place; what else there is, is refused.
"""

from __future__ import annotations

import pickle
import pickletools
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import torch

from tenshot.core.errors import Fault, Refusal

AGAIN = "copy or download it again"
SAFE = "do not open it; ask for a .safetensors file"
LARGER = 20  # times that the content of an archive may be larger than the archive; torch does not compress
DEPTH = 100  # of mappings within mappings
NAMES = 200_000  # of tensors and values; a large model has a few thousand
_ZIP = b"PK\x03\x04"
_PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_STORAGES = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
#: What makes tensors, and plain values: the real ones.
REAL = {
    "collections": {"OrderedDict"},
    "torch": {f"{kind}Storage" for kind in _STORAGES} | {"Size", "float32", "float16", "bfloat16", "float64", "int64"},
    "torch._utils": {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"},
    "torch.nn.modules.container": {"ParameterDict"},
    "torch.storage": {"UntypedStorage", "TypedStorage"},
    "builtins": {"set"},
    "__builtin__": {"set"},
}
#: What programs call while they are pickled: a stand-in answers, nothing of it is run.
INERT = {
    "torch": {"Tensor", "device", "dtype"},
    "torch.nn.parameter": {"Parameter"},
    "torch.serialization": {"_get_layout"},
    "collections": {"defaultdict", "Counter", "deque"},
    "numpy": {"dtype", "ndarray"},
    "numpy.core.multiarray": {"scalar", "_reconstruct"},
    "numpy._core.multiarray": {"scalar", "_reconstruct"},
    "copyreg": {"_reconstructor"},
    "copy_reg": {"_reconstructor"},
    "_codecs": {"encode"},
    "argparse": {"Namespace"},
    "datetime": {"datetime", "timedelta", "date", "timezone"},
    "functools": {"partial"},
    "pathlib": {"Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"},
    "builtins": {"object", "dict", "list", "tuple", "int", "float", "str", "bool", "bytearray", "frozenset", "slice"},
    "__builtin__": {"object", "dict", "list", "tuple", "int", "long", "float", "str", "unicode", "bool", "frozenset"},
}
_OURS = {"torch", "numpy", *sys.stdlib_module_names, "__builtin__", "copy_reg"}


def is_one(start: bytes) -> bool:
    """Does a file that starts like this hold pickles?"""
    return start.startswith(_ZIP) or start[:2] in _PICKLE


def load(path: Path) -> dict[str, object]:
    """Tensors and plain values in a file, by their names joined with dots; a `state_dict` stands for the whole file.

    Raises Refusal where the file is unsafe or damaged.
    """
    _check_archive(path)
    strange = [call for kind, call in listed(path) if kind == "call" and not _known(call)]
    if strange:
        raise Refusal(_would_call(path, ", ".join(sorted(set(strange))[:4])))
    mapped = _starts(path).startswith(_ZIP)
    try:
        value = torch.load(path, "cpu", _DOOR, weights_only=False, mmap=mapped)
        _check(path, value)
        named = dict(islice(_flat(path, value), NAMES + 1))
        if len(named) > NAMES:
            raise Refusal(Fault(str(path), f"more than {NAMES:,} names", "plain tensors", SAFE))
    except Refusal:
        raise
    except _Called as call:
        raise Refusal(_would_call(path, str(call))) from None
    except Exception as error:  # damaged pickles fail in every way there is
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        found = f"cannot be opened as plain tensors: {first[:200]}"
        raise Refusal(Fault(str(path), found, "a whole file", AGAIN)) from None
    return named


def listed(path: Path) -> list[tuple[str, str]]:
    """("call", module.name) of everything that the pickles in a file would import, and every ("text", ...) in them."""
    whole = _starts(path).startswith(_ZIP)
    try:
        with ExitStack() as stack:
            if not whole:
                return list(_imports(stack.enter_context(path.open("rb")), whole=False))
            archive = stack.enter_context(zipfile.ZipFile(path))
            pickled = [name for name in archive.namelist() if name.endswith(".pkl")]
            return [each for name in pickled for each in _imports(archive.open(name), whole=True)]
    except Exception as error:  # damaged pickles fail in every way there is
        found = f"a damaged pickle: {str(error)[:200] or type(error).__name__}"
        raise Refusal(Fault(str(path), found, "a whole file", AGAIN)) from None


def _flat(path: Path, value: object, start: str = "", depth: int = 0) -> Iterator[tuple[str, object]]:
    if depth > DEPTH:
        raise Refusal(Fault(str(path), f"mappings {DEPTH} levels deep", "plain tensors", SAFE))
    if not start and isinstance(value, Mapping) and isinstance(value.get("state_dict"), Mapping):
        yield from _flat(path, value["state_dict"], "", depth + 1)
        value = {key: each for key, each in value.items() if key != "state_dict" and not isinstance(each, Mapping)}
    if isinstance(value, Mapping | torch.nn.ParameterDict):
        for key, each in value.items():
            inside = isinstance(each, Mapping | torch.nn.ParameterDict)
            yield from _flat(path, each, f"{start}{key}." if inside else f"{start}{key}", depth + 1)
    elif not isinstance(value, _StandIn | type):
        yield start, value


class _Called(Exception):
    """A pickle calls what it may only name."""


class _Kind(type):
    """The class of stand-ins' classes: to call one is refused, unless it is known to be called by honest programs."""

    stands_for = ""
    callable = False

    def __call__(cls, *args: object, **named: object) -> object:
        if not cls.callable:
            raise _Called(cls.stands_for)
        return cls.__new__(cls, *args, **named)  # type: ignore[call-overload]


class _StandIn(dict[object, object], metaclass=_Kind):
    """In place of an object of another program's: takes whatever it is given, and does nothing."""

    held: list[object]

    def __new__(cls, *args: object, **named: object) -> _StandIn:
        made: _StandIn = dict.__new__(cls)
        made.held = [args, named]
        return made

    def __setstate__(self, state: object) -> None:
        self.held.append(state)

    def append(self, each: object) -> None:
        self.held.append(each)

    def extend(self, each: object) -> None:
        self.held.append(each)

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if name in REAL.get(module, ()):
            return super().find_class(module, name)
        call = f"{module}.{name}"
        if not _known(call):
            raise _Called(call)
        return _Kind(name, (_StandIn,), {"stands_for": call, "callable": name in INERT.get(module, ())})


def _load(file: IO[bytes], **more: Any) -> object:
    return _Unpickler(file, **more).load()


_DOOR = SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="tenshot")  # what torch.load asks of a pickle module


def _known(call: str) -> bool:
    """Is it real, inert, or a name out of another program, which may stand in a file and is never called?"""
    module, _, name = call.rpartition(".")
    if name in REAL.get(module, ()) or name in INERT.get(module, ()):
        return True
    return bool(module) and module.partition(".")[0] not in _OURS


def _would_call(path: Path, calls: str) -> Fault:
    return Fault(str(path), f"a pickle that would call {calls}", "plain tensors", SAFE)


def _check_archive(path: Path) -> None:
    """Refuse archives whose content is out of proportion, or has one name twice, and tar, which torch would unpack."""
    if not _starts(path).startswith(_ZIP):
        if tarfile.is_tarfile(path):
            raise Refusal(Fault(str(path), "a tar archive", "a file as torch writes it since 2017", SAFE))
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # damaged archives fail in many ways
        raise Refusal(Fault(str(path), f"a damaged archive: {error}", "a whole file", AGAIN)) from None
    names = [entry.filename for entry in entries]
    if twice := next((name for name, count in Counter(names).items() if count > 1), ""):
        raise Refusal(Fault(str(path), f"an archive that holds {twice} twice", "an archive as torch writes it", SAFE))
    content = sum(entry.file_size for entry in entries)
    if content > LARGER * path.stat().st_size:
        found = f"an archive of {path.stat().st_size:,} bytes that would become {content:,}"
        raise Refusal(Fault(str(path), found, "an archive as torch writes it", SAFE))


def _check(path: Path, value: object) -> None:
    """Refuse tensors that claim more than their storage has, and such as lie within objects of other programs."""
    waiting = [(value, "")]
    seen: dict[tuple[int, str], object] = {}
    while waiting:
        each, within = waiting.pop()
        if isinstance(each, torch.Tensor):
            if within:
                do = "save its state_dict() instead, as a .safetensors file"
                raise Refusal(Fault(str(path), f"tensors inside an object: {within}", "plain tensors", do))
            if each.numel() * each.element_size() > each.untyped_storage().nbytes():
                found = f"a tensor of {each.numel():,} numbers over {each.untyped_storage().nbytes():,} bytes"
                raise Refusal(Fault(str(path), found, "plain tensors", SAFE))
        if isinstance(each, type) or not isinstance(each, Mapping | torch.nn.ParameterDict | list | tuple | set):
            continue
        if (id(each), within) not in seen:
            seen[id(each), within] = each
            within = type(each).stands_for if isinstance(each, _StandIn) else within
            parts = list(each.values()) if isinstance(each, Mapping | torch.nn.ParameterDict) else list(each)
            waiting += [(part, within) for part in (*parts, *getattr(each, "held", ()))]


def _starts(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def _imports(stream: IO[bytes], whole: bool) -> Iterator[tuple[str, str]]:
    """Imports and texts of one pickle, or of the five that torch's old files begin with."""
    for _ in range(1 if whole else 5):
        if not whole and not _more(stream):
            return
        texts: list[str] = []
        memo: dict[int, str] = {}
        last = ""
        for operation, value, place in pickletools.genops(stream):
            if operation.name in ("GLOBAL", "INST"):
                module, _, name = str(value).partition(" ")
                yield "call", f"{module}.{name}"
            elif operation.name == "STACK_GLOBAL":
                yield "call", ".".join(texts[-2:]) or "?"
            elif operation.name.startswith("EXT"):
                yield "call", f"extension.{value}"
            elif operation.name == "MEMOIZE":
                memo[len(memo)] = last
            elif operation.name in ("BINPUT", "LONG_BINPUT", "PUT"):
                if int(value or 0) > (place or 0):  # the unpickler would make room for as many, in gigabytes
                    raise ValueError(f"it wants to remember {int(value or 0):,} things")
                memo[int(value or 0)] = last
            elif operation.name in ("BINGET", "LONG_BINGET", "GET"):
                texts.append(memo.get(int(value or 0), "?"))
            last = value if isinstance(value, str) else ""
            if last and operation.name not in ("GLOBAL", "INST"):
                texts.append(last)
                yield "text", last


def _more(stream: IO[bytes]) -> bool:
    """Does another pickle follow? In torch's old files tensors do, after five of them."""
    place = stream.tell()
    start = stream.read(2)
    stream.seek(place)
    return start in _PICKLE
