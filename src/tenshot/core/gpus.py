"""Which GPUs there are, as far as that can be told at once: torch takes seconds to import."""

from __future__ import annotations

import ctypes
import re
import sys
from importlib.util import find_spec
from pathlib import Path

FOR = {"cuda": ("cuda", "hip"), "xpu": ("xpu",)}  # a device's kind -> what torch has to be built with


def hurdle(name: str) -> str:
    """Why the device called `name` cannot be used, in words; empty where it can be, or only torch can tell."""
    kind, _, number = name.partition(":")
    if kind == "mps":
        return "" if sys.platform == "darwin" else "only Macs have it"
    built = built_with()
    if kind not in FOR or built is None:
        return ""
    if not built & {*FOR[kind]}:
        return f"the torch that is installed was built without {kind}"
    count = nvidia() if kind == "cuda" and "hip" not in built else None
    if count is None or int(number or 0) < count:
        return ""
    return f"{count} GPUs are here, counted from cuda:0" if count else "no NVIDIA GPU, or no driver, is here"


def built_with() -> set[str] | None:
    """What torch was built with, of cuda, hip and xpu; None where it does not say."""
    spec = find_spec("torch")
    told = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    if told is None or not told.is_file():
        return None
    found = dict(re.findall(r"^(cuda|hip|xpu)\b[^=\n]*= *(\S+)", told.read_text(encoding="utf-8"), re.MULTILINE))
    return {name for name, value in found.items() if value != "None"} if found else None


def nvidia() -> int | None:
    """How many GPUs NVIDIA's driver shows to this process; None where it does not say."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count, failed = ctypes.c_int(), driver.cuInit(0)
    if failed == 100:  # CUDA_ERROR_NO_DEVICE
        return 0
    return None if failed or driver.cuDeviceGetCount(ctypes.byref(count)) else count.value
