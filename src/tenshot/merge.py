"""`tenshot merge`: LoRAs into a model, LoRAs into one LoRA, models into one. In float32, rounded once at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from tenshot.adapters import factors, lora, reading
from tenshot.adapters.addition import Addition, Layer, misfits
from tenshot.adapters.factors import Factors
from tenshot.checkpoints import whole
from tenshot.checkpoints.whole import Whole
from tenshot.device import DTYPES
from tenshot.errors import Fault, Refusal, refuse_if
from tenshot.events import Events
from tenshot.export import kohya, places, put
from tenshot.export.options import ExportOptions
from tenshot.export.put import Result
from tenshot.files import containers
from tenshot.files.containers import Lazy

Shares = Sequence[tuple[dict[Layer, Addition], float]]


class MergeOptions(ExportOptions):
    """LoRAs into a model (--sd_model), LoRAs into one LoRA, or models into one: each at its ratio."""

    also: ClassVar[Mapping[str, str]] = {"model": "sd_model", "out": "save_to", "lora": "models"}

    sd_model: Path | None = Field(None, description="the model that LoRAs or other models go into; none: LoRAs only")
    models: list[Path] = Field(min_length=1, description="LoRAs, or models of the same family as --sd_model")
    ratios: list[float] = Field([], description="how strongly each counts (default: 1 each)")
    text_ratios: list[float] = Field([], description="the same in text encoders (default: as --ratios)")
    blocks: dict[str, float] = Field({}, description="further factors by how layers begin: mid_block=0.5 up_blocks.1=0")
    method: Literal["sum", "difference"] = Field(
        "sum", description="models: (1 - ratios) sd_model + each; or sd_model + ratio (first - second)"
    )
    rank: int | None = Field(None, ge=1, description="of LoRAs merged into one; default: exact, all ranks together")
    precision: Literal["keep", "fp32", "fp16", "bf16"] = Field("keep", description="numbers in the result")
    config: Path | None = Field(None, description="a model folder that tells what a file cannot")
    save_to: Path = Field(description="the result: a .safetensors or .ckpt file, or else a folder")
    overwrite: bool = Field(False, description="replace the result")


def merge(options: MergeOptions, events: Events) -> dict[str, Any]:
    """Raises Refusal with nothing written."""
    refuse_if(_faults(options))
    ratios = options.ratios or [1.0] * len(options.models)
    told = _loras(options, ratios) if options.sd_model is None else _into(options, options.sd_model, ratios, events)
    exported = put.put(options.export, [_result(options)], events, base=options.config)
    return {**told, **({"exported": exported} if exported else {})}


def _result(options: MergeOptions) -> Result:
    place = options.save_to.resolve()
    kind = "lora" if options.sd_model is None else "checkpoint"
    return Result(kind, place, place.stem if place.suffix in (".safetensors", ".ckpt") else place.name)


def _into(options: MergeOptions, into: Path, ratios: Sequence[float], events: Events) -> dict[str, Any]:
    base = whole.read(into, options.config)
    opened = [path if path.is_dir() else containers.opened(path) for path in map(_file, options.models)]
    if all(not isinstance(each, Path) and reading.is_lora(each.tensors) for each in opened):
        unet = base.configs["unet"]
        loras = [reading.read(each, unet) for each in opened if not isinstance(each, Path)]
        merged = into_model(base, list(zip(loras, ratios, strict=True)), options)
        what = f"{len(loras)} LoRA in {base.family.title}"
    else:
        others = [whole.read(path, options.config) for path in options.models]
        merged = of_models(base, others, ratios, options.method)
        what = f"{1 + len(others)} models of {base.family.title}"
    merged = merged.cast(None if options.precision == "keep" else DTYPES[options.precision])
    whole.write(merged, options.save_to, events)
    return {"merged": what, "ratios": list(ratios), "written": str(options.save_to)}


def _faults(options: MergeOptions) -> Iterator[Fault]:
    count = len(options.models)
    for name in ("ratios", "text_ratios"):
        given = getattr(options, name)
        if given and len(given) != count:
            yield Fault(f"--{name}", f"{len(given)} numbers for {count} files", f"{count}, one for each of --models")
    if options.sd_model and not _there(options.sd_model):
        yield Fault("--sd_model", f"{options.sd_model}: no such file or folder", "a model")
    for path in options.models:
        if not _there(path):
            yield Fault("--models", f"{path}: no such file", "a LoRA, or a model")
    if options.save_to.exists() and not options.overwrite:
        yield Fault("--save_to", f"{options.save_to} exists", "a new name", "--overwrite replaces it")
    if options.sd_model is None and options.save_to.suffix != ".safetensors":
        yield Fault("--save_to", str(options.save_to), "LoRAs merged into one make a .safetensors file")
    result = _result(options)
    yield from places.faults(options.export, [(result.kind, result.name)])
    if options.method == "difference" and count != 2:
        yield Fault("--method", f"difference of {count} models", "two: --models NEW OLD")


def _there(path: Path) -> bool:
    return path.exists() or str(path) == "pocket"


def _file(path: Path) -> Path:
    return path / lora.FILE if (path / lora.FILE).is_file() else path


def strength(options: MergeOptions, number: int, ratio: float, layer: Layer) -> float:
    """How much the LoRA with this number counts in a layer."""
    part, name = layer
    if part != "unet" and options.text_ratios:
        ratio = options.text_ratios[number]
    begins = [start for start in options.blocks if f"{name}.".startswith(f"{start}.") or name.startswith(f"{start}_")]
    return ratio * (options.blocks[max(begins, key=len)] if begins else 1.0)


def into_model(base: Whole, shares: Shares, options: MergeOptions) -> Whole:
    """W + sum of ratio x difference, layer by layer. Raises Refusal where a LoRA has layers that the model has not."""
    loras = enumerate((found for found, _ in shares), 1)
    refuse_if(chain.from_iterable(misfits(f"LoRA {number}", found, base.layers) for number, found in loras))
    parts = {part: dict(content) for part, content in base.parts.items()}
    touched = sorted({layer for found, _ in shares for layer in found})
    for part, layer in touched:
        name = f"{layer}.weight"
        mine = [
            (found[part, layer], strength(options, number, ratio, (part, layer)))
            for number, (found, ratio) in enumerate(shares)
            if (part, layer) in found
        ]
        before = parts[part][name]
        parts[part][name] = replace(before, read=partial(_added, before, mine))
    return replace(base, parts=parts)


def _added(before: Lazy, shares: Sequence[tuple[Addition, float]]) -> torch.Tensor:
    weight = before.read()
    total = weight.float()
    for each, ratio in shares:
        total = total + each.change(weight.float(), ratio)
    return total.to(weight.dtype)


def of_models(base: Whole, others: Sequence[Whole], ratios: Sequence[float], method: str) -> Whole:
    """Weighted sum or added difference. Raises Refusal where the models do not have the same tensors."""
    refuse_if(_strangers(base, others))
    shares = [1.0, ratios[0], -ratios[0]] if method == "difference" else [1 - sum(ratios), *ratios]
    parts = {
        part: {
            name: replace(lazy, read=partial(_mixed, [lazy, *(other.parts[part][name] for other in others)], shares))
            for name, lazy in content.items()
        }
        for part, content in base.parts.items()
    }
    return replace(base, parts=parts)


def _strangers(base: Whole, others: Sequence[Whole]) -> Iterator[Fault]:
    mine = base.shapes
    for other in others:
        theirs = other.shapes
        different = [name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)]
        if different:
            found = f"{len(different)} tensors are not the same as in {base.place}: {', '.join(sorted(different)[:3])}"
            yield Fault(str(other.place), found, f"another {base.family.title} of the same architecture")


def _mixed(each: Sequence[Lazy], shares: Sequence[float]) -> torch.Tensor:
    first = each[0].read()
    if not first.dtype.is_floating_point:
        return first
    total = torch.zeros(first.shape)
    for lazy, share in zip(each, shares, strict=True):
        total += share * lazy.read().float()
    return total.to(first.dtype)


def _loras(options: MergeOptions, ratios: Sequence[float]) -> dict[str, Any]:
    sources = [containers.opened(_file(path)) for path in options.models]
    found = [reading.low_rank(source) for source in sources]
    shares = list(zip(found, ratios, strict=True))
    merged = {layer: _together(layer, shares, options) for layer in dict.fromkeys(k for each in found for k in each)}
    error = 0.0
    if options.rank:
        exact = merged
        merged = {layer: factors.truncated(each, options.rank) for layer, each in exact.items()}
        error = factors.apart(exact, merged)
    written = kohya.write_found(merged, options.save_to, kohya.origin(options.config, merged))
    return {"merged": f"{len(found)} LoRA", "ratios": list(ratios), "relative error": error, **written}


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
