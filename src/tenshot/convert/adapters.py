"""LoRAs and learned words: from any names to those that user interfaces read, or those of diffusers' pipelines."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tenshot import model
from tenshot.adapters import embedding, factors, lora, names, reading
from tenshot.adapters.addition import Addition, Layer
from tenshot.adapters.factors import Factors
from tenshot.convert.options import ConvertOptions
from tenshot.errors import Fault, Refusal
from tenshot.events import Events
from tenshot.families import layout, original
from tenshot.families.family import Family
from tenshot.families.sd import SD1, SD2
from tenshot.families.sdxl import SDXL
from tenshot.files import tensors
from tenshot.files.containers import Container

KOHYA_VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
SIDES = {"sd1": 512, "sd2": 768, "sdxl": 1024}


def convert_lora(
    source: Container, options: ConvertOptions, target: Path, dtype: torch.dtype | None, events: Events
) -> dict[str, Any]:
    """Kohya's names become diffusers', all others kohya's, unless --form says it. LoHa and LoKr stay what they are."""
    config = _unet(options)
    found = reading.read(source, config)
    others = {layer for layer, each in found.items() if not isinstance(each, Factors)}
    family = family_of(found, options)
    other = "kohya" if options.to or others else "diffusers" if _is_kohya(source) else "kohya"
    form = "kohya" if options.to else options.form or other
    if form == "diffusers":
        lora_only = {layer: _cast(each, dtype) for layer, each in reading.low_rank(source, config).items()}
        tensors.write(target, factors.to_diffusers(lora_only), factors.metadata(lora.settings_of(lora_only)))
    else:
        originals = (original.unet_modules(config) if config else names.full_originals()) if family is SDXL else None
        named = factors.to_kohya({k: _cast(v, dtype) for k, v in found.items() if isinstance(v, Factors)}, originals)
        if others:
            named |= _as_they_are(source, config, others, originals, dtype)
        write_kohya(target, named, found, family, source.about)
    if any(each.magnitude is not None for each in found.values()):
        events.say("this is a DoRA: ComfyUI and diffusers read it, AUTOMATIC1111 does not; for that one, merge it")
    return {"what": "lora", "family": family.title, "form": form, **factors.facts(target, found)}


def _as_they_are(
    source: Container,
    unet: Mapping[str, Any] | None,
    layers: set[Layer],
    originals: Mapping[str, str] | None,
    dtype: torch.dtype | None,
) -> dict[str, torch.Tensor]:
    """The tensors of LoHa and LoKr, whose own names are the same everywhere; those of the layers are kohya's."""
    named = {}
    for name, lazy in source.tensors.items():
        place = names.place_of(name, unet)
        if place and (place.part, place.layer) in layers:
            kind = "dora_scale" if place.kind == "magnitude" else place.kind
            tensor = lazy.read()
            named[f"{names.kohya(place.part, place.layer, originals)}.{kind}"] = tensor.to(dtype or tensor.dtype)
    return named


def _is_kohya(source: Container) -> bool:
    return any(name.startswith(("lora_unet_", "lora_te")) for name in source.tensors)


def _cast(each: Factors, dtype: torch.dtype | None) -> Factors:
    if dtype is None:
        return each
    magnitude = each.magnitude if each.magnitude is None else each.magnitude.to(dtype)
    return Factors(each.down.to(dtype), each.up.to(dtype), each.alpha, magnitude)


def _unet(options: ConvertOptions) -> dict[str, Any] | None:
    if options.config is None:
        return None
    place = model.find(str(options.config))
    layout.examine(place)
    return tensors.read_json(place / "unet" / "config.json")


def family_of(found: Mapping[Layer, Addition], options: ConvertOptions) -> Family:
    """By --config, or by how wide the text is that its layers read."""
    if options.config:
        return layout.examine(model.find(str(options.config)))
    if factors.is_sdxl(found):
        return SDXL
    return SD2 if factors.width(found) == 1024 else SD1


def write_kohya(
    target: Path,
    named: Mapping[str, torch.Tensor],
    found: Mapping[Layer, Addition],
    family: Family,
    about: Mapping[str, str],
) -> None:
    """With the metadata by which user interfaces sort it to its family, and what `about` said of the training."""
    told = {key: value for key, value in about.items() if key.startswith(("ss_", "ssmd_", "tenshot"))}
    digest = data_hash(named)
    facts = {
        "format": "pt",
        **told,
        "ss_network_module": "networks.lora" if reading.kinds(named).keys() == {"LoRA"} else "lycoris.kohya",
        "ss_network_dim": str(int(factors.usual(each.rank for each in found.values()))),
        "ss_network_alpha": str(factors.usual(each.alpha for each in found.values())),
        "ss_base_model_version": told.get("ss_base_model_version", KOHYA_VERSIONS[family.name]),
        "ss_v2": str(family.name == "sd2"),
        "ss_output_name": target.stem,
        "sshs_model_hash": digest,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{family.spec}/lora",
        "modelspec.implementation": "https://github.com/huggingface/diffusers",
        "modelspec.title": target.stem,
        "modelspec.resolution": "{0}x{0}".format(SIDES[family.name]),
        "modelspec.hash_sha256": f"0x{digest}",
    }
    tensors.write(target, named, facts)


def data_hash(named: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of what follows a safetensors file's header, in the order in which the library writes it."""
    from safetensors.torch import save

    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in named.items()})
    return hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


def convert_embedding(
    source: Container, options: ConvertOptions, target: Path, dtype: torch.dtype | None
) -> dict[str, Any]:
    """Every layout of a learned word -> the one that all user interfaces read."""
    word, rows = embedding.of(source)
    rows = {part: values if dtype is None else values.to(dtype) for part, values in rows.items()}
    if target.suffix == ".pt":
        if len(rows) > 1:
            raise Refusal(Fault(str(target), "two text encoders in a .pt file", "a .safetensors file"))
        embedding.write_pt(target, word, rows["text_encoder"])
    else:
        embedding.write(target, word, rows)
    vectors, width = next(iter(rows.values())).shape
    return {"what": "embedding", "file": str(target), "word": target.stem, "vectors": vectors, "width": width}
