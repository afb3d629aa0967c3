"""Device, dtype, seeds and memory. The only reader of torch.cuda."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
from collections.abc import Callable, Sequence
from typing import Any

import psutil
import torch

from tenshot.core import distributed
from tenshot.core.errors import Fault, Refusal

PRECISIONS = {"no": "fp32", "fp16": "fp16", "bf16": "bf16"}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def pick(name: str = "auto") -> torch.device:
    """The device called `name`; "auto" takes the first GPU, else the CPU. Raises Refusal where `name` is not there."""
    if name == "auto":
        name = f"cuda:{distributed.local_rank()}" if torch.cuda.is_available() else "mps" if has_mps() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # "meta" has no numbers
        if device.type == "cuda":
            torch.cuda.set_device(device)  # whose memory is counted
    except Exception as error:  # each backend has its own way to say that it is not there
        gpus = [*(f"cuda:{number}" for number in range(torch.cuda.device_count())), *(["mps"] if has_mps() else [])]
        here = ", ".join(["auto", "cpu", *gpus])
        reason = str(error).partition("\n")[0]
        found, do = f"{name!r} cannot be used: {reason}", "leave it out: a GPU is taken where there is one"
        raise Refusal(Fault("--device", found, here, do)) from None
    return device


def has_mps() -> bool:
    """Is there an Apple GPU?"""
    return torch.backends.mps.is_available()


def seed_of(*key: object) -> int:
    """A 63-bit seed that follows from `key` alone, equal on every machine."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*key: object) -> torch.Generator:
    """A CPU generator seeded by `key`: noise is drawn on the CPU so that a seed means the same everywhere."""
    return torch.Generator("cpu").manual_seed(seed_of(*key))


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast for `precision`: "no" | "fp16" | "bf16"."""
    dtype = DTYPES.get(precision, torch.bfloat16)
    return torch.autocast(device.type, dtype, enabled=precision != "no")


def precision(wanted: str | None, device: torch.device) -> str:
    """What to compute in where "no" | "fp16" | "bf16" is wanted: on a CPU bf16 if that is native, else fp32.

    None: what suits the device, which is 16 bits on a GPU, bf16 where it has them.

    Emulated, bf16 is no cheaper: a training step of the pocket UNet takes 19 s with it on an AVX2 CPU, 0.9 s without.
    """
    if wanted is None:
        return halves(device)[-1] if device.type == "cuda" else "no"
    if device.type != "cpu" or wanted == "no":
        return wanted
    return "bf16" if bf16_is_native() else "no"


def allow_tf32(device: torch.device) -> bool:
    """Let a GPU round the inputs of float32 products to 10 bits, as everyone does who trains; whether it is one."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return device.type == "cuda"


def bf16_is_native() -> bool:
    """True where bf16 matrix products run in hardware, so that bf16 is the faster choice."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def halves(where: torch.device) -> list[str]:
    """The 16-bit precisions that `where` computes in hardware, the first the most usual."""
    if where.type == "cuda":
        return ["fp16", "bf16"] if bf16_is_native() else ["fp16"]
    if where.type == "mps":
        return ["fp16"]
    return ["bf16"] if torch.cpu._is_avx512_bf16_supported() else []


def synchronize() -> None:
    """Until a GPU has done all that it was told to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    elif has_mps():
        torch.mps.synchronize()


def stream(where: torch.device) -> int:
    """The handle of the stream that torch uses there now."""
    return int(torch.cuda.current_stream(where).cuda_stream)


def captured(call: Callable[..., Sequence[torch.Tensor]], examples: Sequence[torch.Tensor]) -> Callable[..., Any]:
    """`call` as one CUDA graph for inputs like `examples`: no launch by launch, and the same memory every time."""
    mine = [torch.empty_like(each).copy_(each) for each in examples]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is done at the first calls only must not become part of the graph
        for _ in range(3):
            call(*mine)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = call(*mine)

    def again(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        for place, given in zip(mine, inputs, strict=True):
            place.copy_(given)
        graph.replay()
        return tuple(each.clone() for each in answer)

    return again


def memory_limit(device: torch.device) -> int:
    """How many bytes this process could have there in all: the GPU's, or what the system has left for it."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    return psutil.virtual_memory().available + psutil.Process().memory_info().rss


def out_of_memory(error: Exception) -> bool:
    """torch has an error type of its own for accelerators, and a mere RuntimeError for the CPU."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "can't allocate memory" in str(error)


def empty_cache() -> None:
    """Give back what the allocators hold unused."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif has_mps():
        torch.mps.empty_cache()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def reset_max_memory_allocated() -> None:
    """Start counting the peak anew (on the CPU: where the system allows it)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass


def max_memory_allocated() -> int:
    """Peak memory in bytes: of the accelerator where there is one, else of this process.

    Where the system does not tell the peak, as on Apple's, what is held now.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if has_mps():
        return torch.mps.driver_allocated_memory()
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        about = psutil.Process().memory_info()
        return getattr(about, "peak_wset", about.rss)


def memory_allocated() -> int:
    """Bytes that are in use now: of the accelerator where there is one, else of this process, libraries and all."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    return torch.mps.current_allocated_memory() if has_mps() else psutil.Process().memory_info().rss


def fingerprint(where: torch.device) -> dict[str, str]:
    """What programs compiled for `where` depend on."""
    if where.type == "cuda":
        major, minor = torch.cuda.get_device_capability(where)
        gpu = torch.cuda.get_device_name(where)
        return {"gpu": gpu, "capability": f"{major}.{minor}", "cuda": str(torch.version.cuda)}
    if where.type == "mps":
        return {"gpu": _cpu_name() or platform.machine(), "system": f"macOS {platform.mac_ver()[0]}"}
    name = _cpu_name() or platform.machine()
    return {"cpu": name, "instructions": torch.backends.cpu.get_cpu_capability(), "system": platform.system()}


def describe() -> dict[str, object]:
    """What this machine is, for manifests and reports."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else (_cpu_name() or platform.machine()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
