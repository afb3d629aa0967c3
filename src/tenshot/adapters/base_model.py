"""Which family an adapter is for: what its layers are called, how wide they are, what its header says of its model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from tenshot.adapters.factors import Factors
from tenshot.adapters.weight_delta import BIAS, Addition, Layer, misfits
from tenshot.core.errors import Fault, Refusal, some
from tenshot.core.json_types import Config
from tenshot.families import registry, released
from tenshot.families.base import Family
from tenshot.io.tensor_files import Container

BASE, ARCHITECTURE = "ss_base_model_version", "modelspec.architecture"
_OTHERS = {
    "the refiner of Stable Diffusion XL": r".*refiner",
    "Flux": r"flux|chroma",
    "Stable Cascade": r"stable.?cascade|wurstchen",
    "another model": r"(lumina|hunyuan|anima|qwen|wan|kolors|pixart|auraflow|hidream|ltx|cosmos|z.?image|omnigen|sana)"
    r"(?![a-z])",
}
#: What is in the names of layers that only other models have.
_STRANGE = {
    "Flux": r"(double|single)_blocks|single_transformer_blocks",
    "Stable Cascade": r"^lora_prior_",
    "a model with a T5 as text encoder": r"^lora_te3_|^text_encoder_3",
}
_BLOCKS = r"(input_blocks|output_blocks|middle_block|time_embed|label_emb|out)\."  # the original ones
_TEXT = r"encoder\.layers\.\d+\..+|embeddings\..+|final_layer_norm|text_projection"
TELL = "--config MODEL, with the folder of the model that it belongs to"
FITS = "a LoRA for " + ", ".join(family.title for family in registry.FAMILIES)


def family_of(source: Container, found: Mapping[Layer, Addition]) -> Family:
    """Raises Refusal where the signs leave it open, or are another model's."""
    denoisers = {part for part, _ in found if not part.startswith("text_encoder")}
    named = [family for family in registry.FAMILIES if denoisers == {family.denoiser}]
    if len(named) == 1:
        return named[0]
    possible = [family for family in named or registry.FAMILIES if _has(family, found)]
    said = claimed(source.metadata)
    if said and (said in possible or not possible):
        return said
    if blocks := [layer for layer in found if re.match(_BLOCKS, layer[1])]:
        told = f"its blocks are numbered as in no model that was ever released: {_layers(blocks)}"
        raise Refusal(Fault(str(source.place), told, FITS, TELL))
    possible = possible or [family for family in named or registry.FAMILIES if _reads(family, found)]
    narrowed = [family for family in possible if not _by_prefix(source.tensors, family)] or possible
    narrowed = [family for family in narrowed if _as_deep(family, found)] or narrowed
    # Of CLIP-L alone: Stable Diffusion 3 has the same one, but those for it name its denoiser or say so.
    narrowed = [family for family in narrowed if family.denoiser == registry.DENOISERS[0]] or narrowed
    if len(narrowed) == 1:
        return narrowed[0]
    told = f"its layers are those of {' and of '.join(each.title for each in narrowed)}, and it does not say which"
    if not possible:
        told = f"its layers are of no model that was ever released: {_layers(found)}"
    raise Refusal(Fault(str(source.place), told, FITS, TELL))


def claimed(about: Mapping[str, str]) -> Family | None:
    """The family of the model that it was trained on, as a file's header says it."""
    for family in registry.FAMILIES:
        if any(re.match(family.named_as, each) for each in _said(about)):
            return family
    return None


def contradiction(source: Container, found: Mapping[Layer, Addition], family: Family | None) -> Iterator[Fault]:
    """What the header says against a model of that family, unless the layers are that family's and no other's."""
    said = claimed(source.metadata)
    if said and family and said is not family and (_has(said, found) or not _has(family, found)):
        told = f"is for {said.title}, as its header says ({_said(source.metadata)[0]})"
        yield Fault(str(source.place), told, f"an adapter for {family.title}", "choose a model that it is for")


def stranger(source: Container, found: Iterable[Layer]) -> None:
    """Raises Refusal where an adapter is for another kind of model than all that Tenshot knows."""
    named = (title for title, says in _OTHERS.items() if any(re.match(says, each) for each in _said(source.metadata)))
    called = (title for title, has in _STRANGE.items() if any(re.search(has, name) for name in source.tensors))
    strange = [(part, name) for part, name in found if not _is_known(part, name)]
    if title := next(named, None) or next(called, None) or ("another model" if strange else None):
        told = f"is for {title}: {', '.join(_said(source.metadata)) or _layers(strange or found)}"
        raise Refusal(Fault(str(source.place), told, FITS, "use it in a program for that model"))


def _is_known(part: str, layer: str) -> bool:
    known = [_TEXT] if part.startswith("text_encoder") else [f.layers for f in registry.FAMILIES if f.denoiser == part]
    return any(re.fullmatch(each, layer.removesuffix(BIAS)) for each in known)


def saying(family: Family, denoiser: Config | None = None, said: str = "") -> dict[str, str]:
    """A header's words for the model that a LoRA was trained on.

    denoiser: its configuration. said: the base model's version as a file has it, where the configuration is not known.
    """
    named = (each for each in family.variants if family.kohya.version.format(each) == said)
    variant = next(named, family.variants[0]) if denoiser is None else family.variant(denoiser)
    return {BASE: family.kohya.version.format(variant), ARCHITECTURE: f"{family.spec.format(variant)}/lora"}


def _said(about: Mapping[str, str]) -> list[str]:
    if found := [about[key].lower() for key in (BASE, ARCHITECTURE) if about.get(key)]:
        return found
    older = {str(each.kohya.v2): each.kohya.version for each in reversed(registry.FAMILIES)}  # than v2: the first ones
    return [older[said]] if (said := about.get("ss_v2", "")) in older else []


def _has(family: Family, found: Mapping[Layer, Addition]) -> bool:
    return not any(misfits("", found, released.layers(family.name)))


def _reads(family: Family, found: Mapping[Layer, Addition]) -> bool:
    """Has it the family's second text encoder, or a UNet that reads text as wide as the family's?"""
    reading = [each.shape for (_, layer), each in found.items() if "attn2.to_k" in layer]
    wide = {shape[1] for shape in reading if len(shape) > 1}
    second = any(part == "text_encoder_2" for part, _ in found)
    return (
        "text_encoder_2" in family.parts
        if second
        else wide == {family.released[family.denoiser].get(family.text_width)}
    )


def _as_deep(family: Family, found: Mapping[Layer, Addition]) -> bool:
    """Are a LoRA's factors convolutions where the family's layers are? Stable Diffusion 2 has fewer of them."""
    layers = released.layers(family.name)
    lora = {layer: each for layer, each in found.items() if isinstance(each, Factors)}
    return all(len(each.shape) == len(layers.get(layer, each.shape)) for layer, each in lora.items())


def _by_prefix(names: Iterable[str], family: Family) -> bool:
    """Do the names speak against the family? kohya's scripts number text encoders where there are two of them."""
    starts = ("lora_te_",) if len(family.encoders) > 1 else ("lora_te1_", "lora_te2_")
    return any(name.startswith(starts) for name in names)


def _layers(layers: Iterable[Layer]) -> str:
    return some([f"{part} {layer}" for part, layer in layers])
