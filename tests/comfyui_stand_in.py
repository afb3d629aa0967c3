"""A stand-in for the few calls of ComfyUI that our node makes, as its source of October 2025 has them: only read."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from uuid import uuid4

import torch

PREFIX = "diffusion_model."


def modules(models: Path) -> dict[str, ModuleType]:
    """ComfyUI's modules."""
    names = ("comfy", "comfy.lora", "comfy.model_management", "comfy.sd", "comfy.patcher_extension", "folder_paths")
    found = {name: ModuleType(name) for name in names}
    for name, module in found.items():
        outer, _, inner = name.partition(".")
        if inner:
            setattr(found[outer], inner, module)
    places: dict[str, list[str]] = {}
    vars(found["folder_paths"]).update(
        {
            "models_dir": str(models),
            "add_model_folder_path": lambda kind, place: places.setdefault(kind, []).append(place),
            "get_folder_paths": places.__getitem__,
        }
    )
    vars(found["comfy.patcher_extension"])["WrappersMP"] = SimpleNamespace(DIFFUSION_MODEL="diffusion_model")
    vars(found["comfy.lora"])["calculate_weight"] = calculate_weight
    vars(found["comfy.model_management"]).update(
        {
            "get_torch_device": lambda: torch.device("cpu"),
            "cast_to_device": lambda tensor, where, dtype, copy: tensor.to(where, dtype, copy=copy),
        }
    )
    for name in ("load_state_dict_guess_config", "load_diffusion_model_state_dict"):
        setattr(found["comfy.sd"], name, lambda found: found)
    return found


def calculate_weight(patches: list[Any], weight: torch.Tensor, key: str) -> torch.Tensor:
    """Of ComfyUI's kinds of patches a difference."""
    for strength, (difference,), *_ in patches:
        weight += strength * difference
    return weight


class Patcher:
    """A ModelPatcher. model: holds the weights, which clones share."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        self.model = Inner(weights)
        self.patches: dict[str, list[Any]] = {}
        self.patches_uuid = uuid4()
        self.wrappers: dict[str, dict[str, list[Any]]] = {}
        self.object_patches: dict[str, object] = {}
        self.weight_wrapper_patches: dict[str, object] = {}
        self.hook_patches: dict[str, object] = {}
        self.current_hooks: object = None
        self.injections: dict[str, object] = {}

    def clone(self) -> Patcher:
        found = copy(self)
        found.patches = {name: [*each] for name, each in self.patches.items()}
        found.wrappers = {kind: {name: [*each] for name, each in by.items()} for kind, by in self.wrappers.items()}
        return found

    def add_wrapper_with_key(self, kind: str, key: str, wrapper: object) -> None:
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)

    def remove_wrappers_with_key(self, kind: str, key: str) -> None:
        self.wrappers.get(kind, {}).pop(key, None)

    def patched(self, layer: str, difference: torch.Tensor, strength: float = 1.0) -> Patcher:
        """As a LoRA's node leaves it."""
        found = self.clone()
        found.patches.setdefault(PREFIX + layer, []).append((strength, (difference,), 1.0, None, None))
        found.patches_uuid = uuid4()
        return found

    def model_state_dict(self, prefix: str) -> dict[str, torch.Tensor]:
        return {prefix + name: tensor for name, tensor in self.model.weights.items()}

    def get_key_patches(self, prefix: str) -> dict[str, list[Any]]:
        self.model.read += 1
        every = self.model_state_dict(prefix).items()
        return {name: [(tensor, lambda a, **_: a), *self.patches.get(name, ())] for name, tensor in every}


class Inner:
    """A BaseModel."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        self.weights = weights
        self.current_patcher: Patcher | None = None
        self.read = 0


class Executor:
    """What a wrapper calls to go on. asked: how often ComfyUI's own UNet was."""

    def __init__(self, patcher: Patcher) -> None:
        self.wrappers = [each for by in patcher.wrappers["diffusion_model"].values() for each in by]
        self.idx, self.asked = 0, 0

    def __call__(self, x: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        self.asked += 1
        return torch.zeros_like(x)
