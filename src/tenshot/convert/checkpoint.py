"""A whole model: folder <-> one file of the original layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from tenshot import __version__, model
from tenshot.convert import tokenizers
from tenshot.convert.options import ConvertOptions
from tenshot.device import DTYPES
from tenshot.errors import Fault, Refusal
from tenshot.events import Events
from tenshot.families import dialects, layout, table
from tenshot.families.family import ZEROS, Family
from tenshot.files import tensors, writing
from tenshot.files.containers import Container, Lazy

TOLD = "tenshot"  # the metadata with what the original layout cannot say, as JSON
V_PREDICTION = 0.09  # above it lies the spread of a norm's bias in Stable Diffusion 2 models that predict v
NORM = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"


def to_file(place: Path, options: ConvertOptions, target: Path, events: Events) -> dict[str, Any]:
    """A model folder becomes one file."""
    family = layout.examine(place)
    parts = {part: layout.contents(place / part) for part in family.original}
    configs = {part: _config(place / part) for part in family.original}
    content, ledger = dialects.to_original(family, parts, configs)
    content = dialects.cast(content, dtype_of(options))
    schedule = tensors.read_json(place / "scheduler" / "scheduler_config.json")
    prediction = schedule.get("prediction_type", "epsilon")
    if prediction == "v_prediction":
        content |= {name: _sign() for name in ("v_pred", *_ztsnr(schedule))}
    about = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": family.spec,
        "modelspec.implementation": "https://github.com/huggingface/diffusers",
        "modelspec.title": target.stem,
        "modelspec.resolution": "{0}x{0}".format(configs["unet"].get("sample_size", 64) * 8),
        "modelspec.prediction_type": "v" if prediction == "v_prediction" else "epsilon",
        TOLD: json.dumps(_told(place, family, configs, schedule), sort_keys=True, ensure_ascii=False),
    }
    if target.suffix == ".ckpt" and not options.use_safetensors:
        writing.write_pickle(target, content)
    else:
        writing.write(target, content, about, events)
    return {"what": "checkpoint", "family": family.title, "file": str(target), "ledger": ledger.told()}


def _sign() -> Lazy:
    return Lazy((0,), torch.float32, lambda: torch.zeros(0))


def _ztsnr(schedule: Mapping[str, Any]) -> tuple[str, ...]:
    return ("ztsnr",) if schedule.get("rescale_betas_zero_snr") else ()


def _config(part: Path) -> dict[str, Any]:
    """A part's configuration, with every default filled in where the part is diffusers'."""
    config = tensors.read_json(part / "config.json")
    config.pop("_name_or_path", None)
    return config


def _told(place: Path, family: Family, configs: Mapping[str, Any], schedule: Mapping[str, Any]) -> dict[str, Any]:
    words = {name: tokenizers.told(place / name, padding) for name, padding in family.paddings.items()}
    zeros = tensors.read_json(place / "model_index.json").get(ZEROS)
    return {
        "version": __version__,
        "configs": configs,
        "schedule": schedule,
        "tokenizers": {name: each for name, each in words.items() if each},
        **({ZEROS: zeros} if zeros is not None else {}),
    }


def to_folder(
    source: Container, family: Family, options: ConvertOptions, target: Path, events: Events
) -> dict[str, Any]:
    """One file of the original layout becomes a model folder."""
    told = _said(source, family, options)
    configs = dialects.configured(family, source.tensors, told.get("configs", {}))
    parts, ledger = dialects.to_parts(family, source.tensors, configs, options.ema)
    schedule = told.get("schedule") or {**family.schedule, "prediction_type": _prediction(source, family)}
    with tensors.replacing_folder(target) as folder:
        for part, content in parts.items():
            write_net(
                folder / part, family.parts[part], configs[part], dialects.cast(content, dtype_of(options)), events
            )
        for part, padding in family.paddings.items():
            encoder = part.replace("tokenizer", "text_encoder")
            words = tokenizers.made(
                told.get("tokenizers", {}).get(part, {}), padding, configs[encoder]["vocab_size"], str(source.place)
            )
            model.save_part(words, folder / part)
        tensors.write_json(folder / "scheduler" / "scheduler_config.json", schedule)
        tensors.write_json(folder / "model_index.json", model.index(family, schedule, told.get(ZEROS)))
    return {"what": "checkpoint", "family": family.title, "folder": str(target), "ledger": ledger.told()}


def _said(source: Container, family: Family, options: ConvertOptions) -> dict[str, Any]:
    """What is told beside the tensors: by the folder that --config names, or by the file itself."""
    if options.config:
        place = model.find(str(options.config))
        if (other := layout.examine(place)) is not family:
            raise Refusal(Fault("--config", f"{place} is {other.title}", f"{family.title}, as {source.place} is"))
        configs = {part: _config(place / part) for part in family.original}
        return _told(place, family, configs, tensors.read_json(place / "scheduler" / "scheduler_config.json"))
    try:
        found = json.loads(source.about.get(TOLD, "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _prediction(source: Container, family: Family) -> str:
    said = source.about.get("modelspec.prediction_type", "")
    if "v_pred" in source.tensors or said.startswith("v"):
        return "v_prediction"
    norm = source.tensors.get(NORM)
    if said or family.name != "sd2" or norm is None:
        return "epsilon"
    return "v_prediction" if norm.read().float().std(correction=0) > V_PREDICTION else "epsilon"


def write_net(folder: Path, kind: Any, config: Mapping[str, Any], content: dict[str, Lazy], events: Events) -> None:
    """A net's folder as diffusers and transformers open it, also in versions that want `text_model.`"""
    name = "diffusion_pytorch_model.safetensors"
    if issubclass(kind, transformers.PreTrainedModel):
        full = kind.config_class(**config)
        full.architectures = [kind.__name__]
        full.save_pretrained(folder)
        name = "model.safetensors"
        content = {_with_prefix(tensor): lazy for tensor, lazy in content.items()}
    else:
        with torch.device("meta"):
            kind.from_config(dict(config)).save_config(folder)
    writing.write(folder / name, content, {"format": "pt"}, events)


def _with_prefix(name: str) -> str:
    return name if name.startswith("text_projection") else f"text_model.{name}"


def dtype_of(options: ConvertOptions) -> torch.dtype | None:
    if options.half:
        return torch.float16
    return None if options.dtype == "keep" else DTYPES[options.dtype]


def family_of(source: Container) -> Family | None:
    return dialects.recognised(source.tensors, table.FAMILIES)
