"""The optimizers people name, from the libraries that keep them. Those that are not torch's own come with an extra."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, get_args

import torch

from tenshot.core import device
from tenshot.core.errors import Fault, Refusal
from tenshot.train.options import LoopOptions, Optimizer, TrainOptions

EXTRA = 'pip install "tenshot[optimizers]"'


@dataclass(frozen=True)
class Kind:
    """place: "module:class". told: its arguments besides parameters and rate. averages: it has train() and eval()."""

    place: str
    told: Callable[[LoopOptions], Mapping[str, object]]
    averages: bool = False


def _adam(options: LoopOptions) -> dict[str, object]:
    return {
        "betas": (options.adam_beta1, options.adam_beta2),
        "weight_decay": options.adam_weight_decay,
        "eps": options.adam_epsilon,
    }


def _lion(options: LoopOptions) -> dict[str, object]:
    return {"betas": (options.adam_beta1, options.adam_beta2), "weight_decay": options.adam_weight_decay}


def _adafactor(options: LoopOptions) -> dict[str, object]:
    """With the learning rate as it is given, not one of its own."""
    own = {"scale_parameter": False, "relative_step": False, "warmup_init": False}
    return own | {"weight_decay": options.adam_weight_decay}


KINDS: dict[str, Kind] = {
    "adamw": Kind("torch.optim:AdamW", lambda options: _adam(options) | {"fused": True}),
    "adamw8bit": Kind("bitsandbytes.optim:AdamW8bit", _adam),
    "adafactor": Kind("transformers.optimization:Adafactor", _adafactor),
    "lion": Kind("lion_pytorch:Lion", _lion),
    "prodigy": Kind("prodigyopt:Prodigy", lambda o: _adam(o) | {"safeguard_warmup": True, "use_bias_correction": True}),
    "schedulefree": Kind("schedulefree:AdamWScheduleFree", _adam, averages=True),
}


def chosen(options: LoopOptions) -> str:
    return "adamw8bit" if options.use_8bit_adam else options.optimizer


def schedule(options: LoopOptions) -> str:
    """The course of the learning rate by its name in diffusers, whose constant one knows no warm-up."""
    warms = options.lr_scheduler == "constant" and options.lr_warmup_steps
    return "constant_with_warmup" if warms else options.lr_scheduler


def check(options: LoopOptions, where: str) -> None:
    """Refuse an optimizer that is not installed, or that cannot do what is asked. where: the device's name."""
    name = chosen(options)
    faults = []
    if options.use_8bit_adam and options.optimizer not in ("adamw", "adamw8bit"):
        found = f"stands beside --optimizer {options.optimizer}"
        faults.append(Fault("--use_8bit_adam", found, "one of the two", "leave --use_8bit_adam out"))
    if name == "adamw8bit" and _is_cpu(where):
        found = "adamw8bit keeps its 8-bit state on a GPU only"
        faults.append(Fault("--optimizer", found, "adamw or adafactor", "adafactor needs the least memory on a CPU"))
    if KINDS[name].averages and options.lr_scheduler not in ("constant", "constant_with_warmup"):
        found = f"{options.lr_scheduler}, with an optimizer that replaces the schedule"
        faults.append(Fault("--lr_scheduler", found, "constant or constant_with_warmup", "leave it out"))
    if KINDS[name].averages and options.use_ema:
        faults.append(Fault("--use_ema", f"{name} averages by itself", "no running average", "leave --use_ema out"))
    if name == "prodigy" and options.learning_rate < 0.1:
        found = f"{options.learning_rate:g} with prodigy, which finds the rate by itself and multiplies it by this"
        faults.append(Fault("--learning_rate", found, "1, or near it", "--learning_rate 1"))
    own = [f"--{each}" for each in ("text_encoder_lr", "block_rates") if getattr(options, each, None)]
    if name == "prodigy" and own:
        found, do = "prodigy takes one learning rate for all", f"leave {' and '.join(own)} out, or --optimizer adamw"
        faults.append(Fault("--optimizer", found, "another optimizer, or no rates for parts", do))
    try:
        _kind(name)
    except ImportError:
        package = KINDS[name].place.split(":")[0].split(".")[0]
        fits = ", ".join(
            each for each in get_args(Optimizer) if KINDS[each].place.startswith(("torch", "transformers"))
        )
        faults.append(Fault(f"--optimizer {name}", f"{package} is not installed", fits, EXTRA))
    if faults:
        raise Refusal(*faults)


def check_compiler(options: TrainOptions) -> None:
    """Refuse a --torch_compile_backend that torch does not know, or that finds no compiler here."""
    if not options.torch_compile:
        return
    known = torch._dynamo.list_backends(None)
    where, name = "--torch_compile_backend", options.torch_compile_backend
    if name not in known:
        raise Refusal(Fault(where, repr(name), ", ".join(known), "leave it out for inductor"))
    if name == "inductor":
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:
            get_cpp_compiler()
        except RuntimeError:
            do = "install g++, or leave --torch_compile out"
            raise Refusal(Fault(where, "inductor finds no C++ compiler here", "a compiler", do)) from None


def make(options: LoopOptions, groups: Sequence[Mapping[str, object]]) -> Any:
    """The optimizer that `options` name. groups: parameters with their learning rates."""
    name = chosen(options)
    return _kind(name)([dict(group) for group in groups], lr=options.learning_rate, **KINDS[name].told(options))


def _is_cpu(where: str) -> bool:
    try:
        return device.pick(where).type == "cpu"
    except Refusal:  # its own fault, told by whoever asked for it
        return False


def _kind(name: str) -> Any:
    module, kind = KINDS[name].place.split(":")
    return getattr(import_module(module), kind)
