"""LoRAs and learned words: from any names to those that user interfaces read, or those of diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import torch

from tenshot.adapters import adapter_files, base_model, bundled_embeddings, embedding, factors, lora, parsing
from tenshot.adapters.factors import Factors
from tenshot.adapters.weight_delta import Addition, Layer
from tenshot.convert import baking
from tenshot.convert.options import ConvertOptions
from tenshot.core.errors import Fault, Refusal, refuse_if
from tenshot.core.events import Events
from tenshot.core.results import Written
from tenshot.export import compatibility, kohya
from tenshot.export.ui_folders import phrase
from tenshot.io import tensors
from tenshot.io.tensor_files import Container


def convert_lora(
    source: Container, options: ConvertOptions, target: Path, dtype: torch.dtype | None, events: Events
) -> Written:
    """Kohya's names become diffusers', all others kohya's, unless --form says it. What is no LoRA stays what it is.

    Learned words within it stay there, too, and get a file of their own where that is not read.
    """
    config = options.config or options.bake_dora
    found = parsing.read(source, kohya.config_of(config))
    nothing: tuple[dict[Layer, Factors], Written] = ({}, {})
    baked, told = baking.baked(source, found, options.bake_dora, options.rank, events) if options.bake_dora else nothing
    for program, why in compatibility.decomposed(source, {**found, **baked}):
        if not options.place or program not in (
            compatibility.WEBUI,
            compatibility.COMFY,
        ):  # there it is told of the result
            events.say(f"{program}: {why}")
    plain = all(isinstance(each, Factors) for each in found.values())
    from_kohya = any(name.startswith(("lora_unet_", "lora_te")) for name in source.tensors)
    other = "diffusers" if from_kohya and plain and not baked else "kohya"
    as_kohya = options.to or (options.form or other) == "kohya"
    apart = target.parent if not as_kohya else None
    if options.place and options.place.program == "comfyui":
        apart = options.place.file("embedding", "word").parent
    words = bundled_embeddings.words(source) if apart else {}
    refuse_if(bundled_embeddings.faults("the word", words, apart or target.parent, options.overwrite))
    if as_kohya:
        written = kohya.write(source, target, config, dtype, phrase(options.trigger), baked)
    else:
        written = _as_diffusers(source, {**found, **baked}, options, target, dtype)
    return cast(Written, {**written, **told, **bundled_embeddings.write(words, apart or target.parent)})


def _as_diffusers(
    source: Container, found: Mapping[Layer, Addition], options: ConvertOptions, target: Path, dtype: torch.dtype | None
) -> Written:
    low_rank = parsing.only_factors(source, found)
    refuse_if(_by_inputs(source, low_rank))
    made_for = kohya.origin(options.config or options.bake_dora, source, low_rank)
    family = made_for.family
    written = {layer: kohya.cast(each, dtype) for layer, each in made_for.shaped(low_rank).items()}
    about = {**factors.metadata(lora.settings_of(written)), **base_model.saying(*made_for)}
    tensors.write(target, factors.to_diffusers(written), about)
    told = {"what": "lora", "family": family.title, "form": "diffusers"}
    return cast(Written, {**told, **factors.facts(target, low_rank)})


def _by_inputs(source: Container, found: Mapping[Layer, Factors]) -> Iterator[Fault]:
    if layers := [layer for layer, each in found.items() if each.by_input]:
        told = f"{len(layers)} layers have magnitudes of inputs: {' '.join(layers[0])}, ..."
        do = "--form kohya keeps them; --bake_dora MODEL makes a plain LoRA"
        yield Fault(str(source.place), told, "magnitudes of outputs, as diffusers has them", do)


def convert_embedding(source: Container, options: ConvertOptions, target: Path, dtype: torch.dtype | None) -> Written:
    """Every layout of a learned word -> the one that all user interfaces read."""
    word, rows = embedding.of(source)
    if [*rows] == ["text_encoder_2"]:
        found = f"the half of the word {word!r} that is for a second text encoder"
        do = f"put {adapter_files.WORDS['text_encoder']}{source.place.suffix}, which was made with it, beside it"
        raise Refusal(Fault(str(source.place), found, "both halves", do))
    rows = {part: values if dtype is None else tensors.rounded(values, dtype, word) for part, values in rows.items()}
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
    return {"what": "embedding", "written": str(target), "word": word, "vectors": vectors, "width": width}
