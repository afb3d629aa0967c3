"""A model that runs compiled programs; its weights can be exchanged while it is in memory."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from tenshot import device as devices
from tenshot import model
from tenshot.adapters import embedding, lora, reading
from tenshot.adapters.addition import Addition, Layer, misfits
from tenshot.checkpoints import opening, whole
from tenshot.errors import Fault, Refusal, Slow, all_or_refuse, refuse_if
from tenshot.events import Events
from tenshot.families import layout
from tenshot.families.family import Family
from tenshot.fast import artifact, dropin, fingerprint, gains, weights
from tenshot.fast.artifact import Manifest, Section
from tenshot.fast.backend import backend
from tenshot.fast.compiled import Bucket, Compiled
from tenshot.fast.parts import SECTIONS, flat
from tenshot.fast.weights import Stack
from tenshot.files import containers
from tenshot.model import Model

LoraFile = str | Path


@dataclass(frozen=True)
class FastModel(Model):
    """A model of which some parts are compiled. `unet`, `vae` and the others are drop-ins for diffusers' pipelines.

    programs: section -> its programs. now: under "stack", the weights it has at the moment.
    """

    programs: Mapping[str, Compiled] = field(default_factory=dict)
    now: dict[str, Stack] = field(default_factory=dict)

    @property
    def unet(self) -> Any:
        return self["unet"]

    @property
    def vae(self) -> Any:
        return self["vae"]

    @property
    def controlnet(self) -> Any:
        """Raises KeyError where it was compiled without one."""
        return self["controlnet"]

    def load_weights(self, place: str | Path) -> None:
        """Run another fine-tune of the same architecture, a folder or a file, with no LoRA.

        Raises Refusal, with nothing changed, where a name, a shape or a kind of numbers is another.
        """
        base = whole.read(Path(place))
        refuse_if(weights.strangers(self.parts, base))
        self._change(Stack(base))

    def set_loras(self, loras: Mapping[LoraFile, float]) -> None:
        """These LoRAs, each as strong as it says, and no others. Raises Refusal, with nothing changed."""
        found = all_or_refuse(*(partial(self._lora, Path(path)) for path in loras))
        shares = zip(found, loras.values(), strict=True)
        self._change(Stack(self.now["stack"].base, tuple(shares)))

    def clear_loras(self) -> None:
        """The base alone, bit for bit as it was."""
        self._change(Stack(self.now["stack"].base))

    def with_word(self, word: str, rows: embedding.Rows) -> FastModel:
        """A model that knows one more word. torch runs its text encoders: no program has room for the word."""
        plain = {name: getattr(self[name], "eager", self[name]) for name in self.family.encoders}
        return cast(FastModel, embedding.add(replace(self, parts={**self.parts, **plain}), word, rows))

    def _lora(self, place: Path) -> Mapping[Layer, Addition]:
        file = place / lora.FILE if place.is_dir() else place
        found = reading.read(containers.opened(file), self["unet"].config)
        refuse_if(misfits(str(place), found, self.now["stack"].base.layers))
        return found

    def _change(self, stack: Stack) -> None:
        changed = weights.settle(self.parts, stack, self.now.get("stack"))
        self.now["stack"] = stack
        for section, program in self.programs.items():
            if SECTIONS[section] in changed:
                program.load(program.plain.weights())


def find(name: str, events: Events | None = None) -> Path:
    """The folder of the model called `name`: a compiled one, or what `checkpoints.opening.find` finds."""
    return Path(name) if artifact.is_one(Path(name)) else opening.find(name, events)


def examine(place: Path) -> Family:
    """What family a model is of, compiled or not. Raises Refusal with every fault of its folder."""
    return layout.examine(folder(place))


def folder(place: Path) -> Path:
    """The model folder of what `find` found, which a compiled model has within."""
    return place / artifact.MODEL if artifact.is_one(place) else place


def load(
    name: str | Path, *, device: torch.device | str = "cpu", precision: str = "fp32", fallback: bool = False
) -> Model:
    """Open a model: "pocket", a model folder, a checkpoint file, or what `tenshot compile` made.

    precision: of what is not compiled. fallback: where an artifact is not for this machine, let torch run it and say
    so. Raises Refusal: the folder's faults; or, without fallback, what differs here and the command that rebuilds.
    """
    place = find(str(name))
    if not artifact.is_one(place):
        return model.load(str(place), device=device, precision=precision)
    where = devices.pick(str(device))
    manifest = artifact.read(place)
    plain = model.load(str(place / artifact.MODEL), device=where)
    if (place / artifact.CONTROLNET).is_dir():
        plain = plain.with_parts(controlnet=model.controlnet(place / artifact.CONTROLNET, where))
    try:
        _refuse_strange_machine(manifest, where)
    except Refusal as refusal:
        if not fallback:
            raise
        reasons = "; ".join(f"{fault.where} {fault.found}" for fault in refusal.faults)
        warnings.warn(f"{place} is not for this machine, torch runs it: {reasons}", Slow, stacklevel=2)
        return _assembled(plain, {})
    return _assembled(plain, {name: _opened(place, manifest, name, plain, where) for name in manifest.sections})


def _refuse_strange_machine(manifest: Manifest, where: torch.device) -> None:
    faults = list(
        fingerprint.differences(manifest.fingerprint, fingerprint.here(manifest.backends, where), manifest.again)
    )
    for name in sorted(manifest.backends):
        if reason := backend(name).missing(where):
            faults.append(Fault(name, reason, "what it was compiled with", manifest.again))
    refuse_if(faults)


def _opened(place: Path, manifest: Manifest, name: str, plain: Model, where: torch.device) -> Compiled:
    section: Section = manifest.sections[name]
    net = flat(name, plain[SECTIONS[name]])
    buckets = [
        Bucket(program.shapes, gains.open(place / program.folder, program.choice, net, where))
        for program in section.programs
    ]
    compiled = Compiled(name, buckets, net)
    compiled.load(net.weights())
    return compiled


def _assembled(plain: Model, programs: Mapping[str, Compiled]) -> FastModel:
    base = whole.of_folder(plain.place)
    parts = dict(plain.parts)
    for name in {*SECTIONS.values()} & parts.keys():
        mine = {section: program for section, program in programs.items() if SECTIONS[section] == name}
        parts[name] = dropin.standing_in(parts[name], mine)
    known = {each: getattr(plain, each) for each in Model.__dataclass_fields__}
    return FastModel(**(known | {"parts": parts}), programs=programs, now={"stack": Stack(base)})
