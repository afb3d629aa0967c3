"""A file's hashes, as user interfaces show them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tenshot.core.results import Hashes
from tenshot.io import tensors

BLOCK = 1 << 20


def sha256(path: Path, skip: int = 0) -> str:
    """Of what follows the first `skip` bytes, in hex."""
    with path.open("rb") as file:
        file.seek(min(skip, path.stat().st_size))
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_start(path: Path) -> int:
    """Where a safetensors file's tensors begin, in bytes."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def of_lora(path: Path) -> str:
    """What AUTOMATIC1111 lists under `Lora hashes`: what the file says itself, AutoV3, or a pickle's SHA-256."""
    if path.suffix != ".safetensors":
        return sha256(path)[:12]
    said = tensors.metadata(path).get("sshs_model_hash", "")
    return said[:12] or sha256(path, data_start(path))[:12]


def shown(path: Path) -> Hashes:
    """AutoV1 is of 64 KiB behind the first MiB, AutoV2 (the model hash) of all, AutoV3 of a safetensors file's data."""
    with path.open("rb") as file:
        file.seek(0x100000)
        first = hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
    whole = sha256(path)
    found: Hashes = {"auto_v1": first, "auto_v2": whole[:10]}
    if path.suffix == ".safetensors":
        found["auto_v3"] = sha256(path, data_start(path))[:12]
    return {**found, "sha256": whole}
