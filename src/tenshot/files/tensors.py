"""Tensors on disk: read lazily, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tenshot.errors import Fault, Refusal

THERE = "correct the path, or copy the file there"


def read(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a safetensors file. Raises Refusal where the file is missing, truncated or malformed."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a safetensors file; no tensor is read."""
    with _opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}


def metadata(path: Path) -> dict[str, str]:
    """The metadata in a safetensors file's header."""
    with _opened(path) as file:
        return dict(file.metadata() or {})


@contextmanager
def _opened(path: Path):
    try:
        with safe_open(path, "pt") as file:
            yield file
    except FileNotFoundError:
        raise Refusal(Fault(str(path), "no such file", "a safetensors file", THERE)) from None
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size if path.is_file() else 0
        raise Refusal(
            Fault(
                str(path),
                f"not a whole safetensors file ({size} bytes: {error})",
                "an untruncated safetensors file",
                "copy or download it again",
            )
        ) from None


def finite(tensor: torch.Tensor) -> bool:
    """No NaN, nothing infinite? Also of eight-bit floats, which torch does not ask that."""
    return bool(tensor.float().isfinite().all())


def write(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically: it appears under its name only when it is whole and on disk."""
    with replacing(path) as temporary:
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(whole, temporary, dict(metadata or {}))
        _settle(temporary)


def _settle(path: Path) -> None:
    """Sort the metadata in a file's header, which safetensors leaves in any order: equal content, equal bytes."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        if len(header.get("__metadata__", ())) > 1:
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
            settled = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
            assert len(settled) <= length
            file.seek(8)
            file.write(settled.ljust(length))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises Refusal where it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refusal(Fault(str(path), "no such file", "a JSON file", THERE)) from None
    except (OSError, ValueError) as error:
        raise Refusal(
            Fault(str(path), f"cannot be read: {error}", "a JSON file", "copy or download it again")
        ) from None


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically, indented, ending with a newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file beside `path`; when the block ends well, flush it to disk and put it in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        flush(temporary)
        temporary.replace(path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Like `replacing`, for a folder with everything in it. A folder already there is replaced.

    It is put aside before, so that no moment's kill loses it: at the worst `sweep` puts it back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
    aside = temporary.with_suffix(".old")
    try:
        yield temporary
        temporary.chmod(0o755)
        for each in (*temporary.rglob("*"), temporary):
            flush(each)
        if path.exists():
            path.rename(aside)
        temporary.rename(path)
        flush(path.parent)
    finally:
        if aside.exists() and not path.exists():
            aside.rename(path)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Clear away what a killed process left in `folder`: half-written things go, what was being replaced is back."""
    for aside in folder.glob(".*.old"):
        place = folder / aside.name.removeprefix(".").rsplit(".", 2)[0]
        if not place.exists():
            aside.rename(place)
    for leftover in (*folder.glob(".*.part"), *folder.glob(".*.old")):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """fsync a file or a folder, so that a rename after it cannot be seen before it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
