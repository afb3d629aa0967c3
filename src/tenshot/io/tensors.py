"""Tensors on disk: read lazily, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tenshot.core.errors import Fault, Refusal
from tenshot.io import tensor_files, text_files
from tenshot.io.locks import LOCK

NEW, OLD = "new", "old"
WINDOWS = os.name == "nt"


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
def _opened(path: Path) -> Iterator[safe_open]:
    tensor_files.read_header(path)
    try:
        with safe_open(path, "pt") as file:
            yield file
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


def rounded(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """The same in `dtype`. Raises Refusal where numbers are too large for it; what was not finite stays what it was."""
    made = tensor.to(dtype)
    if not finite(made) and finite(tensor):
        short = str(dtype).removeprefix("torch.")
        found = f"holds {float(tensor.abs().max()):.4g}, more than {short} can say ({torch.finfo(dtype).max:.4g})"
        raise Refusal(Fault(name, found, f"numbers that {short} has", "keep the numbers as they are, or take bf16"))
    return made


def write(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically: it appears under its name only when it is whole and on disk."""
    with replacing(path) as temporary:
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(whole, temporary, dict(metadata) if metadata else None)  # without tensors {} is no JSON
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
    return text_files.json_value(text_files.text(path, "a JSON file", text_files.JSON), str(path), "a JSON file")


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically, indented, ending with a newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def replacing(path: Path, lasting: bool = True) -> Iterator[Path]:
    """Give a place for a file; when the block ends well, flush it to disk and put it at `path`.

    lasting False: a crash of the machine may lose it, as what can be made again.
    """
    with _room(path) as (new, _):
        yield new
        if lasting:
            flush(new)
        new.replace(path)
        if lasting:
            flush(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Like `replacing`, for a folder with everything in it. A folder already there is replaced.

    It is put aside before, so that no moment's kill loses it: at the worst `sweep` puts it back.
    """
    with _room(path) as (new, old):
        new.mkdir()
        yield new
        for each in (*new.rglob("*"), new):
            flush(each)
        if os.path.lexists(path):
            path.rename(old)
        new.rename(path)
        flush(path.parent)


@contextmanager
def _room(path: Path) -> Iterator[tuple[Path, Path]]:
    """Places for what will be at `path` and for what was, in a hidden folder beside it that is gone afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    room, lock = _locked(path.parent)
    try:
        for each in (NEW, OLD):
            (room / each).mkdir()
        yield room / NEW / path.name, room / OLD / path.name
    except Exception as error:
        if room.is_dir():
            raise
        found = f"{path.parent} was removed while it was being written"
        raise Refusal(Fault(str(path), found, "a folder that stays", "start again, or write elsewhere")) from error
    finally:
        _cleared(room)
        lock.release()
        shutil.rmtree(room, ignore_errors=True)  # Windows keeps a locked file


def _locked(folder: Path) -> tuple[Path, FileLock]:
    """A room for work, with a lock that the system takes back when this process dies."""
    while True:
        try:
            room = Path(tempfile.mkdtemp(dir=folder, prefix=".tenshot-", suffix=".part"))
        except FileNotFoundError:  # the folder went, or is the system's own, as /proc
            found = "nothing can be made in it"
            raise Refusal(Fault(str(folder), found, "a folder that takes files", "write elsewhere")) from None
        lock = FileLock(room / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:  # somebody sweeps, and was quicker
            continue
        except OSError:  # he has swept; or else there are no locks here, and nobody sweeps
            if not room.is_dir():
                continue
        return room, lock


def sweep(folder: Path) -> None:
    """Clear away what killed processes left in `folder`: half-written things go, what was being replaced is back.

    What a living process works on has its lock, and stays.
    """
    for room in folder.glob(".tenshot-*.part"):
        with suppress(OSError):  # locked, or not ours to remove
            with FileLock(room / LOCK, timeout=0):
                _cleared(room)
            shutil.rmtree(room, ignore_errors=True)


def _cleared(room: Path) -> None:
    for old in (room / OLD).glob("*"):
        if not os.path.lexists(place := room.parent / old.name):
            old.rename(place)
    shutil.rmtree(room, ignore_errors=True)


def flush(path: Path) -> None:
    """fsync a file or a folder, so that a rename after it cannot be seen before it. Windows flushes files only."""
    if WINDOWS and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
