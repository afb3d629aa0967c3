"""`tenshot extract`: the difference of two models as a LoRA. `tenshot resize`: a LoRA of another rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from tenshot.adapters import adapter_files, bundled_embeddings, factors, parsing
from tenshot.adapters.factors import Factors
from tenshot.adapters.weight_delta import Difference, Layer
from tenshot.core.errors import Fault, all_or_refuse, refuse_if
from tenshot.core.events import Events, track
from tenshot.core.results import WrittenLora
from tenshot.export import kohya
from tenshot.export.kohya import Origin
from tenshot.extract.options import ExtractOptions, RankOptions, ResizeOptions
from tenshot.io import destinations, tensors
from tenshot.model import checkpoint, hub
from tenshot.model.checkpoint import LazyModel

SAME = 1e-6  # a layer whose weights differ by less, relative to their size, was not trained


def extract(options: ExtractOptions, events: Events) -> WrittenLora:
    """Raises Refusal with nothing written."""
    options = hub.fetched(options, events)
    _, tuned, base = all_or_refuse(
        lambda: refuse_if(_taken(options)),
        lambda: checkpoint.read(options.tuned, options.config, vae=options.vae),
        lambda: checkpoint.read(options.base, options.config, vae=options.vae),
    )
    refuse_if(_strangers(tuned, base))
    layers = [(part, name) for part, content in base.parts.items() if part != "vae" for name in content]
    found: dict[Layer, Factors] = {}
    away = total = 0.0
    for part, name in track(layers, "extracting", len(layers), events):
        before, after = (each.parts[part][name].read().float() for each in (base, tuned))
        difference = after - before
        refuse_if(_no_numbers(f"{part} {name}", before, after, options))
        total += float(difference.square().sum())
        if not _is_layer(name, difference) or difference.norm() <= SAME * before.norm():
            away += float(difference.square().sum())
            continue
        each = factors.nearest(difference, _rank(options), options.keep)
        found[part, name.removesuffix(".weight")] = each
        away += float((difference - each.difference()).square().sum())
    refuse_if([] if found else [_same(tuned, base)])
    told = kohya.write_found(found, options.out, Origin(base.family, base.denoiser))
    return {**told, "relative_error": (away / total) ** 0.5}


def resize(options: ResizeOptions, events: Events) -> WrittenLora:
    """Raises Refusal with nothing written."""
    options = hub.fetched(options, events)
    _, source = all_or_refuse(
        lambda: refuse_if(_taken(options)),
        lambda: adapter_files.opened(options.file),
    )
    found = parsing.read(source, kohya.config_of(options.config))
    refuse_if(parsing.bound(source, found))
    before = {layer: each for layer, each in found.items() if isinstance(each, Difference)}
    made_for = kohya.origin(options.config, source, before)
    after = {layer: _smaller(each, options) for layer, each in before.items()}
    told = kohya.write_found(after, options.out, made_for, source.metadata, bundled_embeddings.kept(source))
    return {**told, "relative_error": factors.apart(before, after)}


def _smaller(each: Difference, options: RankOptions) -> Factors:
    if isinstance(each, Factors):
        return factors.truncated(each, _rank(options), options.keep)
    made = factors.nearest(each.difference(), _rank(options), options.keep)
    return replace(made, magnitude=each.magnitude)


def _rank(options: RankOptions) -> int:
    return options.rank or (16 if options.keep is None else 1 << 30)


def _taken(options: RankOptions) -> Iterator[Fault]:
    yield from options.faults()
    yield from destinations.faults("--out", options.out, options.overwrite, options.sources)


def _strangers(tuned: LazyModel, base: LazyModel) -> Iterator[Fault]:
    do = f"give the model that {tuned.place} was trained from as --base"
    yield from checkpoint.differences(base, tuned, "two models of one architecture", do)
    if tuned.place.resolve() == base.place.resolve():
        yield _same(tuned, base)


def _same(tuned: LazyModel, base: LazyModel) -> Fault:
    do = "give the result of the training, and as --base the model before it"
    return Fault(str(tuned.place), f"is the same as {base.place}", "a fine-tuned model", do)


def _no_numbers(name: str, before: torch.Tensor, after: torch.Tensor, options: ExtractOptions) -> Iterator[Fault]:
    for place, tensor in ((options.base, before), (options.tuned, after)):
        if not tensors.finite(tensor):
            yield Fault(str(place), f"{name} holds NaN or infinite numbers", "finite numbers", "copy or train it again")


def _is_layer(name: str, weight: torch.Tensor) -> bool:
    return name.endswith(".weight") and weight.ndim in (2, 4) and "embedding.weight" not in name
