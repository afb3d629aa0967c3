"""Tensors to disk one after the other: never more than one of them in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import torch

from tenshot.core.errors import Fault, Refusal
from tenshot.core.events import Events, track
from tenshot.io import hashes, tensors
from tenshot.io.tensor_files import DTYPES, Lazy

NAMES = {dtype: name for name, dtype in DTYPES.items()}
WIDEST_FIRST = sorted(NAMES, key=lambda dtype: -dtype.itemsize)  # so that every tensor begins where its dtype may


def write(
    path: Path, content: Mapping[str, Lazy], about: Mapping[str, str] | None = None, events: Events | None = None
) -> str:
    """Write a safetensors file, whole or not at all. The SHA-256 of its data section comes back, in hex."""
    order = sorted(content, key=lambda name: (WIDEST_FIRST.index(content[name].dtype), name))
    header: dict[str, object] = {"__metadata__": dict(sorted((about or {}).items()))} if about else {}
    end = 0
    for name in order:
        lazy = content[name]
        start, end = end, end + lazy.nbytes
        header[name] = {"dtype": NAMES[lazy.dtype], "shape": list(lazy.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-len(text) % 8 + len(text))
    with tensors.replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        names = track(order, f"writing {path.name}", len(order), events or Events())
        return hashes.of_chunks(_put(file, name, content[name]) for name in names)


def _put(file: IO[bytes], name: str, lazy: Lazy) -> memoryview:
    found = lazy.read().detach().cpu()
    if tuple(found.shape) != lazy.shape or found.dtype != lazy.dtype:
        raise Refusal(Fault(name, f"is {found.dtype} {list(found.shape)}", f"{lazy.dtype} {list(lazy.shape)}"))
    data = found.contiguous().reshape(-1).view(torch.uint8).numpy().data if found.numel() else memoryview(b"")
    file.write(data)
    return data


def write_pickle(path: Path, content: Mapping[str, Lazy], rest: Mapping[str, object] | None = None) -> None:
    """Write a .ckpt that the oldest reader opens: torch's former zip layout, tensors under `state_dict`.

    The whole of it is in memory meanwhile.
    """
    value = {"state_dict": {name: lazy.read().clone() for name, lazy in content.items()}, **(rest or {})}
    with tensors.replacing(path) as temporary:
        torch.save(value, temporary, _use_new_zipfile_serialization=False)
