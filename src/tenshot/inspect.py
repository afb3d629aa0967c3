"""`tenshot inspect`: what a file is, what it was made of, and where it will load. Nothing is unpickled."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from tenshot.adapters import embedding, factors, names, reading
from tenshot.errors import Fault, Refusal
from tenshot.events import Events
from tenshot.families import dialects, layout, table
from tenshot.files import containers, hashes
from tenshot.files.containers import Container
from tenshot.options import Options

EVERYWHERE = ("AUTOMATIC1111", "Forge", "ComfyUI", "diffusers")
WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
TRAINING = (
    "ss_base_model_version",
    "ss_sd_model_name",
    "ss_learning_rate",
    "ss_num_train_images",
    "ss_steps",
    "ss_epoch",
    "ss_optimizer",
    "ss_resolution",
    "modelspec.title",
    "modelspec.architecture",
    "modelspec.prediction_type",
)
TAGS = 8  # trigger words shown at most


class InspectOptions(Options):
    """Say what a file or a model folder is: tenshot inspect FILE."""

    words: ClassVar[tuple[str, ...]] = ("file",)

    file: Path = Field(description="a file, or a model folder")


def inspect(options: InspectOptions, events: Events) -> dict[str, Any]:
    """Raises Refusal where the file is damaged, or no file of tensors."""
    if (options.file / "model_index.json").is_file():
        return _folder(options.file)
    if options.file.is_dir():
        raise Refusal(Fault(str(options.file), "a folder without model_index.json", "a file, or a model folder"))
    source = containers.looked_into(options.file)
    found = _what(source)
    dtypes = Counter(str(lazy.dtype).removeprefix("torch.") for lazy in source.tensors.values() if lazy.shape)
    return {
        "file": str(options.file),
        **found,
        "container": source.kind,
        "tensors": len(source.tensors),
        **({"dtypes": dict(dtypes)} if source.kind != "pickle" else {}),
        **_told(source.about),
        **hashes.shown(options.file),
    }


def _folder(place: Path) -> dict[str, Any]:
    family = layout.examine(place)
    schedule = json.loads((place / "scheduler" / "scheduler_config.json").read_text())
    return {
        "file": str(place),
        "what": "model folder",
        "family": family.title,
        "prediction": schedule.get("prediction_type", "epsilon"),
        "parts": {part: f"{layout.numbers(place / part):,} numbers" for part in family.original},
        "loads in": ["diffusers", "tenshot"],
        "for the others": "tenshot convert FOLDER FILE.safetensors",
    }


def _what(source: Container) -> dict[str, Any]:
    """What the names say, and where such a file loads."""
    if family := dialects.recognised(source.tensors, table.FAMILIES):
        parts = {root for root, _ in family.original.values()}
        v = "v_pred" in source.tensors or source.about.get("modelspec.prediction_type", "").startswith("v")
        return {
            "what": "checkpoint",
            "family": family.title,
            "prediction": "v_prediction" if v else "epsilon, as far as the file says",
            "parts": sorted(parts),
            "loads in": list(EVERYWHERE),
        }
    if reading.is_lora(source.tensors):
        return _lora(source)
    if embedding.is_embedding(source):
        shapes = {name: list(lazy.shape) for name, lazy in source.tensors.items()}
        use = f"{source.place.stem} in the prompt"
        return {"what": "embedding", "vectors": shapes, "loads in": list(EVERYWHERE), "use": use}
    return {"what": _net(source.tensors), "loads in": []}


def _net(tensors: Iterable[str]) -> str:
    found = set(tensors)
    if any("input_hint_block.0.weight" in name or "controlnet_cond_embedding" in name for name in found):
        return "ControlNet"
    if any(name.endswith("encoder.conv_in.weight") for name in found):
        return "autoencoder"
    return "tensors of no known kind"


def _lora(source: Container) -> dict[str, Any]:
    kohya = any(name.startswith(("lora_unet_", "lora_te")) for name in source.tensors)
    kinds = reading.kinds(source.tensors)
    found: dict[str, Any] = {"what": "lora", "kinds": kinds, "names": "kohya" if kohya else "diffusers or peft"}
    if source.kind != "pickle":
        read = reading.read(source)
        found["family"] = WIDTHS.get(factors.width(read), "not said by its shapes")
        found["rank"] = dict(Counter(each.rank for each in read.values() if each.rank))
        found["alpha"] = dict(Counter(each.alpha for each in read.values() if each.rank))
        found["dora"] = any(each.magnitude is not None for each in read.values())
    places = {(place.part, place.layer) for name in source.tensors if (place := names.place_of(name))}
    found["layers"] = dict(Counter(part for part, _ in sorted(places)))
    if set(kinds) != {"LoRA"}:
        return found | {"loads in": ["AUTOMATIC1111", "Forge", "ComfyUI", "tenshot"] if kohya else ["tenshot"]}
    found["loads in"] = list(EVERYWHERE) if kohya else ["diffusers", "tenshot"]
    if not kohya:
        found["for the others"] = "tenshot convert FILE: they would load it without effect"
    return found


def _told(about: Mapping[str, str]) -> dict[str, Any]:
    """What the header says of the training, and the words that were most frequent in its captions."""
    found: dict[str, Any] = {}
    if training := {name: about[name] for name in TRAINING if name in about}:
        found["training"] = training
    try:
        folders = json.loads(about.get("ss_tag_frequency", "{}"))
        tags: Counter[str] = Counter()
        for each in folders.values():
            tags.update({str(tag).strip(): int(count) for tag, count in each.items()})
    except (ValueError, AttributeError, TypeError):
        return found
    return found | ({"trigger words": [tag for tag, _ in tags.most_common(TAGS)]} if tags else {})
