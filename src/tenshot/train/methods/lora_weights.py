"""Additions beside a denoiser's layers train: LoRA, and what is made of it. What comes out is one small file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn

from tenshot.adapters import lora
from tenshot.core.errors import Fault, Refusal
from tenshot.core.json_types import Config
from tenshot.export.install import Result
from tenshot.families import text_model, validate
from tenshot.io import tensors
from tenshot.model import model
from tenshot.model.model import Model
from tenshot.train import finetune
from tenshot.train.distillation_options import DistillationOptions
from tenshot.train.engine import quantize
from tenshot.train.options import FineTuneOptions, LoraOptions

Adapting: TypeAlias = LoraOptions | DistillationOptions
SHAPES = (
    "rank",
    "lora_alpha",
    "layers",
    "block_ranks",
    "use_dora",
    "use_rslora",
    "init_lora_weights",
)  # given by a file to start from


class LoraTrainable:
    """Additions to the denoiser, and to the text encoders where the options say so."""

    saves_model = False

    def __init__(self, base: Model, options: Adapting, about: Mapping[str, str] | None = None) -> None:
        """about: for the file's metadata."""
        self.model, self.options, self.about = base, options, about
        self.trains_text_encoder = options.text_encoder_learns
        for part in base.family.nets:
            base[part].requires_grad_(False)
        if options.quantize_base:
            quantize.quantize(base.denoiser, options.quantize_base)
        begun = lora.to_train(lora.read(options.start_from), options.start_from) if options.start_from else None
        self.settings = begun.settings if begun else _settings(base, options)
        lora.attach(base, begun or lora.new(self.settings))
        self.parts: Mapping[str, nn.Module] = {part: base[part] for part in self.settings}
        for net in self.parts.values():
            for name, parameter in net.named_parameters():
                parameter.requires_grad_("lora_" in name)

    def lr_multiplier(self, part: str, name: str) -> float:
        own = None
        if part != self.model.family.denoiser and isinstance(self.options, FineTuneOptions):
            own = self.options.text_encoder_lr
        factor = (own or self.options.learning_rate) / self.options.learning_rate
        return factor * _named(self.options.block_rates, f"{part}.{name}", 1.0)

    def check(self, folder: Path) -> None:
        live = lora.current(self.model, self.settings)
        if not any(tensor.any() for w in live.weights.values() for n, tensor in w.items() if ".lora_B." in n):
            found = "all its additions are zero: it has no effect"
            do = "raise --max_train_steps or --learning_rate"
            raise Refusal(Fault(str(folder / lora.FILE), found, "additions that learned something", do))

    def save(self, folder: Path) -> None:
        learned = lora.current(self.model, self.settings)
        lora.write(folder / lora.FILE, learned, self.parts, self.model.family, self.about)

    def verify(self, folder: Path) -> None:
        """Bit for bit what was trained."""
        file = folder / lora.FILE
        read, live = lora.read(file), lora.current(self.model, self.settings)
        for part, weights in live.weights.items():
            named = {text_model.bare(name): tensor for name, tensor in read.weights[part].items()}
            if any(not torch.equal(t.cpu(), named[text_model.bare(name)]) for name, t in weights.items()):
                raise Refusal(Fault(str(file), f"{part}: tensors differ after writing", do="check the disk"))


def _settings(base: Model, options: Adapting) -> dict[str, Config]:
    encoders = base.family.encoders if options.text_encoder_learns else ()
    return {part: _part_settings(base, part, options) for part in (base.family.denoiser, *encoders)}


def _part_settings(base: Model, part: str, options: Adapting) -> Config:
    ends = base.family.targets(part, options.layers)
    names = [name for name, _ in base[part].named_modules() if lora.targeted(name, ends)]
    ranks = {name: _named(options.block_ranks, f"{part}.{name}", options.rank) for name in names}
    others = {name: int(rank) for name, rank in ranks.items() if rank != options.rank}
    strength = (options.lora_alpha or options.rank) / options.rank
    return {
        "r": options.rank,
        "lora_alpha": strength * options.rank,
        "target_modules": ends,
        "rank_pattern": others,
        "alpha_pattern": {name: strength * rank for name, rank in others.items()},
        "use_dora": options.use_dora,
        "use_rslora": options.use_rslora,
        "init_lora_weights": "gaussian" if options.init_lora_weights == "gaussian" else True,
    }


def _named(table: Mapping[str, float], name: str, otherwise: float) -> float:
    """The value of the longest key that `name` contains, from dot to dot."""
    keys = [key for key in table if inside(key, name)]
    return table[max(keys, key=len)] if keys else otherwise


def inside(key: str, name: str) -> bool:
    """Is `key` in a layer's name, from dot to dot, whatever the version of transformers calls it?"""
    bare, wanted = (f".{text}.".replace(f".{text_model.PREFIX}", ".") for text in (name, key))
    return wanted in bare


def faults(options: Adapting) -> Iterator[Fault]:
    """What is wrong with the options of the adapter."""
    if options.start_from:
        yield from _start_faults(options)
    yield from _block_faults(options)
    try:
        quantize.check(options.quantize_base)
    except Refusal as refusal:
        yield from refusal.faults


def _start_faults(options: Adapting) -> Iterator[Fault]:
    try:
        place = options.start_from or Path()
        begun = lora.to_train(lora.read(place), place)
    except Refusal as refusal:
        yield from refusal.faults
        return
    fields = type(options).model_fields
    for name in SHAPES:
        if getattr(options, name) != fields[name].default:
            yield Fault(f"--{name}", "is settled by the file of --start_from", "one of the two", "leave it out")
    if options.text_encoder_learns != any(part.startswith("text_encoder") for part in begun.settings):
        holds = "holds" if not options.text_encoder_learns else "holds no"
        fits = "--train_text_encoder exactly where the file has a text encoder's part"
        do = "add --train_text_encoder" if not options.text_encoder_learns else "leave --train_text_encoder out"
        yield Fault("--start_from", f"{options.start_from} {holds} additions to a text encoder", fits, do)


def _block_faults(options: Adapting) -> Iterator[Fault]:
    """Names that no trained layer contains."""
    try:
        place = model.find(options.pretrained_model_name_or_path, vae=options.vae)
        names = list(_layers(options, place))
    except Refusal:
        return  # told elsewhere
    for option in ("block_ranks", "block_rates"):
        for key in getattr(options, option):
            if not any(inside(key, name) for name in names):
                blocks = sorted({".".join(name.split(".")[: 3 if "blocks" in name else 2]) for name in names})
                found = f"{key!r} is in the name of no trained layer"
                yield Fault(f"--{option}", found, ", ".join(blocks), "correct the name, or leave it out")


def _layers(options: Adapting, place: Path) -> dict[str, tuple[int, ...]]:
    """The layers that get additions, "unet.NAME", with the shapes of their weights."""
    found = {}
    family = validate.family_of(place)
    for part in finetune.parts(options, place):
        ends = family.targets(part, options.layers)
        for path in validate.weights(place / part)[1]:
            for name, shape in tensors.shapes(path).items():
                layer = text_model.bare(name.removesuffix(".weight"))
                if name.endswith(".weight") and lora.targeted(layer, ends):
                    found[f"{part}.{layer}"] = shape
    return found


def trained(options: Adapting, place: Path) -> int:
    """How many numbers train."""
    return sum(
        int(_named(options.block_ranks, name, options.rank)) * (shape[0] + math.prod(shape[1:]))
        for name, shape in _layers(options, place).items()
    )


def results(options: Adapting, trigger: str = "") -> list[Result]:
    """One file."""
    folder = options.output_dir
    return [Result("lora", folder / lora.FILE, folder.resolve().name, trigger)]
