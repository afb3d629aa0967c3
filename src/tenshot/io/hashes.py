"""The one room for digests: of bytes, files, model folders, settings and tensors, and as user interfaces show them.

Seeds follow from names by a hash, too: those are `core.device.seed_of`'s, which lies below this room.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import TypeAlias

import torch

from tenshot.core.events import Events, track
from tenshot.core.results import Hashes
from tenshot.io import tensor_files, text_files

Data: TypeAlias = bytes | memoryview
BLOCK, MANY = 1_000_000, 200  # bytes, and how many such blocks take noticeably long
MODEL_FILES = {".safetensors", ".bin", ".json"}  # suffixes of what a model's parts are read from


def of_chunks(chunks: Iterable[Data]) -> str:
    """The SHA-256, hex, of bytes that come one after the other."""
    found = hashlib.sha256()
    for chunk in chunks:
        found.update(chunk)
        del chunk  # it may be large, and the next one is made now
    return found.hexdigest()


def of_bytes(data: Data) -> str:
    return of_chunks([data])


def of_values(*values: object) -> str:
    """Of what they print as, a line each."""
    return of_bytes("\n".join(map(str, values)).encode())


def of_json(value: object) -> str:
    """Of settings, whatever the order of their keys; the same before they are written as JSON and after reading."""
    return of_bytes(json.dumps(text_files.parsed(json.dumps(value)), sort_keys=True).encode())


def of_tensors(named: Mapping[str, torch.Tensor], key: str = "") -> str:
    """Of tensors and their names. key: what they are kept under."""
    return of_chunks(_told(named, key))


def _told(named: Mapping[str, torch.Tensor], key: str) -> Iterator[Data]:
    yield key.encode()
    for name, tensor in sorted(named.items()):
        yield f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode()
        yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def of_stream(file: BufferedReader) -> str:
    """Of all that is left to read of an open file."""
    return hashlib.file_digest(file, "sha256").hexdigest()


def of_file(path: Path, skip: int = 0) -> str:
    """Of what follows the first `skip` bytes. `cache.seen` reads a file again only where it may have changed."""
    with path.open("rb") as file:
        file.seek(min(skip, path.stat().st_size))
        return of_stream(file)


def of_model(place: Path, part: str = "*", events: Events | None = None) -> str:
    """Of the weights and configurations of a model folder, or of one part in it: BLAKE2b, which is quicker, hex.

    events: hears how far it is, in megabytes, where they are many. Raises Cancelled.
    """
    paths = [path for path in sorted(place.glob(f"{part}/*")) if path.suffix in MODEL_FILES]
    inner = {path: hashlib.blake2b() for path in paths}
    blocks = ((path, block) for path in paths for block in _blocks(path))
    count = sum(-(-path.stat().st_size // BLOCK) for path in paths)
    for path, block in track(blocks, "checking the model", count, events) if events and count >= MANY else blocks:
        inner[path].update(block)
    found = hashlib.blake2b(digest_size=16)
    for path in paths:
        found.update(str(path.relative_to(place)).encode())
        found.update(inner[path].digest())
    return found.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def data_start(path: Path) -> int:
    """Where a safetensors file's tensors begin, in bytes."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def of_lora(path: Path) -> str:
    """What AUTOMATIC1111 lists under `Lora hashes`: what the file says itself, AutoV3, or a pickle's SHA-256."""
    if path.suffix != ".safetensors":
        return of_file(path)[:12]
    said = tensor_files.opened_safetensors(path).metadata.get("sshs_model_hash", "")
    return said[:12] or of_file(path, data_start(path))[:12]


def auto_v1(path: Path) -> str:
    """Of 64 KiB behind the first MiB: how ControlNets are called in infotext."""
    with path.open("rb") as file:
        file.seek(0x100000)
        return of_bytes(file.read(0x10000))[:8]


def shown(path: Path) -> Hashes:
    """AutoV1 is of a part, AutoV2 (the model hash) of all, AutoV3 of a safetensors file's data."""
    whole = of_file(path)
    found: Hashes = {"auto_v1": auto_v1(path), "auto_v2": whole[:10]}
    if path.suffix == ".safetensors":
        found["auto_v3"] = of_file(path, data_start(path))[:12]
    return {**found, "sha256": whole}
