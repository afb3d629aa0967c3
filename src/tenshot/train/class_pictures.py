"""Class pictures for prior preservation: drawn by the untuned model, kept with their latents, never drawn twice."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tenshot import sampling
from tenshot.device import seed_of
from tenshot.errors import Cancelled, Fault, Refusal
from tenshot.events import Events
from tenshot.files import targets, tensors
from tenshot.files.folder import Example, read_folder
from tenshot.files.images import write_png
from tenshot.model import Model
from tenshot.sampling import Request, Settings
from tenshot.train import cache, data
from tenshot.train.denoise import Latents

SETTINGS = Settings(sampler="Euler a", steps=20, guidance=7.5, batch=8)
LEDGER, LATENTS = ".tenshot-class.json", ".tenshot-class.safetensors"
OPTION = "--class_data_dir"
DRAWN = re.compile(r"class-\d{4,}-\d+\.png")  # the names of pictures drawn here


@dataclass(frozen=True)
class Recipe:
    """What a drawn class picture follows from, besides its seed."""

    model: str
    prompt: str
    sampler: str
    steps: int
    guidance: float
    side: int


def recipe(model_digest: str, prompt: str, side: int) -> Recipe:
    return Recipe(model_digest, prompt, SETTINGS.sampler, SETTINGS.steps, SETTINGS.guidance, side)


def cached(wanted: Recipe, seed: int) -> Path:
    """Where pictures drawn for `wanted` are kept when no folder is named: the same request finds them again."""
    return cache.root() / "class" / cache.key(json.dumps([vars(wanted), seed]))[:16]


def check_recipe(folder: Path, wanted: Recipe) -> None:
    """Refuse pictures that were drawn by another model, or for another prompt."""
    ledger = _ledger(folder)
    if ledger and ledger["recipe"] != vars(wanted):
        raise Refusal(_other_recipe(folder, ledger["recipe"], vars(wanted)))


def present(folder: Path, count: int) -> list[Example]:
    """The class pictures already in `folder`. Raises Refusal where they are damaged or all alike, or count is 0 too."""
    if hurdle := targets.obstacle(folder):
        raise Refusal(Fault(f"{OPTION} {folder}", hurdle, "a folder", "name another folder"))
    if not folder.exists() or not any(path for path in folder.iterdir() if not path.name.startswith(".")):
        if count:
            return []
        fits, do = "pictures, or --num_class_images above 0", "leave --num_class_images out, and they are drawn"
        raise Refusal(Fault(f"{OPTION} {folder}", "no class pictures", fits, do))
    return read_folder(folder, option=OPTION, distinct=True)


def brought(have: Sequence[Example]) -> dict[str, str]:
    """Names and digests of the pictures that were not drawn here."""
    return {each.path.name: each.digest[:16] for each in have if not DRAWN.fullmatch(each.path.name)}


def ensure(
    model: Model, folder: Path, wanted: Recipe, count: int, seed: int, batch: int, events: Events
) -> tuple[Latents, int]:
    """At least `count` class pictures in `folder`, as latents, and how many were drawn for it now."""
    check_recipe(folder, wanted)
    unentered = _names(len(_ledger(folder).get("pictures", {})), count, seed)
    missing = max(0, count - sum(each.path.name not in unentered for each in present(folder, count)))
    if missing:
        _draw(model, folder, wanted, missing, seed, batch, events)
    have = present(folder, count)
    ledger = _ledger(folder)
    kept = tensors.read(folder / LATENTS) if ledger else {}
    drawn = {name for name, entry in ledger.get("pictures", {}).items() if name in kept}
    ours = [e for e in have if e.path.name in drawn and ledger["pictures"][e.path.name]["digest"] == e.digest]
    theirs = [e for e in have if e not in ours]
    sets = [data.exact(torch.stack([kept[e.path.name] for e in ours]), model.factor)] if ours else []
    if theirs:
        sets.append(data.encoded(model, theirs, data.squares(wanted.side), events)[0])
    return data.together(*sets), missing


def _draw(model: Model, folder: Path, wanted: Recipe, count: int, seed: int, batch: int, events: Events) -> None:
    """Draw `count` more pictures, batch by batch, so that a stop loses one batch at most."""
    settings = Settings(wanted.sampler, wanted.steps, wanted.guidance, (wanted.side, wanted.side), batch)
    folder.mkdir(parents=True, exist_ok=True)
    ledger = _ledger(folder) or {"recipe": vars(wanted), "pictures": {}}
    kept = tensors.read(folder / LATENTS) if (folder / LATENTS).is_file() else {}
    first = len(ledger["pictures"])
    events.begin("drawing class pictures", count)
    for start in range(first, first + count, batch):
        if events.cancelled():
            events.end()
            raise Cancelled("stopped; the class pictures drawn so far are kept")
        names = _names(start, min(batch, first + count - start), seed)
        latents = sampling.latents(model, [Request(wanted.prompt, each) for each in names.values()], settings)
        images = sampling.decode(model, latents, batch)
        for latent, image, (name, each) in zip(latents, images, names.items(), strict=True):
            write_png(folder / name, image, f"{wanted.prompt}\nSteps: {wanted.steps}, Seed: {each}")
            kept[name] = latent
            ledger["pictures"][name] = {"seed": each, "digest": file_digest(folder / name)}
        tensors.write(folder / LATENTS, kept)
        tensors.write_json(folder / LEDGER, ledger)
        events.advance(min(start + batch, first + count) - first)
    events.end()


def _names(first: int, count: int, seed: int) -> dict[str, int]:
    """The file names of drawn pictures number `first` and on, and the seed of each.

    A killed process may leave files of these names that no ledger knows; they are drawn again.
    """
    seeds = {number: seed_of(seed, "class", number) % 2**32 for number in range(first, first + count)}
    return {f"class-{number:04d}-{each}.png": each for number, each in seeds.items()}


def _ledger(folder: Path) -> dict[str, Any]:
    path = folder / LEDGER
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _other_recipe(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Fault:
    differs = [name for name in wanted if found.get(name) != wanted[name]]
    other = [f"{name} {found.get(name)!r} instead of {wanted[name]!r}" for name in differs]
    return Fault(
        f"{OPTION} {folder}",
        "its pictures were drawn with " + ", ".join(other),
        "pictures drawn by the untuned model for this class prompt",
        "name another folder, or leave the option out and they are drawn and kept for you",
    )
