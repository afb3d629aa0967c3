"""What a compiled artifact depends on: the processor, its driver, and the versions of what runs it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

import torch

from tenshot.core import device
from tenshot.core.errors import Fault

PACKAGES = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu"), "openvino": ("openvino",), "tensorrt": ("tensorrt",)}


def here(backends: Iterable[str], where: torch.device) -> dict[str, str]:
    """The fingerprint of this machine for programs of these backends."""
    names = ("torch", *(name for each in sorted(set(backends)) for name in PACKAGES.get(each, ())))
    versions = {name: found for name in names if (found := _version(name))}
    return device.fingerprint(where) | versions


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def differences(made: Mapping[str, str], now: Mapping[str, str], again: str) -> Iterator[Fault]:
    """A fault for each thing that is another here. again: the command that compiles anew."""
    for name in sorted(made.keys() | now.keys()):
        if made.get(name) != now.get(name):
            found = f"was compiled for {made.get(name, 'none')}, and here it is {now.get(name, 'none')}"
            yield Fault(name, found, "the machine and the versions it was compiled with", again)
