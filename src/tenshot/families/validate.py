"""A model folder in the diffusers layout: what should be in it, and everything that is wrong with it."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers

from tenshot.core.errors import Fault, Refusal, refuse_if, some
from tenshot.core.json_types import Config
from tenshot.diffusion.process import Process, RectifiedFlow
from tenshot.families import config_values, conversion, registry, shapes, text_model
from tenshot.families.base import Family
from tenshot.families.components import Net, Tokenizer
from tenshot.families.sd import SD1
from tenshot.io import tensor_files, tensors, text_files
from tenshot.io.tensor_files import Lazy

AGAIN = "copy or download the model folder again"
Shapes = dict[str, tuple[int, ...]]
_ASKED_FOR: dict[
    tuple[type[Net], str], Shapes
] = {}  # kind and configuration -> what they ask for: a net takes long to make

#: Plain, of a variant (.fp16), in shards (-00001-of-00002), and both, in the two orders that were ever written.
_WEIGHTS = re.compile(r"(?:diffusion_pytorch_model|model)(?:\.(\w+))?(-\d+-of-\d+)?(?:\.(\w+))?\.safetensors", re.ASCII)


MOST_STEPS = 10_000  # of a noise schedule; the released ones have a thousand

_CLIP = {"max_position_embeddings": 77, "vocab_size": 49408}  # where a configuration does not tell

#: What text encoders are stored with, and do not need to read text.
_IDLE = re.compile(r"(.*\.)?position_ids|logit_scale|text_projection\.|visual_projection\.|vision_model\.")


def examine(place: Path) -> Family:
    """The family of a model folder. Raises Refusal with every fault that it has; reads no weights."""
    faults: list[Fault] = []
    index = _object(place / "model_index.json", faults)
    denoiser = _denoiser(place, index or {})
    config = _object(place / denoiser / "config.json", faults)
    family = registry.of(config) if config is not None else None
    if family is None and (config is not None or denoiser not in (index or {denoiser: None}) or _is_other(index or {})):
        raise Refusal(_stranger(place, index or {}))
    if family:
        family = family.without(*(part for part in family.optional if not _is_meant(place, part, index or {})))
    parts = (family or SD1).parts  # while the family is in doubt: the parts that every family has
    configs = {denoiser: config}
    for part, kind in parts.items():
        if issubclass(kind, transformers.PreTrainedTokenizerBase):
            encoder = configs.get(part.replace("tokenizer", "text_encoder")) or {}
            faults += _tokenizer_faults(place / part, kind, encoder)
            continue
        if part not in configs:
            configs[part] = _object(place / part / "config.json", faults)
        if found := list(_net_faults(place / part, kind, configs[part])):
            faults += found
            configs[part] = None  # what is wrong in itself is compared with nothing
    faults += _schedule_faults(place / "scheduler" / "scheduler_config.json", (family or SD1).process)
    if family:
        faults += _mismatches(place, family, configs)
    refuse_if(faults)
    return family or SD1


def family_of(place: Path) -> Family:
    """The same of a folder that has been examined."""
    family = registry.of(denoiser_config(place))
    if family is None:
        raise Refusal(_stranger(place, {}))
    return family.without(*(part for part in family.optional if not (place / part).is_dir()))


def _is_other(index: Mapping[str, object]) -> bool:
    """Does it name a pipeline of no family here? Those for ControlNets and pictures begin as that of the family."""
    name = index.get("_class_name")
    ours = (str(family.index["_class_name"]).removesuffix("Pipeline") for family in registry.FAMILIES)
    return isinstance(name, str) and not name.startswith(tuple(ours))


def _is_meant(place: Path, part: str, index: Mapping[str, object]) -> bool:
    """Is a part there that may be absent, or at least spoken of?"""
    return (place / part).is_dir() or index.get(part) not in (None, [None, None])


def denoiser_config(place: Path) -> Config:
    """What config.json says of a folder's denoiser."""
    return text_files.read_object(place / _denoiser(place, {}) / "config.json")


def _denoiser(place: Path, index: Mapping[str, object]) -> str:
    """Under which of the names that denoisers have in families this folder has its own, or should have."""
    known = [family.denoiser for family in registry.FAMILIES]
    there = [part for part in known if (place / part).is_dir()] or [part for part in known if part in index]
    return (there or known)[0]


def weights(part: Path) -> tuple[str | None, list[Path]]:
    """The files with a part's weights, and the variant they come in: the plain ones, or else such as fp16."""
    found = variants(path.name for path in part.glob("*.safetensors"))
    variant = next((name for name in (None, "fp16", *found) if name in found), None)
    return variant, [part / name for name in found.get(variant, ())]


def variants(names: Iterable[str]) -> dict[str | None, list[str]]:
    """Of files side by side those with weights, by the variant they come in; None: the plain ones.

    A variant that lacks shards is left out where another one is whole.
    """
    found: dict[str | None, list[str]] = {}
    lacking: dict[str | None, int] = {}
    for name in sorted(names):
        if match := _WEIGHTS.fullmatch(name):
            variant, shard = match[1] or match[3], match[2]
            found.setdefault(variant, []).append(name)
            lacking[variant] = (int(shard.rpartition("-")[2]) if shard else 1) - len(found[variant])
    whole = {variant: files for variant, files in found.items() if lacking[variant] <= 0}
    return whole or found


def numbers(part: Path, counted: Callable[[str], bool] = lambda name: True) -> int:
    """How many numbers a part's weights are, or those of them that are counted; 0 where the part is not there."""
    found = (each for path in weights(part)[1] for each in tensors.shapes(path).items())
    return sum(math.prod(shape) for name, shape in found if counted(name))


def contents(part: Path) -> dict[str, Lazy]:
    """Every tensor of a part, not yet read, as it is called today; pickles where there is nothing better."""
    files = weights(part)[1] or sorted(part.glob("diffusion_pytorch_model*.bin")) or sorted(part.glob("*model*.bin"))
    if not files:
        raise Refusal(Fault(str(part), "no weights", "*.safetensors", AGAIN))
    found = {today(name): lazy for path in files for name, lazy in tensor_files.opened(path).tensors.items()}
    return {name: lazy for name, lazy in found.items() if not name.endswith("position_ids")}


def _object(path: Path, faults: list[Fault]) -> dict[str, object] | None:
    """The mapping in a JSON file; None, and a fault more, where it cannot be had."""
    try:
        return text_files.read_object(path)
    except Refusal as refusal:
        faults += [Fault(each.where, each.found, each.fits, AGAIN) for each in refusal.faults]
    return None


def _stranger(place: Path, index: Mapping[str, object]) -> Fault:
    known = ", ".join(family.title for family in registry.FAMILIES)
    found = f"a model of no known family ({index.get('_class_name', 'it does not say which')})"
    return Fault(str(place), found, known, "open it with diffusers")


def _tokenizer_faults(part: Path, kind: type[Tokenizer], encoder: Config) -> Iterator[Fault]:
    """What is wrong with a tokenizer, by itself and for the configuration of its text encoder."""
    faults: list[Fault] = []
    pair = (part / "vocab.json").is_file() and (part / "merges.txt").is_file()
    if not pair and not (part / "tokenizer.json").is_file():
        faults.append(Fault(str(part), "no tokenizer", "vocab.json and merges.txt, or tokenizer.json", AGAIN))
    for path in sorted(part.glob("*.json")):
        _object(path, faults)
    if os.path.lexists(merges := part / "merges.txt"):
        try:
            text_files.text(merges, "a text file", text_files.JSON)
        except Refusal as refusal:
            faults += [Fault(each.where, each.found, each.fits, AGAIN) for each in refusal.faults]
    yield from faults
    if faults:
        return
    try:
        tokenizer = kind.from_pretrained(part)
        length = tokenizer.model_max_length
        ids = tokenizer(
            "a photo of a cat", padding="max_length", truncation=True, max_length=min(length, 1000)
        ).input_ids
    except Exception as error:  # its files can be wrong in any way
        found = f"makes no {kind.__name__}: {str(error)[:200] or type(error).__name__}"
        yield Fault(str(part), found, "a tokenizer as transformers writes it", AGAIN)
        return
    for name, has in (("max_position_embeddings", length), ("vocab_size", max(ids, default=0) + 1)):
        most = encoder.get(name, _CLIP.get(name) if kind is transformers.CLIPTokenizer else None)
        if isinstance(most, int) and has > most:
            found = f"a tokenizer for {has:,}, where the text encoder's {name} is {most:,}"
            yield Fault(str(part), found, "a tokenizer and a text encoder that belong together", AGAIN)


def _net_faults(part: Path, kind: type[Net], config: Config | None) -> Iterator[Fault]:
    """What is wrong with a part's weights; without a configuration only whether they are whole."""
    _, files = weights(part)
    if not files:
        found = ", ".join(sorted(path.name for path in part.glob("*"))) or "nothing"
        yield Fault(str(part), f"no weights (found: {found})", "*.safetensors", AGAIN)
        return
    have: Shapes = {}
    damaged: list[Fault] = []
    for path in files:
        try:
            have |= {today(name): shape for name, shape in tensors.shapes(path).items()}
        except Refusal as refusal:
            damaged += refusal.faults
    yield from damaged
    if damaged or config is None:
        return
    if how := config.get("quantization_config"):
        how = how.get("quant_method", "some program") if isinstance(how, dict) else how
        do = "take the same model in fp16 or bf16"
        yield Fault(str(part), f"numbers packed by {how}", "floats of 8, 16 or 32 bits", do)
        return
    if odd := config_values.strange(kind, config):
        yield Fault(str(part / "config.json"), odd, f"the configuration of a {kind.__name__}", AGAIN)
        return
    try:
        want = _expected(part, kind, config)
    except Exception as error:  # a configuration can be wrong in any way
        found = f"makes no {kind.__name__}: {error or type(error).__name__}"
        yield Fault(str(part / "config.json"), found, "the configuration of these weights", AGAIN)
        return
    yield from _shape_faults(part, want, have)


def _expected(part: Path, kind: type[Net], config: Config) -> Shapes:
    """Names and shapes that the part's configuration asks for; no memory is spent on them."""
    known = kind, json.dumps(config, sort_keys=True)
    if known not in _ASKED_FOR:
        with torch.device("meta"):
            if issubclass(kind, diffusers.ModelMixin):
                net = kind.from_config(kind.load_config(part))
            else:
                net = kind(kind.config_class.from_pretrained(part))
        _ASKED_FOR[known] = {today(name): tuple(tensor.shape) for name, tensor in conversion.untied(net).items()}
    return _ASKED_FOR[known]


def today(name: str) -> str:
    """A tensor's name in any version of transformers and diffusers, as it is called today and without `text_model.`"""
    name = text_model.bare(name)
    for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
        name = name.replace(f"mid_block.attentions.0.{old}.", f"mid_block.attentions.0.{new}.")
    return name


def _shape_faults(part: Path, want: Shapes, have: Shapes) -> Iterator[Fault]:
    missing, wrong, unknown = shapes.differences(want, have)
    if missing:
        found = f"{len(missing)} of {len(want)} tensors are missing: {some(missing)}"
        yield Fault(str(part), found, "all of them", AGAIN)
    if wrong:
        told = [f"{name} {list(have[name])} instead of {list(want[name])}" for name in wrong]
        found = f"{len(wrong)} of {len(want)} tensors have another shape: {some(told)}"
        yield Fault(str(part), found, "weights and config.json that belong together", AGAIN)
    if strange := [name for name in unknown if not _IDLE.match(name)]:
        found = f"{len(strange)} tensors beside the {len(want)} that its config.json speaks of: {some(strange)}"
        do = "they would be without effect: copy the folder again, or take them out of the file"
        yield Fault(str(part), found, "weights and config.json that belong together", do)


def _schedule_faults(path: Path, process: type[Process]) -> Iterator[Fault]:
    faults: list[Fault] = []
    schedule = _object(path, faults)
    yield from faults
    fits = process.predictions()
    prediction = (schedule or {}).get("prediction_type", fits[0])
    if prediction not in fits:
        do = "write there what the model was trained for"
        yield Fault(str(path), f"prediction_type {prediction!r}", " or ".join(fits), do)
    elif schedule is not None and (found := _odd(schedule, process)):
        yield Fault(str(path), found, "a noise schedule as diffusers writes it", AGAIN)


def _usual(process: type[Process]) -> Any:
    """A scheduler that any program makes of such a configuration, though ours need none."""
    flow = issubclass(process, RectifiedFlow)
    return diffusers.FlowMatchEulerDiscreteScheduler if flow else diffusers.EulerAncestralDiscreteScheduler


def _odd(schedule: Config, process: type[Process]) -> str:
    """Why a noise schedule can neither be trained nor drawn with, in words."""
    kind = schedule.get("_class_name", "")
    if not isinstance(kind, str):
        return f"_class_name {kind!r}"
    if kind.startswith("FlowMatch") != issubclass(process, RectifiedFlow):
        return f"{kind or 'no _class_name'}, where the model's process is {process.title}"
    if schedule.get("use_dynamic_shifting"):
        return "use_dynamic_shifting, which is not known here"
    steps = schedule.get("num_train_timesteps", 1000)
    if type(steps) is not int or not 1 <= steps <= MOST_STEPS:
        return f"num_train_timesteps {str(steps)[:50]}, not 1 to {MOST_STEPS:,}"
    try:
        made = process.from_config(schedule)
        own = {name: value for name, value in schedule.items() if not name.startswith("_")}
        _usual(process).from_config(own).set_timesteps(1)
    except Exception as error:  # a configuration can be wrong in any way
        return f"makes no noise schedule: {str(error).partition(chr(10))[0][:200] or type(error).__name__}"
    odd = made.odd() or not np.isfinite(made.levels).all()
    return "makes a noise schedule of numbers that are no parts of a signal" if odd else ""


def _mismatches(place: Path, family: Family, configs: Mapping[str, Config | None]) -> Iterator[Fault]:
    """Parts that are whole, but of different models. What cannot be read has its fault already."""
    fits, do = f"{family.title} parts that belong together", "do not mix models"
    known = {part: config for part, config in configs.items() if config is not None}
    if family.denoiser not in known:
        return
    denoiser = known[family.denoiser]
    wanted = denoiser.get(family.text_width)
    if known.keys() >= set(family.encoders) and (width := family.width(known)) != wanted:
        yield Fault(str(place), f"text encoders give states of width {width}, the denoiser wants {wanted}", fits, do)
    channels, given = denoiser.get("in_channels", 4), known.get("vae", {}).get("latent_channels")
    if given is not None and channels not in (given, 2 * given, 2 * given + 1):
        found = f"the denoiser takes {channels} channels, the VAE gives {given}"
        yield Fault(str(place), found, fits, "upscaling models are not for drawing from a prompt")
