"""A whole model's tensors, by part and not yet read: from a folder or from one file, and into either."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from tenshot import __version__
from tenshot.core.errors import Fault, Refusal
from tenshot.core.events import Events
from tenshot.core.json_types import Config
from tenshot.diffusion.process import DDPM
from tenshot.families import conversion, partial_checkpoints, registry, shapes, text_model, validate
from tenshot.families.base import ZEROS, Family
from tenshot.families.components import Net
from tenshot.families.conversion import Ledger
from tenshot.io import tensor_files, tensors, text_files
from tenshot.io.tensor_files import Container, Lazy
from tenshot.model import folders, header, single_nets, tokenizers
from tenshot.model.header import TOLD
from tenshot.model.tokenizers import Words

V_PREDICTION = 0.09  # above it lies the spread of a norm's bias in Stable Diffusion 2 models that predict v
NORM = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"


@dataclass(frozen=True)
class LazyModel:
    """parts: part -> its tensors under our names. words: tokenizer -> what `tokenizers.from_metadata` has to know.

    zeros: no negative prompt means zeros; None: as the family has it.
    """

    family: Family
    parts: Mapping[str, Mapping[str, Lazy]]
    configs: Mapping[str, Config]
    scheduler_config: Config
    words: Mapping[str, Words]
    place: Path
    zeros: bool | None = None
    ledger: Ledger = field(default_factory=Ledger)

    @property
    def denoiser(self) -> Config:
        """The configuration of the part that tells noise from picture."""
        return self.configs[self.family.denoiser]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {f"{part}.{name}": lazy.shape for part, content in self.parts.items() for name, lazy in content.items()}

    @property
    def layers(self) -> dict[tuple[str, str], tuple[int, ...]]:
        """Part and layer -> the shape of its weight; followed by .bias -> of its bias."""
        return {
            (part, name.removesuffix(".weight")): lazy.shape
            for part, content in self.parts.items()
            for name, lazy in content.items()
            if name.endswith((".weight", ".bias"))
        }

    def cast(self, dtype: torch.dtype | None) -> LazyModel:
        return replace(self, parts={part: conversion.cast(content, dtype) for part, content in self.parts.items()})


def differences(base: LazyModel, other: LazyModel, fits: str, do: str) -> Iterator[Fault]:
    """What keeps another model from being compared with `base`, tensor by tensor."""
    if names := shapes.differences(base.shapes, other.shapes).names:
        found = f"{len(names)} tensors are not the same as in {base.place}: {', '.join(names[:3])}"
        yield Fault(str(other.place), found, fits, do)


def read(place: Path, config: Path | None = None, ema: bool = False, vae: Path | None = None) -> LazyModel:
    """A model folder, or one file. Raises Refusal.

    config: a model folder that tells what a file cannot. vae: a file or folder whose VAE takes the place of its own,
    which it then need not have.
    """
    if place.is_dir() or str(place) == "pocket":
        found = of_folder(folders.find(str(place)))
        return with_vae(found, vae) if vae else found
    source = tensor_files.opened(place)
    return of_file(source, known(source, vae, config), config, ema, vae)


def known(source: Container, vae: Path | None = None, config: Path | None = None) -> Family:
    """Of which family a file is. Raises Refusal where it is none of a model, or of part of one."""
    family, place = family_of(source, vae, config), source.place
    if family is None:
        partial_checkpoints.refuse(place, source.tensors)
        names = ", ".join(sorted(source.tensors)[:3]) or "no tensor"
        found, do = f"is no checkpoint of a known family ({names}, ...)", f"tenshot inspect {place} says what it is"
        raise Refusal(Fault(str(place), found, "a model folder or file", do))
    return family


def family_of(source: Container, vae: Path | None = None, config: Path | None = None) -> Family | None:
    """Of a checkpoint whose every part is there; with another `vae`, but for its own.

    With `config` a part of a checkpoint is one, too, if it has a denoiser as that model's: that gives what is lacking.
    """
    named = source.tensors
    if found := conversion.recognised(named, registry.FAMILIES, besides=("vae",) if vae else ()):
        return found
    if config is None:
        return None
    family = validate.family_of(folders.find(str(config)))
    others = [part for part in family.original if part != family.denoiser]
    alone = not vae and not any(conversion.landmarks(family)[part] in named for part in others)
    return None if alone else conversion.recognised(named, [family], besides=others)


def with_vae(whole: LazyModel, vae: Path) -> LazyModel:
    """The same model with another VAE. Raises Refusal where it is none, or of another kind of latents."""
    found = single_nets.read(vae, kind=whole.family.parts["vae"])
    channels, wanted = found.config.get("latent_channels", 4), whole.denoiser.get("out_channels", 4)
    if channels != wanted:
        told = f"has latents of {channels} channels, the denoiser takes {wanted}"
        raise Refusal(Fault(f"--vae {vae}", told, f"a VAE of {whole.family.title}", "name another"))
    own = whole.configs.get("vae", {})
    latents = {name: own.get(name, usual) for name, usual in whole.family.latents.items()}
    config = {**found.config, **latents}
    contents, configs = {**whole.parts, "vae": found.content}, {**whole.configs, "vae": config}
    parts = {part: contents[part] for part in whole.family.original}
    return replace(whole, parts=parts, configs={part: configs[part] for part in parts})


def of_folder(place: Path) -> LazyModel:
    family = validate.examine(place)
    configs = {part: _config(place / part) for part in family.original}
    parts = {}
    for part, config in configs.items():
        wanted = conversion.skeleton(family.parts[part], config)
        parts[part] = {name: lazy for name, lazy in validate.contents(place / part).items() if name in wanted}
    return LazyModel(
        family,
        parts,
        configs,
        text_files.read_object(place / "scheduler" / "scheduler_config.json"),
        {
            name: tokenizers.as_metadata(place / name, padding, family.parts[name])
            for name, padding in family.paddings.items()
        },
        place,
        text_files.read_object(place / "model_index.json").get(ZEROS),
    )


def _config(part: Path) -> dict[str, object]:
    return {
        name: value for name, value in text_files.read_object(part / "config.json").items() if name != "_name_or_path"
    }


def of_file(
    source: Container, family: Family, config: Path | None = None, ema: bool = False, vae: Path | None = None
) -> LazyModel:
    if vae:
        root, _ = family.original["vae"]
        original = {part: place for part, place in family.original.items() if part != "vae"}
        named = {name: lazy for name, lazy in source.tensors.items() if not name.startswith(root)}
        bare = of_file(replace(source, tensors=named), replace(family, original=original), config, ema)
        return with_vae(replace(bare, family=family), vae)
    if config:
        other = of_folder(folders.find(str(config)))
        if lacking := [part for part, mark in conversion.landmarks(family).items() if mark not in source.tensors]:
            return _completed(source, family, other, lacking, config, ema)
        if other.family.name != family.name:
            found, fits = f"{config} is {other.family.title}", f"{family.title}, as {source.place} is"
            raise Refusal(Fault("--config", found, fits, "leave it out, or name a model folder of that family"))
        told = _told(other)
    else:
        told = header.read(source)
    configs = conversion.configured(family, source.tensors, told.get("configs", {}))
    parts, ledger = conversion.to_parts(family, source.tensors, configs, ema)
    schedule = told.get("schedule") or schedule_of(source, family)
    words = {name: told.get("tokenizers", {}).get(name, {}) for name in family.paddings}
    return LazyModel(family, parts, configs, schedule, words, source.place, told.get(ZEROS), ledger)


def _completed(
    source: Container, family: Family, other: LazyModel, lacking: Sequence[str], config: Path, ema: bool
) -> LazyModel:
    """A part of a checkpoint, with the nets of another model for those that it lacks."""
    original = {part: place for part, place in family.original.items() if part not in lacking}
    part = of_file(source, replace(family, original=original), config, ema)
    contents, configs = (
        {**theirs, **ours} for theirs, ours in ((other.parts, part.parts), (other.configs, part.configs))
    )
    parts = {name: contents[name] for name in family.original}
    return replace(part, family=family, parts=parts, configs={name: configs[name] for name in parts})


def schedule_of(source: Container, family: Family) -> dict[str, object]:
    """The noise schedule of a file that does not say it: as the family was released."""
    found = {**family.scheduler_config}
    if len(family.process.predictions()) > 1:
        found["prediction_type"] = prediction(source, family)
    if found.get("prediction_type") == "v_prediction":
        found |= family.v_schedule
    if "ztsnr" in source.tensors:
        found["rescale_betas_zero_snr"] = True
    return found


def _told(whole: LazyModel) -> dict[str, Any]:
    """What the original layout cannot say."""
    return {
        "version": __version__,
        "configs": whole.configs,
        "schedule": whole.scheduler_config,
        "tokenizers": {name: each for name, each in whole.words.items() if each},
        **({ZEROS: whole.zeros} if whole.zeros is not None else {}),
    }


def prediction(source: Container, family: Family) -> str:
    """What a checkpoint's denoiser answers, by all its signs."""
    known = family.process.predictions()
    if len(known) == 1:
        return known[0]
    said = source.metadata.get("modelspec.prediction_type", "")
    if "v_pred" in source.tensors or said.startswith("v"):
        return "v_prediction"
    if said or family.v_sign != "norm" or (found := spread(source)) is None:
        return "epsilon"
    return "v_prediction" if found > V_PREDICTION else "epsilon"


def spread(source: Container) -> float | None:
    """The deviation by which ComfyUI and Tenshot tell what a Stable Diffusion 2 predicts that does not say it."""
    norm = source.tensors.get(NORM)
    return None if norm is None else float(norm.read().float().std(correction=0))


def write(whole: LazyModel, target: Path, events: Events, pickle: bool = False) -> Ledger:
    """A file of the original layout where the name ends like one, or else a model folder."""
    if target.suffix in (".safetensors", ".ckpt"):
        return write_file(whole, target, events, pickle or target.suffix == ".ckpt")
    write_folder(whole, target, events)
    return whole.ledger


def write_file(
    whole: LazyModel, target: Path, events: Events, pickle: bool = False, about: Mapping[str, str] | None = None
) -> Ledger:
    """A file of the original layout. about: further metadata."""
    content, ledger = conversion.to_original(whole.family, whole.parts, whole.configs)
    predicts_v = whole.scheduler_config.get("prediction_type") == "v_prediction"
    if predicts_v:
        signs = ("v_pred", "ztsnr") if whole.scheduler_config.get("rescale_betas_zero_snr") else ("v_pred",)
        content |= {name: Lazy((0,), torch.float32, lambda: torch.zeros(0)) for name in signs}
    told = {
        **(about or {}),
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": whole.family.spec.format(whole.family.variant(whole.denoiser)),
        "modelspec.implementation": "https://github.com/huggingface/diffusers",
        "modelspec.title": target.stem,
        "modelspec.resolution": "{0}x{0}".format(whole.denoiser.get("sample_size", 64) * 8),
        **({"modelspec.prediction_type": "v" if predicts_v else "epsilon"} if whole.family.process is DDPM else {}),
        TOLD: json.dumps(_told(whole), sort_keys=True, ensure_ascii=False),
    }
    if pickle:
        tensors.write_pickle(target, content, {TOLD: told[TOLD]})
    else:
        tensors.write(target, content, told, events)
    return ledger


def write_folder(whole: LazyModel, target: Path, events: Events) -> None:
    family = whole.family
    with tensors.replacing_folder(target) as folder:
        for part, content in whole.parts.items():
            write_net(folder / part, family.parts[part], whole.configs[part], content, events)
        for name, padding in family.paddings.items():
            size = whole.configs[name.replace("tokenizer", "text_encoder")]["vocab_size"]
            made = tokenizers.from_metadata(whole.words[name], padding, size, str(whole.place), family.parts[name])
            folders.save_part(made, folder / name)
        tensors.write_json(folder / "scheduler" / "scheduler_config.json", dict(whole.scheduler_config))
        channels = whole.denoiser.get("in_channels", 4)
        tensors.write_json(
            folder / "model_index.json", folders.index(family, whole.scheduler_config, whole.zeros, channels)
        )


def write_net(folder: Path, kind: type[Net], config: Config, content: Mapping[str, Lazy], events: Events) -> None:
    """A net's folder as diffusers and transformers open it, also in versions that want `text_model.`"""
    name = "diffusion_pytorch_model.safetensors"
    if issubclass(kind, transformers.PreTrainedModel):
        full = kind.config_class(**{**config, "dtype": folders.DTYPE})
        full.architectures = [kind.__name__]
        full.save_pretrained(folder)
        name = "model.safetensors"
        if kind.config_class is transformers.CLIPTextConfig:
            content = {text_model.stored(tensor): lazy for tensor, lazy in content.items()}
    else:
        with torch.device("meta"):
            kind.from_config(dict(config)).save_config(folder)
    tensors.write(folder / name, content, {"format": "pt"}, events)
