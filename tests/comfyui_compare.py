"""A custom node for ComfyUI, in tests only: asks its own UNet every question, too, and notes how far apart they are."""

import json
import os
import time
from pathlib import Path

import torch
from comfy.patcher_extension import WrappersMP

NOTES = Path(os.environ["TENSHOT_TESTS_NOTES"])


def copied(control):
    return {name: list(each) for name, each in control.items()} if control else control


def compare(executor, x, timesteps, context=None, y=None, control=None, transformer_options=None, **more):
    """The answer of what comes after, and ComfyUI's own, from the same question."""
    before = time.perf_counter()
    found = executor(x, timesteps, context, y, copied(control), transformer_options, **more)
    between = time.perf_counter()
    wanted = executor.original(x, timesteps, context, y, copied(control), dict(transformer_options), **more)
    after = time.perf_counter()
    apart = float(torch.linalg.vector_norm(found - wanted) / torch.linalg.vector_norm(wanted))
    with NOTES.open("a") as file:
        file.write(json.dumps({"apart": apart, "compiled": between - before, "comfyui": after - between}) + "\n")
    return found


class Compare:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "use", "tests"

    def use(self, model):
        clone = model.clone()
        clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "tests", compare)
        return (clone,)


NODE_CLASS_MAPPINGS = {"TestsCompare": Compare}
