"""`tenshot merge`: LoRAs into a model, LoRAs into one LoRA, models into one. In float32, rounded once at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from itertools import chain
from pathlib import Path
from typing import cast

import torch

from tenshot.adapters import adapter_files, bundled_embeddings, factors, parsing
from tenshot.adapters.factors import Factors
from tenshot.adapters.weight_delta import INSPECT, Addition, Layer, alike, misfits, parameter, summed
from tenshot.core.device import DTYPES
from tenshot.core.errors import Fault, Refusal, all_or_refuse, refuse_if
from tenshot.core.events import Events
from tenshot.core.results import Merged
from tenshot.export import install, kohya, ui_folders
from tenshot.export.install import Result
from tenshot.export.kohya import Origin
from tenshot.io import destinations, tensors
from tenshot.io.tensor_files import Container, Lazy
from tenshot.merge.options import MergeOptions
from tenshot.model import checkpoint, hub
from tenshot.model.checkpoint import LazyModel

Shares = Sequence[tuple[dict[Layer, Addition], float]]


def merge(options: MergeOptions, events: Events) -> Merged:
    """Raises Refusal with nothing written."""
    options = hub.fetched(options, events)
    _, base, *sources = all_or_refuse(
        lambda: refuse_if(_faults(options)),
        lambda: options.sd_model and checkpoint.read(options.sd_model, options.config, vae=options.vae),
        *(partial(_opened, path) for path in options.models),
    )
    ratios = options.ratios or [1.0] * len(options.models)
    told = _into(options, base, sources, ratios, events) if base else _loras(options, sources, ratios)
    exported = install.put(options.export, [_result(options)], events, base=options.config)
    return {**told, **({"exported": exported} if exported else {})}


def _result(options: MergeOptions) -> Result:
    place = options.save_to.resolve()
    kind = "lora" if options.sd_model is None else "checkpoint"
    return Result(kind, place, place.stem if place.suffix in (".safetensors", ".ckpt") else place.name)


def _opened(path: Path) -> Container | None:
    """The file that holds a LoRA or a model; None for a model folder. Raises Refusal."""
    if (path.is_dir() and not adapter_files.files(path)) or str(path) == "pocket":
        return None
    return adapter_files.opened(path)


def _into(
    options: MergeOptions, base: LazyModel, sources: Sequence[Container | None], ratios: Sequence[float], events: Events
) -> Merged:
    files = [each for each in sources if each and parsing.is_lora(each.tensors)]
    words: bundled_embeddings.Words = {}
    folder = options.save_to.parent
    if len(files) == len(sources):
        loras = all_or_refuse(*(partial(parsing.read, each, base.denoiser) for each in files))
        words = bundled_embeddings.of_all(files)
        refuse_if(bundled_embeddings.faults("--save_to", words, folder, options.overwrite))
        merged = into_model(base, list(zip(loras, ratios, strict=True)), options)
        what = f"{len(loras)} LoRA in {base.family.title}"
    else:
        refuse_if(_of_loras_alone(options))
        others = all_or_refuse(
            *(partial(checkpoint.read, path, options.config, vae=options.vae) for path in options.models)
        )
        merged = of_models(base, others, ratios, options)
        what = f"{1 + len(others)} models of {base.family.title}"
    checkpoint.write(merged, options.save_to, events)
    told = {"merged": what, "ratios": list(ratios), "written": str(options.save_to)}
    return cast(Merged, {**told, **bundled_embeddings.write(words, folder)})


def _of_loras_alone(options: MergeOptions) -> Iterator[Fault]:
    for name in ("blocks", "text_ratios"):
        if getattr(options, name):
            yield Fault(f"--{name}", "is given, but --models are whole models", "LoRAs", "leave it out")


def _faults(options: MergeOptions) -> Iterator[Fault]:
    yield from options.faults()
    yield from destinations.faults("--save_to", options.save_to, options.overwrite, options.sources)
    result = _result(options)
    yield from ui_folders.faults(options.export, [(result.kind, result.name)])


def _dtype(options: MergeOptions) -> torch.dtype | None:
    """None: every tensor as it is."""
    return None if options.precision == "keep" else DTYPES[options.precision]


def strength(options: MergeOptions, number: int, ratio: float, layer: Layer) -> float:
    """How much the LoRA with this number counts in a layer."""
    part, name = layer
    if part.startswith("text_encoder") and options.text_ratios:
        ratio = options.text_ratios[number]
    begins = [start for start in options.blocks if _begins(name, start)]
    return ratio * (options.blocks[max(begins, key=len)] if begins else 1.0)


def _begins(layer: str, start: str) -> bool:
    return f"{layer}.".startswith(f"{start}.") or layer.startswith(f"{start}_")


def _idle_blocks(options: MergeOptions, layers: Sequence[Layer]) -> Iterator[Fault]:
    for start in options.blocks:
        if not any(_begins(name, start) for _, name in layers):
            known = sorted({name.partition(".")[0] for part, name in layers if not part.startswith("text_encoder")})
            found = f"{start!r}: no layer that --models change begins like that"
            yield Fault(
                "--blocks", found, f"beginnings of their names: {', '.join(known)}", "correct it, or leave it out"
            )


def into_model(base: LazyModel, shares: Shares, options: MergeOptions) -> LazyModel:
    """W + sum of ratio x difference, layer by layer. Raises Refusal where a LoRA has layers that the model has not."""
    loras = zip(options.models, (found for found, _ in shares), strict=True)
    refuse_if(chain.from_iterable(misfits(str(place), found, base.layers) for place, found in loras))
    parts = {part: dict(content) for part, content in base.cast(_dtype(options)).parts.items()}
    touched = sorted({layer for found, _ in shares for layer in found})
    refuse_if(_idle_blocks(options, touched))
    for part, layer in touched:
        name = parameter(layer)
        mine = [
            (found[part, layer], strength(options, number, ratio, (part, layer)))
            for number, (found, ratio) in enumerate(shares)
            if (part, layer) in found
        ]
        dtype = parts[part][name].dtype
        added = partial(_added, f"{part} {name}", base.parts[part][name], mine, dtype)
        parts[part][name] = replace(parts[part][name], read=added)
    return replace(base, parts=parts)


def _added(name: str, before: Lazy, shares: Sequence[tuple[Addition, float]], dtype: torch.dtype) -> torch.Tensor:
    return _finite(summed(before.read(), shares).to(dtype), name)


def of_models(
    base: LazyModel, others: Sequence[LazyModel], ratios: Sequence[float], options: MergeOptions
) -> LazyModel:
    """Weighted sum or added difference. Raises Refusal where the models do not have the same tensors."""
    fits, do = f"another {base.family.title} of the same architecture", "tenshot inspect FILE says what each is"
    refuse_if(chain.from_iterable(checkpoint.differences(base, each, fits, do) for each in others))
    shares = [1.0, ratios[0], -ratios[0]] if options.method == "difference" else [1 - sum(ratios), *ratios]
    parts = {
        part: {
            name: replace(lazy, read=partial(_mixed, part, name, [base, *others], shares, lazy.dtype))
            for name, lazy in content.items()
        }
        for part, content in base.cast(_dtype(options)).parts.items()
    }
    return replace(base, parts=parts)


def _mixed(
    part: str, name: str, models: Sequence[LazyModel], shares: Sequence[float], dtype: torch.dtype
) -> torch.Tensor:
    first = models[0].parts[part][name].read()
    if not first.dtype.is_floating_point:
        return first
    total = torch.zeros(first.shape)
    for each, share in zip(models, shares, strict=True):
        total += share * each.parts[part][name].read().float()
    return _finite(total.to(dtype), f"{part} {name}")


def _finite(merged: torch.Tensor, name: str) -> torch.Tensor:
    """Raises Refusal, before the result is there, where it would be no numbers."""
    if not tensors.finite(merged):
        found = f"{name} would hold NaN or infinite numbers in {str(merged.dtype).removeprefix('torch.')}"
        raise Refusal(Fault("merge", found, "finite numbers", "smaller --ratios, or other files"))
    return merged


def _file(path: Path, source: Container | None) -> Container:
    if source is None:
        do = "--sd_model MODEL merges models, too"
        raise Refusal(Fault("--models", f"{path} is a model folder", "LoRAs where there is no --sd_model", do))
    return source


def _loras(options: MergeOptions, sources: Sequence[Container | None], ratios: Sequence[float]) -> Merged:
    files = all_or_refuse(*(partial(_file, *each) for each in zip(options.models, sources, strict=True)))
    unet = kohya.config_of(options.config)
    found = all_or_refuse(*(partial(parsing.low_rank, each, unet) for each in files))
    made_for = _one_family(options, files, found)
    refuse_if(_of_other_sizes(files, found))
    shares = list(zip(found, ratios, strict=True))
    layers = list(dict.fromkeys(layer for each in found for layer in each))
    refuse_if(_idle_blocks(options, layers))
    merged = {layer: _together(layer, shares, options) for layer in layers}
    error = 0.0
    if options.rank:
        exact = merged
        merged = {layer: factors.truncated(each, options.rank) for layer, each in exact.items()}
        error = factors.apart(exact, merged)
    numbers = {each.down.dtype for loras in found for each in loras.values()}
    kept = [each if each.itemsize > 1 else torch.float16 for each in numbers]
    dtype = _dtype(options) or reduce(torch.promote_types, kept)
    rounded = {layer: kohya.cast(each, dtype) for layer, each in merged.items()}
    bundled_embeddings.of_all(files)
    words = {name: tensor for file in files for name, tensor in bundled_embeddings.kept(file, dtype).items()}
    written = kohya.write_found(rounded, options.save_to, made_for, others=words)
    return cast(Merged, {"merged": f"{len(found)} LoRA", "ratios": list(ratios), "relative_error": error, **written})


def _one_family(options: MergeOptions, files: Sequence[Container], found: Sequence[Mapping[Layer, Addition]]) -> Origin:
    """What all of them are for. Raises Refusal where that is not one and the same."""
    origins: list[Origin] = all_or_refuse(
        *(partial(kohya.origin, options.config, *each) for each in zip(files, found, strict=True))
    )
    first, *others = (origin.family for origin in origins)
    refuse_if(
        Fault(str(file.place), f"is for {other.title}", f"a LoRA for {first.title}, as {files[0].place} is", INSPECT)
        for file, other in zip(files[1:], others, strict=True)
        if other is not first
    )
    return origins[0]


def _of_other_sizes(files: Sequence[Container], found: Sequence[Mapping[Layer, Addition]]) -> Iterator[Fault]:
    """Stable Diffusion 3 has several, and so have models that people made."""
    known: dict[Layer, tuple[int, ...]] = {}
    for file, layers in zip(files, found, strict=True):
        wrong = [layer for layer, each in layers.items() if not alike(each.shape, known.setdefault(layer, each.shape))]
        if wrong:
            first = f"{' '.join(wrong[0])}: {list(layers[wrong[0]].shape)}, before it {list(known[wrong[0]])}"
            told = f"{len(wrong)} of its {len(layers)} layers have other shapes: {first}"
            yield Fault(str(file.place), told, "LoRAs for models of one size", INSPECT)


def _together(layer: Layer, shares: Sequence[tuple[dict[Layer, Factors], float]], options: MergeOptions) -> Factors:
    """The exact weighted sum: factors side by side, each scaled by what it counts."""
    mine = [
        (found[layer], strength(options, number, ratio, layer))
        for number, (found, ratio) in enumerate(shares)
        if layer in found
    ]
    if any(each.magnitude is not None for each, _ in mine):
        raise Refusal(
            Fault("--models", "a DoRA", "LoRAs without magnitudes", "give --sd_model: it can be merged into that")
        )
    down = torch.cat([each.down.float() for each, _ in mine])
    up = torch.cat([each.scale * ratio * each.up.float() for each, ratio in mine], dim=1)
    return Factors(down, up, float(down.shape[0]))
