"""A model folder in the diffusers layout: what should be in it, and everything that is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from tenshot.errors import Fault, Refusal, refuse_if
from tenshot.families import table
from tenshot.families.family import Family
from tenshot.files import tensors

STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
AGAIN = "copy or download the model folder again"


def examine(place: Path) -> tuple[Family, Mapping[str, str]]:
    """The family of a model folder and its parts' classes. Raises Refusal with every fault; reads no weights."""
    faults: list[Fault] = []
    index = _json(place / "model_index.json", faults)
    _json(place / "scheduler" / "scheduler_config.json", faults)
    unet = _json(place / "unet" / "config.json", faults)
    family = table.of(unet) if unet is not None else None
    if family is None:
        if unet is not None:
            known = ", ".join(each.title for each in table.FAMILIES)
            faults.append(Fault(str(place / "unet" / "config.json"), "a UNet of no known family", known))
        raise Refusal(*faults)
    for part, kind in family.parts.items():
        if "Tokenizer" in kind:
            faults += _tokenizer_faults(place / part)
        elif part == "unet" or _json(place / part / "config.json", faults) is not None:
            faults += _weights_faults(place / part, kind)
    refuse_if(faults)
    refuse_if(_width_faults(place, family, unet or {}))
    return family, _kinds(family, index or {})


def variant(part: Path) -> str | None:
    """The variant (such as fp16) that a part's weights come in, where there are no plain ones."""
    names = [path.name for path in _weight_files(part)]
    if any(name.startswith(f"{stem}.") for name in names for stem in STEMS.values()):
        return None
    return next((name.split(".")[1].split("-")[0] for name in names if name.count(".") >= 2), None)


def _kinds(family: Family, index: Mapping[str, Any]) -> dict[str, str]:
    """The classes to open the parts with: the index may name a relative, such as a fast tokenizer."""
    named = {part: index[part][1] for part in family.parts if isinstance(index.get(part), list) and index[part][1]}
    return {**family.parts, **{part: kind for part, kind in named.items() if _class(kind) is not None}}


def _class(kind: str) -> Any:
    return getattr(diffusers, kind, None) or getattr(transformers, kind, None)


def _json(path: Path, faults: list[Fault]) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        faults.append(Fault(str(path), "missing", "a model folder in the diffusers layout", AGAIN))
    except (OSError, ValueError) as error:
        faults.append(Fault(str(path), f"cannot be read: {error}", "JSON", AGAIN))
    return None


def _tokenizer_faults(part: Path) -> Iterator[Fault]:
    pair = (part / "vocab.json").is_file() and (part / "merges.txt").is_file()
    if not pair and not (part / "tokenizer.json").is_file():
        yield Fault(str(part), "no tokenizer", "vocab.json and merges.txt, or tokenizer.json", AGAIN)


def _weight_files(part: Path) -> list[Path]:
    return [path for stem in STEMS.values() for path in sorted(part.glob(f"{stem}*.safetensors"))]


def _weights_faults(part: Path, kind: str) -> Iterator[Fault]:
    files = _weight_files(part)
    if not files:
        found = ", ".join(sorted(path.name for path in part.glob("*"))) or "nothing"
        yield Fault(str(part), f"no weights (found: {found})", "*.safetensors", AGAIN)
        return
    chosen = variant(part)
    files = [path for path in files if (f".{chosen}" in path.name) == (chosen is not None)]
    have: dict[str, tuple[int, ...]] = {}
    for path in files:
        try:
            have |= tensors.shapes(path)
        except Refusal as refusal:
            yield from refusal.faults
            return
    yield from _shape_faults(part, _expected(part, kind), {_bare(name): shape for name, shape in have.items()})


def _expected(part: Path, kind: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes that the part's configuration asks for; no memory is spent on them."""
    cls = _class(kind)
    with torch.device("meta"):
        if issubclass(cls, diffusers.ModelMixin):
            net = cls.from_config(cls.load_config(part))
        else:
            net = cls(cls.config_class.from_pretrained(part))
    return {_bare(name): tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def _bare(name: str) -> str:
    """A tensor's name as every version of transformers and diffusers would shorten it."""
    name = name.removeprefix("text_model.")
    for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
        name = name.replace(f"attentions.0.{old}.", f"attentions.0.{new}.")
    return name


def _shape_faults(part: Path, want: dict[str, tuple[int, ...]], have: dict[str, tuple[int, ...]]) -> Iterator[Fault]:
    missing = [name for name in want if name not in have]
    if missing:
        some = ", ".join(missing[:3])
        yield Fault(str(part), f"{len(missing)} of {len(want)} tensors are missing: {some} ...", "all of them", AGAIN)
    for name, shape in want.items():
        if name in have and have[name] != shape and have[name] != (*shape, 1, 1):
            yield Fault(str(part), f"{name} has shape {list(have[name])}", str(list(shape)), "use the matching config")


def _width_faults(place: Path, family: Family, unet: Mapping[str, Any]) -> Iterator[Fault]:
    configs = {part: json.loads((place / part / "config.json").read_text()) for part in family.encoders}
    width, wanted = family.width(configs), unet.get("cross_attention_dim")
    if width != wanted:
        found = f"text encoders give states of width {width}, the UNet wants {wanted}"
        yield Fault(str(place), found, f"{family.title} parts that belong together", "do not mix models")
