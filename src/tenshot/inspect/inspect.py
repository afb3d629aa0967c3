"""`tenshot inspect`: what a file is, what it was made of, and where it will load. Nothing is unpickled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from tenshot import next_commands
from tenshot.adapters import adapter_files, base_model, bundled_embeddings, embedding, lora_keys, parsing, usage_hint
from tenshot.core import hub_names
from tenshot.core.errors import Fault, Refusal
from tenshot.core.events import Events
from tenshot.core.results import Inspected
from tenshot.export import compatibility
from tenshot.families import conversion, partial_checkpoints, registry, validate
from tenshot.inspect import pictures
from tenshot.inspect.options import InspectOptions
from tenshot.io import hashes, tensor_files, text_files
from tenshot.io.tensor_files import Container
from tenshot.model import checkpoint, hub, model, single_nets

TRAINING = (
    "ss_base_model_version",
    "ss_sd_model_name",
    "ss_learning_rate",
    "ss_num_train_images",
    "ss_steps",
    "ss_epoch",
    "ss_optimizer",
    "ss_seed",
    "ss_resolution",
    "modelspec.title",
    "modelspec.architecture",
    "modelspec.prediction_type",
)
IN_FOLDER = (
    *adapter_files.FILES,
    "learned_embeds.safetensors",
    "learned_embeds.bin",
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
)
TAGS = 8  # trigger words shown at most


def inspect(options: InspectOptions, events: Events) -> Inspected:
    """Raises Refusal where the file is damaged, or no file of tensors."""
    file = hub.fetched(options, events).file
    if pictures.is_one(file):
        return pictures.look(file, options.file)
    place = model.find("pocket") if str(file) == "pocket" else file
    found = _folder(place) if (place / "model_index.json").is_file() else _file(place)
    prompts = [*found.get("trigger_words", ()), found.get("word"), next_commands.taught(place)]
    prompt = next(filter(None, prompts))
    fetched = hub_names.of_path(place)
    usage = usage_hint.read({usage_hint.KEY: found.get("usage_hint", "")})
    how = usage.words() if usage else ()
    return {
        **found,
        **({"source": str(fetched)} if fetched else {}),
        "next": next_commands.after_looking(found["what"], options.file, prompt, found.get("loads_in", ()), how),
    }


def _file(place: Path) -> Inspected:
    file = next((path for name in IN_FOLDER if (path := place / name).is_file()), place)
    if file.is_dir():
        raise Refusal(
            Fault(str(file), "a folder without model_index.json", "a file, or a model folder", "name a file in it")
        )
    source = tensor_files.looked_into(file)
    found = _what(source)
    dtypes = Counter(str(lazy.dtype).removeprefix("torch.") for lazy in source.tensors.values() if lazy.shape)
    return {
        "file": str(file),
        **found,
        "container": source.kind,
        "tensors": len(source.tensors),
        **({"dtypes": dict(dtypes)} if source.kind != "pickle" else {}),
        **_told(source.metadata),
        **hashes.shown(file),
    }


def _folder(place: Path) -> Inspected:
    family = validate.examine(place)
    schedule = text_files.read_object(place / "scheduler" / "scheduler_config.json")
    one = dict.fromkeys((compatibility.WEBUI, compatibility.COMFY), "wants one file: tenshot convert FOLDER FILE")
    told: Inspected = {
        "file": str(place),
        "what": "model folder",
        "family": family.title,
        "prediction": schedule.get("prediction_type", family.process.predictions()[0]),
        "parameters": {part: validate.numbers(place / part) for part in family.original},
    }
    return cast(Inspected, {**told, **compatibility.told(one)})


def _what(source: Container) -> Inspected:
    """What the names say, and where such a file loads."""
    if family := conversion.recognised(source.tensors, registry.FAMILIES):
        parts = {root for root, _ in family.original.values()}
        told: Inspected = {
            "what": "checkpoint",
            "family": family.title,
            "prediction": checkpoint.prediction(source, family) if source.kind != "pickle" else "not looked at",
            "parts": sorted(parts),
        }
        return cast(Inspected, {**told, **compatibility.of_checkpoint(source, family)})
    if parsing.is_lora(source.tensors):
        return _lora(source)
    if embedding.is_embedding(source) or (source.kind == "pickle" and "string_to_param" in source.tensors):
        return _word(source)
    if nature := partial_checkpoints.describe(source.tensors):
        parted = {"what": nature.what, "parts": list(nature.has), "missing": list(nature.lacks), "do": nature.do}
        return cast(Inspected, {name: each for name, each in parted.items() if each})
    if net := single_nets.recognised(source):
        return {"what": net.kind.__name__, "names": "original" if net.original else "diffusers"}
    if any(name.endswith("embeddings.token_embedding.weight") for name in source.tensors):
        return {"what": "text encoder (CLIP)", "names": "transformers"}
    return {"what": "tensors of no known kind"}


def _word(source: Container) -> Inspected:
    found: Inspected = {"what": "embedding"}
    if source.kind != "pickle":
        word, rows = embedding.alone(source)
        widths = [values.shape[1] for values in rows.values()]
        fits = [each for each in registry.FAMILIES if compatibility.WORDS[each.name] == widths]
        found |= {"word": word, "family": " or ".join(each.title for each in fits) or None}
        found["vectors"] = {name: list(lazy.shape) for name, lazy in source.tensors.items()}
    stem = source.place.stem
    said = {compatibility.WEBUI: stem, compatibility.COMFY: f"embedding:{stem}"}
    said |= dict.fromkeys((compatibility.DIFFUSERS, compatibility.TENSHOT), found["word"]) if "word" in found else {}
    return {**found, **compatibility.of_embedding(source), "in_the_prompt": said}


def _lora(source: Container) -> Inspected:
    kohya = any(name.startswith(("lora_unet_", "lora_te")) for name in source.tensors)
    try:
        source = adapter_files.with_settings(source)
    except Refusal as refusal:
        return {"what": "lora", "strength_unknown": refusal.faults[0].found, "loads_in": []}
    kinds = parsing.kinds(source.tensors)
    found: Inspected = {"what": "lora", "kinds": kinds, "names": "kohya" if kohya else "diffusers or peft"}
    layers = {(place.part, place.layer) for name in source.tensors if (place := lora_keys.parse(name))}
    found["layers"] = dict(Counter(part for part, _ in sorted(layers)))
    if words := bundled_embeddings.names(source):
        found["words"] = words
    try:
        base_model.stranger(source, layers)
    except Refusal as refusal:
        return found | {"family": None, "family_unknown": refusal.faults[0].found, "loads_in": []}
    read = parsing.layers(source) if source.kind != "pickle" else {}
    family = None
    if read:
        try:
            family = base_model.family_of(source, read)
            found["family"] = family.title
        except Refusal as refusal:
            found |= {"family": None, "family_unknown": refusal.faults[0].found}
        found["rank"] = dict(Counter(each.rank for each in read.values() if each.rank))
        found["alpha"] = dict(Counter(getattr(each, "alpha", 0.0) for each in read.values() if each.rank))
        found["dora"] = any(getattr(each, "magnitude", None) is not None for each in read.values())
    if lacking := compatibility.without_module(layers):
        told = f"{compatibility.KOHYA} have no module for {len(lacking)} of {len(layers)} layers: {', '.join(lacking)}"
        found["left_out"] = told
    return cast(Inspected, found | compatibility.of_lora(source, read, family))


def _told(about: Mapping[str, str]) -> Inspected:
    """What the header says of the training, and the words that were most frequent in its captions."""
    found: Inspected = {}
    if training := {name: about[name] for name in TRAINING if name in about}:
        found["training"] = training
    found["usage_hint"] = about.get(usage_hint.KEY, "")
    tags: Counter[str] = Counter()
    for each in tensor_files.json_metadata(about, "ss_tag_frequency").values():
        for tag, count in each.items() if isinstance(each, dict) else ():
            tags[tag.strip()] += count if isinstance(count, int) else 0
    words = [about.get("modelspec.trigger_phrase", ""), *(tag for tag, _ in tags.most_common(TAGS))]
    found["trigger_words"] = list(dict.fromkeys(filter(None, words)))
    return cast(Inspected, {name: value for name, value in found.items() if value})
