"""How a model is best drawn, as `tenshot tune` found it: preset.json in its folder.

A model whose folder is not the user's (pocket, one of the hub, one made of a single file) has it in the cache.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from tenshot.core import hub_names
from tenshot.core.errors import Fault, Refusal
from tenshot.core.json_types import Config
from tenshot.core.shipped import ASSETS
from tenshot.core.size import Size
from tenshot.diffusion.samplers import AUTOMATIC, SAMPLERS, TITLES, Schedule
from tenshot.families import validate
from tenshot.io import cache, hashes, tensors, text_files
from tenshot.io.cache import Seen
from tenshot.option_types import PresetKind
from tenshot.pipeline import SamplingSettings
from tenshot.runtime import artifact

FILE = "preset.json"
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
DO = "tenshot tune MODEL finds it anew; --preset none draws without"


@dataclass(frozen=True)
class Preset:
    """A way to draw, by the names of generate's options. guidance_start, guidance_end: shares of the steps."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    sampler: str
    schedule: Schedule = AUTOMATIC
    steps: int = 20
    guidance_scale: float = 7.5
    guidance_start: float = 0.0
    guidance_end: float = 1.0

    def __str__(self) -> str:
        plan = "" if self.schedule == AUTOMATIC else f" {TITLES[self.schedule]}"
        part = (self.guidance_start, self.guidance_end)
        within = "" if part == (0, 1) else f" from {part[0]:.0%} to {part[1]:.0%}"
        guided = "no guidance" if self.guidance_scale == 1 else f"guidance {self.guidance_scale:g}{within}"
        return f"{self.sampler}{plan}, {self.steps} steps, {guided}"

    def settings(self, size: Size, batch: int) -> SamplingSettings:
        part = (self.guidance_start, self.guidance_end)
        return SamplingSettings(
            self.sampler, self.steps, self.guidance_scale, size, batch, self.schedule, interval=part
        )


@dataclass(frozen=True)
class Certified:
    """size: of the pictures, height and width. proof: what its certificate says. again: the command that finds it."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    preset: Preset
    size: tuple[int, int]
    proof: str
    again: str


@dataclass(frozen=True)
class Presets:
    """All of a model's. weights: the files that they hold for, each with its digest."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    weights: Config
    presets: Mapping[PresetKind, Certified]
    format: Literal[1] = 1


def file_of(place: Path) -> Path:
    """Where the presets of the model at `place` are. place: what compiled_model.find finds."""
    real = place.resolve()
    if real.is_relative_to(ASSETS.resolve()) or cache.holds(place) or hub_names.of_path(place):
        return cache.root() / "presets" / f"{hashes.of_values(real)[:24]}.json"
    return place / FILE


def weights(place: Path, before: Config | None = None) -> dict[str, Seen]:
    """What decides what is drawn, with digests. before: as it was; files are read again where they may have changed."""
    if artifact.is_one(place):
        names = [artifact.MANIFEST]  # which has the digests of all others
    else:
        parts = validate.family_of(place).parts
        files = (path for part in parts for path in sorted((place / part).glob("*")))
        names = [path.relative_to(place).as_posix() for path in files if path.suffix in hashes.MODEL_FILES]
    return {name: cache.seen(place / name, (before or {}).get(name)) for name in names}


def read(place: Path) -> Presets | None:
    """Those of the model at `place`; None where there are none, or they are of other weights.

    Raises Refusal where the file is not as it was written.
    """
    file = file_of(place)
    if not file.is_file():
        return None
    try:
        found = TypeAdapter(Presets).validate_json(json.dumps(text_files.read_json(file)))
    except (Refusal, ValidationError):
        raise Refusal(Fault(str(file), "cannot be understood", "as tenshot tune wrote it", DO)) from None
    strange = [each.preset.sampler for each in found.presets.values() if each.preset.sampler not in SAMPLERS]
    if strange:
        raise Refusal(Fault(str(file), f"the sampler {strange[0]!r} is not known", ", ".join(SAMPLERS), DO))
    return found if cache.same(weights(place, found.weights), found.weights) else None


def write(place: Path, kind: PresetKind, certified: Certified) -> Path:
    """Keep it beside those of other kinds that hold for the same weights; returns the file."""
    file = file_of(place)
    now = weights(place)
    try:
        before = read(place)
    except Refusal:
        before = None
    presets = {**(before.presets if before else {}), kind: certified}
    tensors.write_json(file, asdict(Presets(now, presets)))
    return file
