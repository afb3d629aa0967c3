"""Class pictures for prior preservation: drawn by the untuned model, and kept with their latents and digests."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

import torch

from tenshot import pipeline
from tenshot.core.device import seed_of
from tenshot.core.errors import Cancelled, Fault, Refusal
from tenshot.core.events import Events, Subtask
from tenshot.core.size import Size
from tenshot.diffusion import samplers
from tenshot.diffusion.process import Process
from tenshot.io import cache, destinations, hashes, tensors
from tenshot.io.image_folder import Example, read_folder
from tenshot.io.images import open_picture
from tenshot.io.png import write_picture
from tenshot.model.model import Model
from tenshot.pipeline import Request, SamplingSettings
from tenshot.train.data import image_latents
from tenshot.train.engine.denoising import Latents

SETTINGS = SamplingSettings(steps=20, guidance=7.5)
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


class Picture(TypedDict):
    """batch: the first picture of those it was drawn with. Digests of the file, what it shows, and its latents."""

    seed: int
    batch: str
    digest: str
    pixels: str | None
    latents: str


class Ledger(TypedDict):
    """recipe: `Recipe`, as JSON. pictures: by their names."""

    recipe: dict[str, object]
    pictures: dict[str, Picture]


def recipe(model_digest: str, prompt: str, side: int, process: type[Process]) -> Recipe:
    return Recipe(model_digest, prompt, samplers.names(process.name)[0], SETTINGS.steps, SETTINGS.guidance, side)


def cached(wanted: Recipe, seed: int) -> Path:
    """Where pictures drawn for `wanted` are kept when no folder is named: the same request finds them again."""
    return cache.root() / "class" / hashes.of_json([vars(wanted), seed])[:16]


def check_recipe(folder: Path, wanted: Recipe) -> None:
    """Refuse pictures that were drawn by another model, or for another prompt."""
    ledger = _ledger(folder)
    if ledger and ledger["recipe"] != vars(wanted):
        raise Refusal(_other_recipe(folder, ledger["recipe"], vars(wanted)))


def present(folder: Path, count: int) -> list[Example]:
    """The class pictures already in `folder`, without those of ours that have to be drawn again.

    Raises Refusal where they are damaged or all alike, or count is 0 too.
    """
    if hurdle := destinations.obstacle(folder):
        raise Refusal(Fault(f"{OPTION} {folder}", hurdle, "a folder", "name another folder"))
    lost = _lost(folder, _pictures(folder))
    if not folder.exists() or all(path.name.startswith(".") or path.name in lost for path in folder.iterdir()):
        if count or lost:
            return []
        fits, do = "pictures, or --num_class_images above 0", "leave --num_class_images out, and they are drawn"
        raise Refusal(Fault(f"{OPTION} {folder}", "no class pictures", fits, do))
    return read_folder(folder, option=OPTION, distinct=True, without=lost)


def brought(have: Sequence[Example]) -> dict[str, str]:
    """Names and digests of the pictures that were not drawn here, or changed since."""
    ours = _pictures(have[0].path.parent) if have else {}
    drawn = {name: entry["digest"] for name, entry in ours.items()}
    return {
        each.path.name: each.digest[:16]
        for each in have
        if not DRAWN.fullmatch(each.path.name) or drawn.get(each.path.name, each.digest) != each.digest
    }


def ensure(
    model: Model, folder: Path, wanted: Recipe, count: int, seed: int, batch: int, events: Events
) -> tuple[Latents, int]:
    """At least `count` class pictures in `folder`, as latents, and how many were drawn for it now.

    Those drawn before that are gone or damaged are drawn again, each together with those it was drawn with: the same
    seeds in the same batch are the same picture, to the bit.
    """
    check_recipe(folder, wanted)
    if os.path.lexists(folder / LEDGER) and not _ledger(folder):
        events.say(f"{folder / LEDGER} is damaged; the pictures that it told of are drawn again")
    if cache.holds(folder):
        _tidy(cache.folder(folder))
    pictures = _pictures(folder)
    lost = _lost(folder, pictures)
    if lost:
        events.say(f"{len(lost)} class pictures in {folder} were gone or damaged; they are drawn again")
    groups = [
        {name: entry["seed"] for name, entry in pictures.items() if entry["batch"] == each}
        for each in sorted({pictures[name]["batch"] for name in lost})
    ]
    first, unentered = len(pictures), _names(len(pictures), count, seed)
    missing = max(0, count - len(lost) - sum(each.path.name not in unentered for each in present(folder, count)))
    starts = range(first, first + missing, batch)
    groups += [_names(start, min(batch, first + missing - start), seed) for start in starts]
    if groups:
        _draw(model, folder, wanted, groups, pictures.keys() - lost, events)
    pictures, kept, have = _pictures(folder), _latents(folder), present(folder, count)
    ours = [e for e in have if e.path.name in pictures and pictures[e.path.name]["digest"] == e.digest]
    theirs = [e for e in have if e not in ours]
    sets = [image_latents.exact(torch.stack([kept[e.path.name] for e in ours]), model.vae_scale_factor)] if ours else []
    if theirs:
        sets.append(image_latents.encode(model, theirs, image_latents.squares(wanted.side), events)[0])
    return image_latents.together(*sets), missing + len(lost)


def _draw(
    model: Model, folder: Path, wanted: Recipe, groups: list[dict[str, int]], whole: Container[str], events: Events
) -> None:
    """Draw groups of pictures, from name to seed, but for those that are `whole`. A stop loses one group at most."""
    folder.mkdir(parents=True, exist_ok=True)
    ledger: Ledger = _ledger(folder) or {"recipe": vars(wanted), "pictures": {}}
    kept = _latents(folder)
    events.begin("drawing class pictures", len(groups) * wanted.steps)
    for number, names in enumerate(groups):
        size = Size.square(wanted.side)
        settings = SamplingSettings(wanted.sampler, wanted.steps, wanted.guidance, size, len(names))
        requests = [Request(wanted.prompt, each) for each in names.values()]
        try:
            latents = pipeline.latents(model, requests, settings, Subtask(events, number * wanted.steps))
        except Cancelled:
            events.end()
            raise Cancelled("stopped; the class pictures drawn so far are kept") from None
        images = pipeline.decode(model, latents, len(names))
        for latent, image, (name, each) in zip(latents, images, names.items(), strict=True):
            if name in whole:
                continue
            write_picture(folder / name, image, f"{wanted.prompt}\nSteps: {wanted.steps}, Seed: {each}")
            kept[name] = latent
            ledger["pictures"][name] = {
                "seed": each,
                "batch": next(iter(names)),
                "digest": hashes.of_file(folder / name),
                "pixels": _pixels(folder / name),
                "latents": hashes.of_tensors({"": latent}),
            }
        tensors.write(folder / LATENTS, kept)
        cache.write_json(folder / LEDGER, ledger)
    events.end()


def _lost(folder: Path, pictures: Mapping[str, Picture]) -> set[str]:
    """Those of our pictures that are gone or damaged, they or their latents.

    One that was painted over is lost in the cache only: elsewhere it is the user's own by now.
    """
    kept = _latents(folder) if pictures else {}
    lost = set()
    for name, entry in pictures.items():
        same = (folder / name).is_file() and hashes.of_file(folder / name) == entry["digest"]
        if not same and not cache.holds(folder) and _pixels(folder / name) not in (None, entry["pixels"]):
            continue
        if not same or name not in kept or hashes.of_tensors({"": kept[name]}) != entry["latents"]:
            lost.add(name)
    return lost


def _pixels(path: Path) -> str | None:
    """A digest of what a picture shows; None where it is none."""
    with suppress(Refusal):
        return hashes.of_bytes(open_picture(path).tobytes())
    return None


def _tidy(folder: Path) -> None:
    """Let all go that is not an entered picture, in a folder that is ours alone."""
    ours = {LEDGER, LATENTS, *_pictures(folder)}
    for path in folder.iterdir():
        if path.name not in ours or path.is_symlink() or not path.is_file():
            cache.clear(path)


def _names(first: int, count: int, seed: int) -> dict[str, int]:
    """The file names of drawn pictures number `first` and on, and the seed of each.

    A killed process may leave files of these names that no ledger knows; they are drawn again.
    """
    seeds = {number: seed_of(seed, "class", number) % 2**32 for number in range(first, first + count)}
    return {f"class-{number:04d}-{each}.png": each for number, each in seeds.items()}


def _ledger(folder: Path) -> Ledger | None:
    """What is known of the pictures drawn into a folder; None where that is damaged."""
    return cast(Ledger | None, cache.read_json(folder / LEDGER) or None)


def _pictures(folder: Path) -> dict[str, Picture]:
    """Those that the ledger knows, by name."""
    return dict(ledger["pictures"]) if (ledger := _ledger(folder)) else {}


def _latents(folder: Path) -> dict[str, torch.Tensor]:
    with suppress(Refusal):
        return tensors.read(folder / LATENTS) if (folder / LATENTS).is_file() else {}
    return {}


def _other_recipe(folder: Path, found: Mapping[str, object], wanted: Mapping[str, object]) -> Fault:
    differs = [name for name in wanted if found.get(name) != wanted[name]]
    other = [f"{name} {found.get(name)!r} instead of {wanted[name]!r}" for name in differs]
    return Fault(
        f"{OPTION} {folder}",
        "its pictures were drawn with " + ", ".join(other),
        "pictures drawn by the untuned model for this class prompt",
        "name another folder, or leave the option out and they are drawn and kept for you",
    )
