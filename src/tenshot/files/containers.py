"""Any file of tensors, opened without reading them: safetensors, in shards or whole, and torch's pickles.

What a file is, its first bytes say, not its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from tenshot.errors import Fault, Refusal
from tenshot.files import pickles

HEADER = 100_000_000  # bytes; what the safetensors library reads at most
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
AGAIN = pickles.AGAIN
SAFE = pickles.SAFE


@dataclass(frozen=True)
class Lazy:
    """A tensor that is not read yet."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Container:
    """The tensors of one file or of several shards. about: what the header says beside them.

    rest: whatever a pickle holds beside tensors that is plain: numbers, text, lists of them.
    """

    place: Path
    kind: str
    tensors: Mapping[str, Lazy]
    about: Mapping[str, str] = field(default_factory=dict)
    rest: Mapping[str, Any] = field(default_factory=dict)


def opened(path: Path) -> Container:
    """Raises Refusal where the file is missing, damaged, unsafe, or holds no tensors."""
    if not path.is_file():
        found, do = ("is a folder", "name a file in it") if path.is_dir() else ("no such file", "correct the path")
        raise Refusal(Fault(str(path), found, "a .safetensors, .ckpt, .pt, .pth or .bin file", do))
    if path.name.endswith(".index.json"):
        return _shards(path)
    return _pickle(path) if pickles.is_one(_starts(path)) else _safetensors(path)


def _starts(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError as error:
        found, do = f"cannot be read: {error.strerror}", "change its permissions, or choose another"
        raise Refusal(Fault(str(path), found, "a file that you may read", do)) from None


def looked_into(path: Path) -> Container:
    """The same without unpickling: of a pickle only the names, without shapes."""
    if not path.is_file():
        return opened(path)
    if not pickles.is_one(_starts(path)):
        return opened(path)
    nothing = Lazy((), torch.float32, lambda: torch.zeros(()))
    listed = pickles.listed(path)
    texts = dict.fromkeys(each for kind, each in listed if kind == "text" and not each.isdigit())
    calls = sorted({each for kind, each in listed if kind == "call"})
    return Container(path, "pickle", dict.fromkeys(texts, nothing), {}, {"calls": calls})


def said(about: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The JSON object that a header holds under `key`; empty where there is none, as others write anything there."""
    try:
        found = json.loads(about.get(key, "{}"))
    except (ValueError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _safetensors(path: Path) -> Container:
    header = read_header(path)
    about = header.pop("__metadata__", None) or {}
    try:
        with safe_open(path, "pt"):  # it checks that the offsets fit the dtypes, the shapes and each other
            pass
    except (SafetensorError, OSError) as error:
        raise Refusal(_damaged(path, str(error))) from None
    with path.open("rb") as file:
        data = 8 + int.from_bytes(file.read(8), "little")
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            found, do = f"{name} has the dtype {entry['dtype']}", "take the same file in F16 or F32"
            raise Refusal(Fault(str(path), found, ", ".join(DTYPES), do))
        shape, dtype = tuple(entry["shape"]), DTYPES[entry["dtype"]]
        tensors[name] = Lazy(shape, dtype, partial(_read, path, data + entry["data_offsets"][0], shape, dtype))
    return Container(path, "safetensors", tensors, about)


def _read(path: Path, start: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """One tensor. Not by a memory map: of a large file the pages would stay."""
    buffer = bytearray(prod(shape) * dtype.itemsize)
    if not buffer:
        return torch.empty(shape, dtype=dtype)
    with path.open("rb") as file:
        file.seek(start)
        if file.readinto(buffer) < len(buffer):
            raise Refusal(_damaged(path, "it became shorter"))
    return torch.frombuffer(buffer, dtype=dtype).reshape(shape)


def read_header(path: Path) -> dict[str, Any]:
    """A safetensors file's header. Raises Refusal where it is none: too long, cut, no JSON, a name twice."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(HEADER, size - 8):
            raise Refusal(_damaged(path, f"{size} bytes, of which the header would be {length}"))
        text = file.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise Refusal(_damaged(path, f"its header is no JSON: {error}")) from None
    if not isinstance(header, dict) or not all(map(_is_entry, header.items())):
        raise Refusal(_damaged(path, "its header does not describe tensors"))
    return header


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is in it twice")
    return found


def _is_entry(item: tuple[str, Any]) -> bool:
    name, entry = item
    if name == "__metadata__":
        return entry is None or (isinstance(entry, dict) and all(isinstance(v, str) for v in entry.values()))
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("dtype"), str)
        and isinstance(entry.get("shape"), list)
        and all(type(side) is int and side >= 0 for side in entry["shape"])
    )


def _damaged(path: Path, what: str) -> Fault:
    return Fault(str(path), f"not a whole safetensors file ({what})", "an untruncated safetensors file", AGAIN)


def _shards(index: Path) -> Container:
    """All shards that an index names, as one. Only files beside the index are looked at."""
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(names.values()))
        strange = [name for name in files if Path(name).name != name]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        found = f"is no index of shards: {error}"
        raise Refusal(Fault(str(index), found, "model.safetensors.index.json", AGAIN)) from None
    if strange:
        raise Refusal(Fault(str(index), f"names {strange[0]!r}", "files beside it", SAFE))
    shards = [opened(index.with_name(name)) for name in files]
    tensors = {name: lazy for shard in shards for name, lazy in shard.tensors.items()}
    missing = sorted(names.keys() - tensors.keys())
    if missing:
        raise Refusal(Fault(str(index), f"{len(missing)} tensors are in no shard: {missing[0]}, ...", "all", AGAIN))
    return Container(index, "shards", tensors, shards[0].about if shards else {})


def _pickle(path: Path) -> Container:
    tensors: dict[str, Lazy] = {}
    rest: dict[str, Any] = {}
    for name, found in pickles.load(path).items():
        if isinstance(found, torch.Tensor):
            tensors[name] = Lazy(tuple(found.shape), found.dtype, found.detach)
        else:
            rest[name] = found
    return Container(path, "pickle", tensors, {}, rest)
