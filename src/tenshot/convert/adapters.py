"""LoRAs and learned words: from any names to those that user interfaces read, or those of diffusers' pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tenshot.adapters import embedding, factors, lora, reading, signs
from tenshot.adapters.factors import Factors
from tenshot.convert.options import ConvertOptions
from tenshot.errors import Fault, Refusal
from tenshot.events import Events
from tenshot.export import kohya, readers
from tenshot.export.places import phrase
from tenshot.families.sdxl import SDXL
from tenshot.files import tensors
from tenshot.files.containers import Container


def convert_lora(
    source: Container, options: ConvertOptions, target: Path, dtype: torch.dtype | None, events: Events
) -> dict[str, Any]:
    """Kohya's names become diffusers', all others kohya's, unless --form says it. LoHa and LoKr stay what they are."""
    found = reading.read(source, kohya.config_of(options.config))
    for program, why in readers.decomposed(source, found):
        events.say(f"{program}: {why}")
    plain = all(isinstance(each, Factors) for each in found.values())
    other = "diffusers" if _is_kohya(source) and plain else "kohya"
    if options.to or (options.form or other) == "kohya":
        return kohya.write(source, target, options.config, dtype, phrase(options.trigger))
    only = reading.low_rank(source, kohya.config_of(options.config))
    family = kohya.origin(options.config, source, only).family
    written = {layer: kohya.cast(each, dtype) for layer, each in only.items()}
    about = {**factors.metadata(lora.settings_of(written)), **signs.saying(family)}
    tensors.write(target, factors.to_diffusers(written), about)
    return {"what": "lora", "family": family.title, "form": "diffusers", **factors.facts(target, found)}


def _is_kohya(source: Container) -> bool:
    return any(name.startswith(("lora_unet_", "lora_te")) for name in source.tensors)


def convert_embedding(
    source: Container, options: ConvertOptions, target: Path, dtype: torch.dtype | None
) -> dict[str, Any]:
    """Every layout of a learned word -> the one that all user interfaces read."""
    word, rows = embedding.of(source)
    if [*rows] == ["text_encoder_2"]:
        found = f"the half of the word {word!r} that is for the second text encoder of {SDXL.title}"
        do = f"put {embedding.PAIR['text_encoder']}{source.place.suffix}, which was made with it, beside it"
        raise Refusal(Fault(str(source.place), found, "both halves", do))
    rows = {part: values if dtype is None else values.to(dtype) for part, values in rows.items()}
    if options.form == "diffusers" and len(rows) > 1 and not target.suffix:
        embedding.write_pair(target, word, rows)
    elif target.suffix == ".pt":
        if len(rows) > 1:
            do = f"tenshot convert {options.src} {target.with_suffix('.safetensors')}"
            raise Refusal(Fault(str(target), "two text encoders in a .pt file", "a .safetensors file", do))
        embedding.write_pt(target, word, rows["text_encoder"])
    else:
        embedding.write(target, word, rows)
    vectors, width = next(iter(rows.values())).shape
    return {"what": "embedding", "file": str(target), "word": word, "vectors": vectors, "width": width}
