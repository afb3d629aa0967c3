"""Which files of a repository are needed: of a model its parts, of a LoRA its file, and of each weight one copy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath

from tenshot.adapters import adapter_files
from tenshot.core.hub_names import WEIGHTS, Kind
from tenshot.families import registry, validate

Has = Callable[[str], bool]  #: is a file in the cache already?

#: Parts that a family knows; the others (safety_checker, feature_extractor, ...) are read by nobody here.
PARTS = ("scheduler", *dict.fromkeys(part for family in registry.FAMILIES for part in family.parts))
NETS = {part for family in registry.FAMILIES for part in family.nets}
TEXTS = (".json", ".txt", ".model")  # configurations and vocabularies
BESIDE = ("config.json", adapter_files.CONFIG)  # what says more of a file
SHOWN = 12


@dataclass(frozen=True)
class Needed:
    """files: of the repository. place: the one, or the folder, that the reader is given; empty: the whole."""

    files: Sequence[str]
    place: str = ""


@dataclass(frozen=True)
class Unclear:
    """Why it cannot be told what is meant. found, fits, do: as a Fault has them; NAME stands for the repository."""

    found: str
    fits: str
    do: str


def needed(files: Collection[str], inner: str, kind: Kind, half: bool, has: Has) -> Needed | Unclear:
    """What of a repository's `files` an option of `kind` needs, where it names `inner`.

    half: do weights in float16 serve? They are taken where they are there, unless the full ones are fetched already.
    """
    if inner in files:
        return _file(files, inner)
    root = f"{inner}/" if inner else ""
    within = {file.removeprefix(root) for file in files if file.startswith(root)}
    if not within:
        return _nothing(files, inner)
    found = _folder(within, kind, half, lambda file: has(root + file))
    if isinstance(found, Unclear):
        return replace(found, do=found.do.replace("NAME:", f"NAME:{root}"))
    return Needed([root + file for file in found.files], f"{root}{found.place}".rstrip("/"))


def _file(files: Collection[str], inner: str) -> Needed | Unclear:
    path = PurePosixPath(inner)
    if path.suffix not in WEIGHTS:
        return Unclear(f"{inner} is no file of weights", ", ".join(WEIGHTS), _listing(files))
    beside = [name for each in BESIDE if (name := str(path.with_name(each))) in files]
    return Needed([inner, *beside], inner)


def _nothing(files: Collection[str], inner: str) -> Unclear:
    found = f"nothing in it is called {inner}" if inner else "it is empty"
    return Unclear(found, "a file or a folder of it", _listing(files))


def _folder(files: Collection[str], kind: Kind, half: bool, has: Has) -> Needed | Unclear:
    if "model_index.json" in files:
        if kind in ("model", "any"):
            return _model(files, half, has)
        if kind == "net":
            return Unclear("holds a whole model", "one net", "name the part: NAME:vae")
    if kind in ("lora", "any") and (found := _lora(files)):
        return Needed(found)
    if kind in ("word", "any") and (found := _word(files)):
        return Needed(found)
    if kind in ("net", "any") and (found := _net(files, half, has)):
        return Needed(found)
    return _transformers(files, half, has) if kind == "transformers" else _only(files, kind)


def _model(files: Collection[str], half: bool, has: Has) -> Needed | Unclear:
    wanted, bare = ["model_index.json"], []
    for part in PARTS:
        inside = [file.removeprefix(f"{part}/") for file in files if file.startswith(f"{part}/")]
        weights = _weights(inside, half, partial(_has_within, part, has)) if part in NETS else []
        if inside and part in NETS and not weights:
            bare.append(f"{part} ({', '.join(sorted(inside)[:3])})")
        wanted += [f"{part}/{name}" for name in (*_texts(inside, weights), *weights)]
    if bare:
        found = f"no .safetensors in {', '.join(bare)}"
        return Unclear(found, "weights in .safetensors", "name a revision that has them: NAME@REVISION")
    return Needed(wanted)


def _has_within(part: str, has: Has, name: str) -> bool:
    return has(f"{part}/{name}")


def _net(files: Collection[str], half: bool, has: Has) -> list[str]:
    """A ControlNet's or a VAE's folder."""
    weights = [name for name in _weights(files, half, has) if name.startswith("diffusion_pytorch_model")]
    weights = weights or [name for name in files if name == "diffusion_pytorch_model.bin"]
    return [*_texts(files, weights), *weights] if weights and "config.json" in files else []


def _transformers(files: Collection[str], half: bool, has: Has) -> Needed | Unclear:
    weights = [name for name in _weights(files, half, has) if name.startswith("model")]
    if weights and "config.json" in files:
        return Needed([*_texts(files, weights), *weights])
    found = f"no model.safetensors beside a config.json, but {', '.join(sorted(files)[:SHOWN]) or 'nothing'}"
    return Unclear(found, "a net of transformers in .safetensors", "name a revision that has them: NAME@REVISION")


def _weights(names: Collection[str], half: bool, has: Has) -> list[str]:
    """One copy of a folder's weights."""
    found = validate.variants(names)
    if None in found and all(map(has, found[None])):
        return found[None]
    order = ("fp16", None) if half else (None, "fp16")
    return next((found[each] for each in (*order, *found) if each in found), [])


def _texts(names: Collection[str], weights: Sequence[str]) -> Iterator[str]:
    """The small files of a folder; of the indices of shards those that speak of `weights`."""
    sharded = len(weights) > 1
    for name in sorted(names):
        if "/" not in name and name.endswith(TEXTS) and (sharded or ".index." not in name):
            yield name


def _lora(files: Collection[str]) -> list[str]:
    places = (f"{part}/{name}" for part in adapter_files.PARTS for name in adapter_files.FILES[2:])
    own = [name for name in adapter_files.FILES if name in files][:1]
    found = own or [name for name in places if name in files]
    about = {str(PurePosixPath(name).with_name(adapter_files.CONFIG)) for name in found}
    return [*found, *sorted(about & {*files})]


def _word(files: Collection[str]) -> list[str]:
    for suffix in (".safetensors", ".bin"):
        if found := [f"{stem}{suffix}" for stem in adapter_files.WORDS.values() if f"{stem}{suffix}" in files]:
            return found
    return []


def _only(files: Collection[str], kind: Kind) -> Needed | Unclear:
    """The one file with weights, where there is but one."""
    named = [file for file in files if file.endswith(WEIGHTS)]
    safe = {file.rpartition(".")[0] for file in named if file.endswith(".safetensors")}
    single = [file for file in named if file.endswith(".safetensors") or file.rpartition(".")[0] not in safe]
    if len(single) == 1:
        return _file(files, single[0])
    what = {"model": "model_index.json", "net": "config.json", "any": "model_index.json"}.get(kind, "file of its own")
    found = f"has no {what}, but {len(single)} files with weights" if single else f"has no {what}, and no weights"
    return Unclear(found, "one of them", _listing(single or files))


def _listing(files: Collection[str]) -> str:
    """What to type, for the first of the files."""
    weights = sorted(file for file in files if file.endswith(WEIGHTS))
    more = f" (and {len(weights) - SHOWN} more)" if len(weights) > SHOWN else ""
    return f"name one: {', '.join(f'NAME:{file}' for file in weights[:SHOWN])}{more}" if weights else "name another"
