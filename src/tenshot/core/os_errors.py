"""Errors that a person can mend, those of disk and memory, become refusals."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tenshot.core.errors import Cancelled, Fault, Refusal
from tenshot.core.options import Options


@contextmanager
def in_our_words(options: Options) -> Iterator[None]:
    """Turn errors that a person can mend, those of disk and memory, into refusals. Ctrl-C becomes Cancelled."""
    try:
        yield
    except KeyboardInterrupt:
        raise Cancelled("stopped at once; what was not yet in a checkpoint is lost") from None
    except (Refusal, Cancelled):
        raise
    except Exception as error:
        fault = _disk_fault(error, options) or _memory_fault(error, options)
        if fault is None:
            raise
        raise Refusal(fault) from error


_RESULTS = ("output_dir", "out", "save_to", "dst")  # options that say where a result goes


def _disk_fault(error: Exception, options: Options) -> Fault | None:
    """Libraries written in other languages tell a full disk in words only."""
    number = error.errno if isinstance(error, OSError) else None
    told = (getattr(options, name, None) for name in _RESULTS)
    place = Path(str(getattr(error, "filename", None) or next(filter(None, told), ".")))
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
        there = next((each for each in (place, *place.absolute().parents) if each.exists()), Path("/"))
        found = f"No space left on device: {shutil.disk_usage(there).free:,} bytes are free"
        return Fault(str(place), found, "a disk with room for the result", "make room there, or write elsewhere")
    if number == errno.EFBIG or "File too large" in str(error):
        fits = "a file system and a limit (ulimit -f) for a file of this size"
        return Fault(str(place), os.strerror(errno.EFBIG), fits, "write to another disk, or raise the limit")
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        found = os.strerror(number)
        return Fault(str(place), found, "a place that you may use", "change its permissions, or choose another")
    if number in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG):
        return Fault(str(place), os.strerror(number), "a free name in a folder", "choose another place")
    return None


_RELIEF = {
    "train_batch_size": "lower --train_batch_size (--gradient_accumulation_steps makes up for it)",
    "batch_size": "lower --batch_size",
    "resolution": "lower --resolution",
    "mixed_precision": "use --mixed_precision bf16",
    "gradient_checkpointing": "use --gradient_checkpointing",
    "fit_memory": "or let --fit_memory choose",
    "width": "lower --width and --height",
}


def _memory_fault(error: Exception, options: Options) -> Fault | None:
    from tenshot.core.device import out_of_memory

    if not out_of_memory(error):
        return None
    relief = [advice for name, advice in _RELIEF.items() if name in type(options).model_fields]
    first = str(error).strip().partition("\n")[0] or "there is no more"
    return Fault("memory", first, "a job that fits into memory", "; ".join(relief) or "close other programs")
