"""ComfyUI nodes that let a model's UNet run as `tenshot compile` compiled it.

The model that comes in keeps all that ComfyUI put on it. Where the compiled UNet cannot honour something, ComfyUI's own
answers, and one line in the log says why.
"""

import logging
import os
import weakref
from functools import wraps
from pathlib import Path

import comfy.lora
import comfy.model_management
import comfy.sd
import folder_paths
import torch
from comfy.patcher_extension import WrappersMP

from tenshot.core.errors import Refusal
from tenshot.runtime import artifact, hosted

KEY, PREFIX = "tenshot", "diffusion_model."
AUTO = "TENSHOT_COMFYUI_AUTO"
#: What samplers and ComfyUI's own UNet leave in transformer_options; none of it changes an answer.
HARMLESS = {"wrappers", "callbacks", "cond_or_uncond", "uuids", "sigmas", "sample_sigmas"}
HARMLESS |= {"original_shape", "transformer_index", "block", "block_index", "activations_shape"}

folder_paths.add_model_folder_path(KEY, os.path.join(folder_paths.models_dir, KEY))
_opened = {}  # folder, device -> its Hosted
_digests = {}  # folder, kind of numbers -> the digest of its weights


def artifacts():
    """Name -> folder, of all that lies in ComfyUI's folders for compiled models."""
    places = [Path(each) for each in folder_paths.get_folder_paths(KEY)]
    return {
        each.name: each
        for place in places
        if place.is_dir()
        for each in sorted(place.iterdir())
        if artifact.is_one(each)
    }


def opened(place):
    key = place.resolve(), str(comfy.model_management.get_torch_device())
    if key not in _opened:
        _opened[key] = hosted.open_hosted(*key)
    return _opened[key]


class Compiled:
    """The wrapper around ComfyUI's UNet. told: what the log says of the picture whose sigmas these are."""

    def __init__(self, model, net):
        self.model, self.net = weakref.ref(model), net
        self.sigmas, self.told = None, set()

    def __call__(self, executor, x, timesteps, context=None, y=None, control=None, transformer_options=None, **more):
        options = transformer_options or {}
        patcher = self.model().current_patcher
        reason = next(_strange(executor, patcher, context, control, options, more), "")
        if not reason:
            try:
                question = self.net.asked(x, timesteps, context, y, _residuals(control))
                if self.net.follow(patcher.model, patcher.patches_uuid, lambda: _weights(patcher)):
                    logging.info(
                        "Tenshot: the compiled UNet has this model's weights, %d patched", len(patcher.patches)
                    )
                return self.net(question)
            except Refusal as refusal:
                reason = "; ".join(f"{fault.where}: {fault.found}" for fault in refusal.faults)
        self.tell(reason, options.get("sample_sigmas"))
        return executor(x, timesteps, context, y, control, options, **more)

    def tell(self, reason, sigmas):
        if sigmas is not self.sigmas:
            self.sigmas, self.told = sigmas, set()
        if reason not in self.told:
            self.told.add(reason)
            logging.warning("Tenshot: ComfyUI's own UNet draws, not the compiled one: %s", reason)


def _strange(executor, patcher, context, control, options, more):
    """What is asked for that no compiled UNet does."""
    if context is None:
        yield "there is no text"
    yield from (f"{name} is asked for" for name, value in more.items() if value is not None)
    for name, value in options.items():
        if name not in HARMLESS and value is not None and not (hasattr(value, "__len__") and len(value) == 0):
            yield f"the model has {name}" + (f" ({', '.join(map(str, value))})" if isinstance(value, dict) else "")
    if not all(isinstance(each, Compiled) for each in executor.wrappers[executor.idx + 1 :]):
        yield "another extension has wrapped the UNet after Tenshot"
    if control and any(each is not None for each in control.get("input", ())):
        yield "a T2I-Adapter, or another control of the input blocks"
    yield from (f"{name} is replaced" for name in patcher.object_patches if name.startswith(PREFIX.rstrip(".")))
    yield from (f"{name} is wrapped" for name in patcher.weight_wrapper_patches)
    if patcher.hook_patches or patcher.current_hooks:
        yield "weights that come by hooks, in a part of the picture or of the steps"
    yield from (f"{name} is injected into the model" for name in patcher.injections)


def _weights(patcher):
    """The model's own weights, and what ComfyUI would make of those that are patched: here without rounding."""
    every = {name.removeprefix(PREFIX): each for name, each in patcher.get_key_patches(PREFIX).items()}
    own = {name: _own(*each[0]) for name, each in every.items()}
    return own, {name: _patched(name, each) for name, each in every.items() if len(each) > 1}


def _own(weight, convert):
    """Numbers of eight bits as what they stand for."""
    return weight if weight.element_size() > 1 else convert(weight.float(), inplace=False)


def _patched(name, entries):
    (weight, convert), *patches = entries
    where = comfy.model_management.get_torch_device()
    whole = comfy.model_management.cast_to_device(weight, where, torch.float32, copy=True)
    return comfy.lora.calculate_weight(patches, convert(whole, inplace=True), PREFIX + name)


def _residuals(control):
    """ComfyUI takes both lists from their ends."""
    if not control:
        return None
    down, middle = control.get("output", ()), control.get("middle", ())
    found = [*down], middle[-1] if middle else None
    return found if any(each is not None for each in (*found[0], found[1])) else None


def compiled(model, place):
    """A clone of a ComfyUI model whose UNet runs as it was compiled. Raises Refusal where that cannot be opened."""
    clone = model.clone()
    clone.remove_wrappers_with_key(WrappersMP.DIFFUSION_MODEL, KEY)
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, Compiled(model.model, opened(place)))
    return clone


class TenshotCompiledModel:
    """Tenshot: use compiled model."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "artifact": (sorted(artifacts()),)}}

    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "use", "loaders/tenshot"
    DESCRIPTION = "Runs the UNet as `tenshot compile` compiled it, with this model's weights, LoRAs and ControlNets."

    def use(self, model, artifact):
        return (compiled(model, artifacts()[artifact]),)


def automatic(model):
    """The model with the artifact that was compiled from its weights, where there is one."""
    if model is None or KEY in model.wrappers.get(WrappersMP.DIFFUSION_MODEL, {}):
        return model
    weights = {name.removeprefix(PREFIX): each for name, each in model.model_state_dict(PREFIX).items()}
    dtype = next(iter(weights.values()), torch.empty(0)).dtype
    found = hosted.digest(weights, dtype)
    for name, place in artifacts().items():
        try:
            if (place, dtype) not in _digests:
                _digests[place, dtype] = hosted.digest_of(place, dtype)
            if _digests[place, dtype] == found:
                logging.info("Tenshot: %s was compiled from this model, and runs it", name)
                return compiled(model, place)
        except Refusal as refusal:
            logging.warning("Tenshot: %s is left out: %s", name, refusal)
    return model


def _following(load):
    """ComfyUI's loader, and `automatic` after it."""

    @wraps(load)
    def loaded(*given, **named):
        found = load(*given, **named)
        return (automatic(found[0]), *found[1:]) if isinstance(found, tuple) else automatic(found)

    return loaded


if os.environ.get(AUTO, "") not in ("", "0"):
    for each in ("load_state_dict_guess_config", "load_diffusion_model_state_dict"):
        setattr(comfy.sd, each, _following(getattr(comfy.sd, each)))

NODE_CLASS_MAPPINGS = {"TenshotCompiledModel": TenshotCompiledModel}
NODE_DISPLAY_NAME_MAPPINGS = {"TenshotCompiledModel": "Tenshot: use compiled model"}
