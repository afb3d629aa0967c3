"""Any file of tensors, opened without reading them: safetensors, in shards or whole, and torch's pickles.

What a file is, its first bytes say, not its name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from tenshot.core.errors import Fault, Refusal, all_or_refuse
from tenshot.io import pickles, text_files

HEADER = 100_000_000  # bytes; what the safetensors library reads at most
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
NAMES = pickles.NAMES
PICTURE = ("a picture", "name the file of a model, a LoRA or a word; what a picture was drawn by, user interfaces show")
#: Files that are taken for models, by their beginnings, and what to do about them.
OTHERS = {
    b"GGUF": ("a GGUF file, of packed numbers", "take the same model as .safetensors in fp16"),
    b"version https://git-lfs": ("a pointer of Git LFS, not the file itself", "git lfs pull, or download it by itself"),
    **dict.fromkeys((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF"), PICTURE),
    b"<": ("a web page", "download it again; the site may want you to log in, or to accept a licence, before"),
}
#: What eight-bit weights are to be multiplied with: ComfyUI's older name, and that of compressed-tensors.
COMFY = "comfy_quant"  # a layer's tensor of bytes that say, as JSON, how it is packed
SCALES = ("scale_weight", "weight_scale")
EIGHT = {torch.float8_e4m3fn: "float8_e4m3fn", torch.float8_e5m2: "float8_e5m2"}
SIDES, MOST = 16, 2**60  # of a shape
FITS = "a .safetensors, .ckpt, .pt, .pth or .bin file"
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
    """The tensors of one file or of several shards. metadata: what the header says beside them.

    rest: whatever a pickle holds beside tensors that is plain: numbers, text, lists of them.
    """

    place: Path
    kind: str
    tensors: Mapping[str, Lazy]
    metadata: Mapping[str, str] = field(default_factory=dict)
    rest: Mapping[str, object] = field(default_factory=dict)


def opened(path: Path) -> Container:
    """Raises Refusal where the file is missing, damaged, unsafe, or holds no tensors."""
    if path.name.endswith(".index.json"):
        return _multiplied(_shards(path))
    return _multiplied(_opened(path))


def _opened(path: Path) -> Container:
    return _pickle(path) if pickles.is_one(_starts(path)) else opened_safetensors(path)


def _starts(path: Path) -> bytes:
    with text_files.opened(path, FITS, text_files.TENSORS) as file:
        return file.read(4)


def looked_into(path: Path) -> Container:
    """The same without unpickling: of a pickle only the names, without shapes."""
    if path.name.endswith(".index.json") or not pickles.is_one(_starts(path)):
        return opened(path)
    nothing = Lazy((), torch.float32, lambda: torch.zeros(()))
    listed = pickles.listed(path)
    texts = dict.fromkeys(each for kind, each in listed if kind == "text" and not each.isdigit())
    calls = sorted({each for kind, each in listed if kind == "call"})
    return Container(path, "pickle", dict.fromkeys(texts, nothing), {}, {"calls": calls})


def json_metadata(metadata: Mapping[str, object], key: str) -> dict[str, Any]:
    """The JSON object that a header holds under `key`; empty where there is none, as others write anything there."""
    try:
        text = metadata.get(key, "{}")
        found = text_files.parsed(text) if isinstance(text, str | bytes) else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def opened_safetensors(path: Path) -> Container:
    """A safetensors file as it is, eight-bit weights and their scales apart. Raises Refusal."""
    header = read_header(path)
    metadata = header.pop("__metadata__", None) or {}
    try:
        with safe_open(path, "pt"):  # it checks that the offsets fit the dtypes, the shapes and each other
            pass
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size if path.is_file() else 0
        raise Refusal(_damaged(path, f"{size} bytes: {error}")) from None
    with text_files.opened(path, FITS, text_files.TENSORS) as file:
        data = 8 + int.from_bytes(file.read(8), "little")
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            found, do = f"{name} has the dtype {entry['dtype']}", "take the same file in F16 or F32"
            raise Refusal(Fault(str(path), found, ", ".join(DTYPES), do))
        shape, dtype = tuple(entry["shape"]), DTYPES[entry["dtype"]]
        tensors[name] = Lazy(shape, dtype, partial(_read, path, data + entry["data_offsets"][0], shape, dtype))
    return Container(path, "safetensors", tensors, metadata)


def _read(path: Path, start: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """One tensor. Not by a memory map: of a large file the pages would stay."""
    buffer = bytearray(prod(shape) * dtype.itemsize)
    if not buffer:
        return torch.empty(shape, dtype=dtype)
    with text_files.opened(path, FITS, text_files.TENSORS) as file:
        file.seek(start)
        if file.readinto(buffer) < len(buffer):
            raise Refusal(_damaged(path, "it became shorter"))
    return torch.frombuffer(buffer, dtype=dtype).reshape(shape)


def read_header(path: Path) -> dict[str, Any]:
    """A safetensors file's header. Raises Refusal where it is none: too long, cut, no JSON, a name twice."""
    with text_files.opened(path, FITS, text_files.TENSORS) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(24)
        other = next((each for begins, each in OTHERS.items() if start.startswith(begins)), None)
        other = PICTURE if start[4:8] == b"ftyp" else other  # HEIC and AVIF
        if other and start[8:9] != b"{":  # a header's length may begin like anything
            raise Refusal(Fault(str(path), f"is {other[0]}", FITS, other[1]))
        length = int.from_bytes(start[:8], "little")
        file.seek(8)
        if size < 8 or length > min(HEADER, size - 8):
            raise Refusal(_damaged(path, f"{size} bytes, of which the header would be {length}"))
        text = file.read(length)
    try:
        header = text_files.parsed(text, once=True)
    except ValueError as error:
        raise Refusal(_damaged(path, f"its header is {error}")) from None
    if not isinstance(header, dict) or not all(map(_is_entry, header.items())):
        raise Refusal(_damaged(path, "its header does not describe tensors"))
    if len(header) > NAMES:
        raise Refusal(_damaged(path, f"its header names {len(header):,} tensors, more than {NAMES:,}"))
    return header


def _is_entry(item: tuple[str, object]) -> bool:
    name, entry = item
    if name == "__metadata__":
        return entry is None or (isinstance(entry, dict) and all(isinstance(v, str) for v in entry.values()))
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("dtype"), str)
        and isinstance(entry.get("shape"), list)
        and all(type(side) is int and side >= 0 for side in entry["shape"])
        and len(entry["shape"]) <= SIDES
        and prod(max(1, side) for side in entry["shape"]) < MOST  # torch cannot even be empty in larger shapes
    )


def _damaged(path: Path, what: str) -> Fault:
    return Fault(str(path), f"not a whole safetensors file ({what})", "an untruncated safetensors file", AGAIN)


def _shards(index: Path) -> Container:
    """All shards that an index names, as one. Only files beside the index are looked at."""
    fits = "model.safetensors.index.json"
    told = text_files.read_json(index, fits)
    names = told.get("weight_map") if isinstance(told, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise Refusal(Fault(str(index), "is no index of shards: it has no weight_map of names", fits, AGAIN))
    files = sorted(set(names.values()))
    for name in files:
        if name in ("", "..") or Path(name).name != name or "\\" in name or name.endswith(".json"):
            raise Refusal(Fault(str(index), f"names {name!r}", "files of tensors beside it", SAFE))
    each = all_or_refuse(*(partial(_opened, index.with_name(name)) for name in files))
    shards: dict[str, Container] = dict(zip(files, each, strict=True))
    tensors: dict[str, Lazy] = {}
    for file, shard in shards.items():
        for name, lazy in shard.tensors.items():
            if names.get(name, file) != file and name in shards[names[name]].tensors:
                continue  # the index says where it is taken from
            if name in tensors and name not in names:
                raise Refusal(Fault(str(index), f"{name} is in two shards", "every tensor once", AGAIN))
            tensors[name] = lazy
    missing = sorted(names.keys() - tensors.keys())
    if missing:
        raise Refusal(Fault(str(index), f"{len(missing)} tensors are in no shard: {missing[0]}, ...", "all", AGAIN))
    return Container(index, "shards", tensors, next(iter(shards.values())).metadata if shards else {})


def _multiplied(found: Container) -> Container:
    """The same, where eight-bit weights come with scales: as the numbers that they stand for, in float32.

    What a scaled weight is, is float32 without another rounding. Raises Refusal where weights are packed otherwise.
    """
    formats = _formats(found)
    tensors = {name: lazy for name, lazy in found.tensors.items() if not name.endswith(f".{COMFY}")}
    packed = {
        layer: str(each.get("format"))
        for layer, each in formats.items()
        if each.get("format") not in EIGHT.values() or each.get("convrot")
    }
    for name in found.tensors:
        layer, _, last = name.rpartition(".")
        weight = found.tensors.get(f"{layer}.weight")
        if last not in SCALES or weight is None or (weight.dtype.is_floating_point and weight.dtype not in EIGHT):
            continue
        scale = tensors.pop(name)
        if weight.dtype not in EIGHT:
            packed.setdefault(layer, str(weight.dtype).removeprefix("torch."))
        elif not weight.shape or (prod(scale.shape) != 1 and scale.shape not in _by_row(weight.shape)):
            packed.setdefault(layer, f"{EIGHT[weight.dtype]} with scales {list(scale.shape)} for {list(weight.shape)}")
        else:
            tensors[f"{layer}.weight"] = Lazy(weight.shape, torch.float32, partial(_product, weight, scale))
    if packed:
        layer, how = next(iter(packed.items()))
        fits = "floats of 8 (also scaled), 16 or 32 bits"
        do = "take the same model in fp16 or bf16"
        raise Refusal(Fault(str(found.place), f"{len(packed)} layers are packed: {layer} is {how}", fits, do))
    return replace(found, tensors=tensors)


def _formats(found: Container) -> dict[str, dict[str, object]]:
    """How each layer is packed, as ComfyUI has it written: beside the layer, or in the header."""
    told = json_metadata(found.metadata, "_quantization_metadata").get("layers")
    formats = dict(told) if isinstance(told, dict) else {}
    for name, lazy in found.tensors.items():
        if name.endswith(f".{COMFY}"):
            text = bytes(lazy.read().flatten().tolist()) if lazy.dtype == torch.uint8 and lazy.nbytes < 4096 else b""
            formats[name.removesuffix(f".{COMFY}")] = json_metadata({COMFY: text}, COMFY)
    return {layer: each if isinstance(each, dict) else {} for layer, each in formats.items()}


def _by_row(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    return shape[:1], (shape[0], *(1 for _ in shape[1:]))


def _product(weight: Lazy, scale: Lazy) -> torch.Tensor:
    by_row = scale.read().float().reshape(-1, *(1 for _ in weight.shape[1:]))
    return weight.read().float() * by_row


def _pickle(path: Path) -> Container:
    tensors: dict[str, Lazy] = {}
    rest: dict[str, object] = {}
    for name, found in pickles.load(path).items():
        if isinstance(found, torch.Tensor):
            tensors[name] = Lazy(tuple(found.shape), found.dtype, found.detach)
        else:
            rest[name] = found
    return Container(path, "pickle", tensors, {}, rest)
