"""A LoRA's file, or the folder that it lies in: that of diffusers, or of peft with its adapter_config.json.

And what diffusers calls the files of a learned word.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tenshot.adapters import lora_keys
from tenshot.adapters.factors import METADATA
from tenshot.core.errors import Fault, Refusal
from tenshot.core.json_types import Config
from tenshot.families import registry
from tenshot.io import tensor_files, text_files
from tenshot.io.tensor_files import Container

FILE = "pytorch_lora_weights.safetensors"
FILES = (FILE, "pytorch_lora_weights.bin", "adapter_model.safetensors", "adapter_model.bin")
CONFIG = "adapter_config.json"
WORDS = {"text_encoder": "learned_embeds", "text_encoder_2": "learned_embeds_2"}  # two files of one word
PARTS = (*registry.DENOISERS, "text_encoder", "text_encoder_2")
PREFIX = "base_model.model."  # peft's, before every name
CLASSES = {
    **{family.parts[family.denoiser].__name__: family.denoiser for family in registry.FAMILIES},
    "CLIPTextModel": "text_encoder",
    "CLIPTextModelWithProjection": "text_encoder_2",
}
TYPES = ("LORA", "LOHA", "LOKR")
STRENGTH = ("r", "lora_alpha", "alpha", "rank_pattern", "alpha_pattern", "use_rslora")
#: Settings with which peft's factors mean something else than the same factors by themselves.
STRANGE = (
    "layer_replication",
    "target_parameters",
    "use_qalora",
    "alora_invocation_tokens",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
)
CHANGING = ("pissa", "corda", "olora", "loftq", "lora_ga", "mica")  # initialisations that change the model's weights


def files(place: Path) -> list[Path]:
    """The files that `place` stands for: itself; in a folder the LoRA's, or, as peft saves them, one for each part."""
    if not place.is_dir():
        return [place]
    if there := [file for name in FILES if (file := place / name).is_file()]:
        return there[:1]
    return [file for part in PARTS for name in FILES[2:] if (file := place / part / name).is_file()]


def opened(place: Path) -> Container:
    """A file, or such a folder. What peft's adapter_config.json tells stands in the header, as diffusers has it there.

    Raises Refusal.
    """
    found = [with_settings(tensor_files.opened(file)) for file in files(place) or [place]]
    if len(found) == 1:
        return found[0]
    everything = {name: lazy for each in found for name, lazy in each.tensors.items()}
    settings: dict[str, object] = {}
    for each in found:
        said = tensor_files.json_metadata(each.metadata, METADATA)
        if METADATA in each.metadata and not said:
            strange = f"{METADATA} in its header is no JSON object"
            raise Refusal(Fault(str(each.place), strange, "the settings that peft wrote there", "copy it again"))
        settings |= said
    return Container(place, "folder", everything, {METADATA: json.dumps(settings)})


def with_settings(source: Container) -> Container:
    """The same with its settings, where peft keeps them beside it."""
    names = list(source.tensors)
    from_peft = source.place.name in FILES[2:] or any(name.startswith(PREFIX) for name in names)
    if not from_peft or METADATA in source.metadata:
        return source
    file = source.place.with_name(CONFIG)
    if not file.is_file():
        if any(name.endswith(".alpha") for name in names):
            return source
        found = f"names of peft, but no {CONFIG} beside it: how strong it is cannot be told"
        raise Refusal(Fault(str(source.place), found, f"peft's folder, {CONFIG} with it", f"copy {CONFIG}, too"))
    config = _config(file)
    bare = {name: name.removeprefix(PREFIX) for name in names}
    whole = any(name.startswith(f"{part}.") for name in bare.values() for part in PARTS)
    part = _part(config, source.place, bare.values())
    here = {old: new if whole else f"{part}.{new}" for old, new in bare.items()}
    parts = {name.partition(".")[0] for name in here.values()}
    mine = {"r": 8} | {key: value for key, value in config.items() if key in STRENGTH}
    settings = {f"{part}.{key}": value for part in parts for key, value in mine.items()}
    named = {here[old]: lazy for old, lazy in source.tensors.items()}
    return replace(source, tensors=named, metadata={**source.metadata, METADATA: json.dumps(settings)})


def _config(file: Path) -> Config:
    """Raises Refusal where it tells of something that factors alone do not say."""
    config: Config = text_files.read_json(file)
    kind = config.get("peft_type", "LORA") if isinstance(config, dict) else None
    if kind not in TYPES:
        found = f"peft_type {kind}" if kind else "no settings of an adapter"
        do = "merge it with peft (merge_and_unload), and convert the model"
        raise Refusal(Fault(str(file), found, ", ".join(TYPES), do))
    strange = [f"{name} = {config[name]}" for name in STRANGE if config.get(name)]
    if strange:
        do = "merge it with peft (merge_and_unload), and convert the model"
        raise Refusal(Fault(str(file), ", ".join(strange), "factors that count by themselves", do))
    begun = config.get("init_lora_weights")
    if isinstance(begun, str) and begun.startswith(CHANGING):
        found = f"init_lora_weights = {begun}: the model's own weights were changed when the training began"
        do = "save it with path_initial_model_for_weight_conversion, as peft's documentation says"
        raise Refusal(Fault(str(file), found, "an adapter for the model as it is", do))
    return config


def _part(config: Config, file: Path, names: Iterable[str]) -> str:
    """Which part of a model a folder of peft is for: its own name says it, its settings, or the layers'."""
    mapping = config.get("auto_mapping")
    said = CLASSES.get(mapping.get("base_model_class", "")) if isinstance(mapping, dict) else None
    if file.resolve().parent.name in PARTS:
        return file.resolve().parent.name
    placed = (lora_keys.parse(name) for name in names)
    return said or next((place.part for place in placed if place), registry.FAMILIES[0].denoiser)
