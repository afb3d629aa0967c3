"""What a model's weights are, to the bit; and a model folder in which somebody writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tenshot.io import tensor_files
from tests.test_swap import answers

NETS = ("unet", "vae", "text_encoder")


def weights(opened: Any) -> dict[str, torch.Tensor]:
    """What every part has now, as a user sees it."""
    return {f"{part}.{name}": each.clone() for part in NETS for name, each in opened[part].state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def state(opened: Any) -> dict[str, torch.Tensor]:
    """Weights, and what the programs answer with theirs."""
    return weights(opened) | {f"answer {number}": each for number, each in enumerate(answers(opened))}


def overwritten(folder: Path) -> None:
    """Every number in a model folder becomes 0, in the files that are there."""
    for path in folder.rglob("*.safetensors"):
        start = tensor_files.opened(path) and 8 + int.from_bytes(path.read_bytes()[:8], "little")
        with path.open("r+b") as file:
            file.seek(start)
            file.write(bytes(path.stat().st_size - start))
