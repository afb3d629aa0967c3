"""Tensors on disk: read lazily, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeAlias

import torch
from filelock import FileLock, Timeout

from tenshot.core.errors import Fault, Refusal
from tenshot.core.events import Events, track
from tenshot.io import hashes, tensor_files
from tenshot.io.locks import LOCK
from tenshot.io.tensor_files import DTYPES, Lazy

Content: TypeAlias = Mapping[str, torch.Tensor] | Mapping[str, Lazy]
NAMES = {dtype: name for name, dtype in DTYPES.items()}
#: Of a file's tensors, the widest first, as the safetensors library has them.
ORDER = ("I64", "F64", "F32", "I32", "BF16", "F16", "I16", "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL")
NEW, OLD = "new", "old"
WINDOWS = os.name == "nt"


def read(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a safetensors file. Raises Refusal where the file is missing, truncated or malformed."""
    return {name: lazy.read() for name, lazy in tensor_files.opened_safetensors(path).tensors.items()}


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a safetensors file; no tensor is read."""
    return {name: lazy.shape for name, lazy in tensor_files.opened_safetensors(path).tensors.items()}


def metadata(path: Path) -> dict[str, str]:
    """The metadata in a safetensors file's header."""
    return dict(tensor_files.opened_safetensors(path).metadata)


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


def write(
    path: Path,
    content: Content,
    about: Mapping[str, str] | None = None,
    events: Events | None = None,
    lasting: bool = True,
) -> str:
    """Write a safetensors file, whole or not at all. The SHA-256 of its data section comes back, in hex.

    Never more than one tensor is in memory that was not before. lasting: as in `replacing`.
    """
    ordered = _ordered(content)
    header: dict[str, object] = {"__metadata__": dict(sorted(about.items()))} if about else {}
    end = 0
    for name, lazy in ordered.items():
        start, end = end, end + lazy.nbytes
        header[name] = {"dtype": NAMES[lazy.dtype], "shape": list(lazy.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-len(text) % 8 + len(text))
    with replacing(path, lasting) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        names = track(ordered, f"writing {path.name}", len(ordered), events or Events())
        return hashes.of_chunks(_put(file, name, ordered[name]) for name in names)


def data_hash(content: Content) -> str:
    """The SHA-256 of the data section that `write` would write."""
    return hashes.of_chunks(_data(name, lazy) for name, lazy in _ordered(content).items())


def _ordered(content: Content) -> dict[str, Lazy]:
    """As they stand in the file: every tensor begins where its dtype may."""
    lazy = {
        name: each if isinstance(each, Lazy) else Lazy(tuple(each.shape), each.dtype, each.detach)
        for name, each in content.items()
    }
    return dict(sorted(lazy.items(), key=lambda item: (ORDER.index(NAMES[item[1].dtype]), item[0])))


def _put(file: IO[bytes], name: str, lazy: Lazy) -> memoryview:
    data = _data(name, lazy)
    file.write(data)
    return data


def _data(name: str, lazy: Lazy) -> memoryview:
    found = lazy.read().detach().cpu()
    if tuple(found.shape) != lazy.shape or found.dtype != lazy.dtype:
        raise Refusal(Fault(name, f"is {found.dtype} {list(found.shape)}", f"{lazy.dtype} {list(lazy.shape)}"))
    return found.contiguous().reshape(-1).view(torch.uint8).numpy().data if found.numel() else memoryview(b"")


def write_pickle(path: Path, content: Mapping[str, Lazy], rest: Mapping[str, object] | None = None) -> None:
    """Write a .ckpt that the oldest reader opens: torch's former zip layout, tensors under `state_dict`.

    The whole of it is in memory meanwhile.
    """
    value = {"state_dict": {name: lazy.read().clone() for name, lazy in content.items()}, **(rest or {})}
    with replacing(path) as temporary:
        torch.save(value, temporary, _use_new_zipfile_serialization=False)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
