"""LoRA, LoHa and LoKr under kohya's names, with the metadata by which user interfaces sort them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from tenshot.adapters import base_model, bundled_embeddings, factors, lora_keys, parsing, stacks
from tenshot.adapters.factors import Factors
from tenshot.adapters.weight_delta import Addition, Layer, misfits
from tenshot.core.errors import refuse_if
from tenshot.core.json_types import Config
from tenshot.core.results import WrittenLora
from tenshot.families import released, validate
from tenshot.families.base import Family
from tenshot.io import tensors
from tenshot.io.tensor_files import Container
from tenshot.model import checkpoint, model

KEPT = ("ss_", "ssmd_", "tenshot", "modelspec.trigger", "modelspec.usage_hint")


class Origin(NamedTuple):
    """The family of the model that something was made for, and the configuration of its denoiser, where it is known.

    said: what a file calls the model's version.
    """

    family: Family
    denoiser: Config | None = None
    said: str = ""

    @property
    def originals(self) -> Mapping[str, str] | None:
        """How the layers' names change; None where there is one text encoder, which has no number then."""
        if len(self.family.encoders) == 1:
            return None
        return self.family.kohya.blocks(self.denoiser or self.family.released[self.family.denoiser])

    def shaped(self, found: Mapping[Layer, Factors]) -> dict[Layer, Factors]:
        """Factors with kernels where the family's layers have them, and only there: some programs want it so."""
        shaped = factors.as_in(released.layers(self.family.name), found)
        original = self.family.kohya.original
        return stacks.by_original_names(shaped, self.family.denoiser, original) if original else shaped


def write(
    source: Container,
    target: Path,
    base: Path | None,
    dtype: torch.dtype | None,
    about: Mapping[str, str] | None = None,
    instead: Mapping[Layer, Factors] | None = None,
) -> WrittenLora:
    """A whole file, with other factors `instead` of some layers' own.

    base: the model it belongs to, where its shapes do not say it. about: more than it says itself. Raises Refusal.
    """
    unet = config_of(base)
    found = {**parsing.read(source, unet), **(instead or {})}
    low_rank = {layer: cast(each, dtype) for layer, each in found.items() if isinstance(each, Factors)}
    made_for = origin(base, source, found)
    others = {layer for layer in found if layer not in low_rank}
    as_they_are = _as_they_are(source, unet, others, made_for, dtype) if others else {}
    as_they_are |= bundled_embeddings.kept(source, dtype)
    return write_found({**found, **low_rank}, target, made_for, {**source.metadata, **(about or {})}, as_they_are)


def write_found(
    found: Mapping[Layer, Addition],
    target: Path,
    made_for: Origin,
    about: Mapping[str, str] | None = None,
    others: Mapping[str, torch.Tensor] | None = None,
) -> WrittenLora:
    """What was written, in words. about: what is known of the training. others: tensors of what is no LoRA."""
    low_rank = made_for.shaped({layer: each for layer, each in found.items() if isinstance(each, Factors)})
    named = {**factors.to_kohya(low_rank, made_for.originals), **(others or {})}
    tensors.write(target, named, _about(target, named, found, made_for, about or {}))
    return {"what": "lora", "family": made_for.family.title, "form": "kohya", **factors.facts(target, found)}


def config_of(base: Path | None) -> Config | None:
    """The configuration of a model's denoiser."""
    if base is None:
        return None
    place = model.find(str(base))
    validate.examine(place)
    return validate.denoiser_config(place)


def origin(base: Path | None, source: Container, found: Mapping[Layer, Addition]) -> Origin:
    """By the model it belongs to, or by all that the file says of it. Raises Refusal where that leaves it open."""
    if base is None:
        return Origin(base_model.family_of(source, found), said=source.metadata.get(base_model.BASE, ""))
    whole_base = checkpoint.of_folder(model.find(str(base)))
    refuse_if(misfits(str(source.place), found, whole_base.layers))
    return Origin(whole_base.family, whole_base.denoiser)


def cast(each: Factors, dtype: torch.dtype | None) -> Factors:
    if dtype is None:
        return each
    down, up = (tensors.rounded(half, dtype, "a LoRA's layer") for half in (each.down, each.up))
    magnitude = each.magnitude
    return Factors(
        down, up, each.alpha, None if magnitude is None else tensors.rounded(magnitude, dtype, "a magnitude")
    )


def _as_they_are(
    source: Container,
    unet: Config | None,
    layers: set[Layer],
    made_for: Origin,
    dtype: torch.dtype | None,
) -> dict[str, torch.Tensor]:
    """The tensors of LoHa and LoKr, whose own names are the same everywhere; those of the layers are kohya's.

    Where those are of the original layout, in which some lie together, ours are called as OneTrainer calls them.
    """
    named = {}
    original = made_for.family.kohya.original
    for name, lazy in source.tensors.items():
        place = lora_keys.parse(name, unet)
        if place and not layers.isdisjoint(stacks.lying_in(parsing.key(place))):
            kind = "dora_scale" if place.kind == "magnitude" else place.kind
            tensor = lazy.read()
            kept = dtype if tensor.is_floating_point() else None
            start = lora_keys.kohya(place.part, place.layer, made_for.originals)
            if original and place.part == made_for.family.denoiser and not original.layers(place.layer, 0, 1)[0]:
                start = f"lora_{place.part}_{place.layer.replace('.', '_')}"
            named[f"{start}.{kind}"] = tensors.rounded(tensor, kept or tensor.dtype, name)
    return named


def _about(
    target: Path,
    named: Mapping[str, torch.Tensor],
    found: Mapping[Layer, Addition],
    made_for: Origin,
    about: Mapping[str, str],
) -> dict[str, str]:
    """The file's metadata, with what `about` said of the training."""
    family = made_for.family
    told = {key: value for key, value in about.items() if key.startswith(KEPT)}
    digest = tensors.data_hash(named)
    return {
        "format": "pt",
        **told,
        "ss_network_module": "networks.lora" if parsing.kinds(named).keys() == {"LoRA"} else "lycoris.kohya",
        "ss_network_dim": str(int(factors.usual(each.rank for each in found.values()))),
        "ss_network_alpha": str(factors.usual(getattr(each, "alpha", 0.0) for each in found.values())),
        **base_model.saying(*made_for),
        "ss_v2": str(family.kohya.v2),
        "ss_output_name": target.stem,
        "sshs_model_hash": digest,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": "https://github.com/huggingface/diffusers",
        "modelspec.title": target.stem,
        "modelspec.resolution": f"{family.resolution}x{family.resolution}",
        "modelspec.hash_sha256": f"0x{digest}",
    }
