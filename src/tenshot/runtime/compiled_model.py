"""A model in memory, compiled or not, whose weights can be exchanged while it runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from sys import float_info
from threading import RLock
from typing import TypeGuard, cast

import torch

from tenshot.adapters import adapter_files as adapters
from tenshot.adapters import bundled_embeddings, embedding, parsing
from tenshot.adapters.weight_delta import misfits
from tenshot.core import device as devices
from tenshot.core.errors import Fault, Noted, Refusal, Slow, all_or_refuse, refuse_if
from tenshot.core.events import Events, track
from tenshot.families import validate
from tenshot.families.base import Family
from tenshot.families.components import Component, Parts
from tenshot.model import hub, model, resolve
from tenshot.model.model import Model
from tenshot.runtime import artifact, fingerprint, rewrites, weights, wrappers
from tenshot.runtime.artifact import Manifest
from tenshot.runtime.backend import backend
from tenshot.runtime.flat_modules import SECTIONS, Flat, flat
from tenshot.runtime.sections import CompiledSection, ShapeBucket
from tenshot.runtime.weights import Share, Stack

LoraFile = str | Path
Strength = float | tuple[float, float]  #: of a LoRA; two: in the text encoders, and in the denoiser
Opener = Callable[[Flat], CompiledSection]  #: gives a section's programs the weights of a net


@dataclass(frozen=True)
class Swap:
    """What a model's parts will consist of, and the weights that they have then."""

    contents: Mapping[str, dict[str, object]]
    stack: Stack


@dataclass
class State:
    """The weights of a model that is in memory. parts: the stand-ins, which stay the same while weights come and go.

    A swap is decided by being `pending`, one assignment before which nothing has changed. Whatever stops what is left
    to do, `settle` does it again to the end. turn: one swap at a time. moment: when parts must not change.
    """

    parts: Parts
    stack: Stack
    pending: Swap | None = None
    turn: RLock = field(default_factory=RLock)
    moment: RLock = field(default_factory=RLock)

    def decide(self, swap: Swap) -> None:
        with self.moment:
            self.pending = swap
            try:
                self.settle()
            except BaseException:
                self.settle()
                raise

    def settle(self) -> None:
        if (swap := self.pending) is not None:
            for part, content in swap.contents.items():
                wrappers.become(self.parts[part], content)
            self.stack, self.pending = swap.stack, None


@dataclass(frozen=True)
class CompiledModel(Model):
    """A model in memory whose weights can be exchanged; some of its parts may be compiled.

    `unet`, `vae` and the others are drop-ins for diffusers' pipelines. openers: section -> how its programs are opened.
    A swap happens whole or not at all, whatever stops it; other threads may draw meanwhile.
    """

    state: State = field(kw_only=True)
    openers: Mapping[str, Opener] = field(default_factory=dict)

    def __getitem__(self, part: str) -> Component:
        if self.state.pending:
            with self.state.moment:
                self.state.settle()
        return self.parts[part]

    def __getattr__(self, part: str) -> Component:
        """Parts by their names, as diffusers' pipelines have them: `model.unet`."""
        if part not in self.__dict__.get("parts", ()):
            raise AttributeError(f"no part {part!r} in this model")
        return self[part]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.parts]

    @property
    def programs(self) -> dict[str, CompiledSection]:
        """Section -> its programs, as they are now."""
        with self.state.moment:
            self.state.settle()
            return {name: each for part in self.state.parts.values() for name, each in part.programs.items()}

    def snapshot(self) -> Model:
        """The model as it is now, whatever weights it gets later."""
        with self.state.moment:
            self.state.settle()
            parts = {name: wrappers.still(part) for name, part in self.parts.items()}
        return Model(**{each: getattr(self, each) for each in Model.__dataclass_fields__} | {"parts": parts})

    def plain(self) -> Model:
        """The same weights as `snapshot`, with torch to run all of them."""
        found = self.snapshot()
        return found.with_parts(**{name: getattr(part, "eager", part) for name, part in found.parts.items()})

    def load_weights(self, place: str | Path) -> None:
        """Run another fine-tune of the same architecture, a folder or a file, with no LoRA.

        Raises Refusal, with nothing changed, where a name, a shape, a kind of numbers or what the denoiser predicts is
        another.
        """
        found = hub.find(place, "model", half=True)
        with self.state.turn:
            self._change(*weights.with_base(self._nets, folder(found), self.process.prediction))

    def set_loras(self, loras: Mapping[LoraFile, Strength]) -> None:
        """These LoRAs, each as strong as it says, and no others. Raises Refusal, with nothing changed."""
        places = all_or_refuse(*(partial(hub.find, path, "lora", half=True) for path in loras))
        with self.state.turn:
            pairs = zip(places, loras.values(), strict=True)
            found = all_or_refuse(*(partial(self._lora, path, ratio) for path, ratio in pairs))
            self._change(*weights.with_loras(self._nets, self.state.stack, [share for each in found for share in each]))

    def clear_loras(self) -> None:
        """The base alone, bit for bit as it was."""
        self.set_loras({})

    def set_weights(self, part: str, tensors: weights.Tensors) -> None:
        """These in place of those that the base of a part has by these names; no LoRAs. Nothing: the base alone.

        For programs that keep the weights themselves. Raises Refusal, with nothing changed.
        """
        with self.state.turn:
            self._change(*weights.with_tensors(self._nets, self.state.stack, part, tensors))

    def base_weights(self, part: str) -> dict[str, torch.Tensor]:
        """Those of the base of a part, whatever has been put in their place."""
        with self.state.moment:
            self.state.settle()
            kept = self.state.stack.kept
            return {name: kept.get((part, name), mine) for name, mine in weights.own(self.state.parts[part]).items()}

    def with_word(self, word: str, rows: embedding.Rows) -> CompiledModel:
        """A model that knows one more word. torch runs its text encoders: no program has room for the word."""
        encoders = [self.state.parts[name] for name in self.family.encoders]
        programs = [each.programs for each in encoders]
        for each in encoders:
            each.__dict__["programs"] = {}
        try:
            return cast(CompiledModel, embedding.add(self, word, rows))
        except Refusal:
            for each, before in zip(encoders, programs, strict=True):
                each.__dict__["programs"] = before
            raise

    @property
    def _nets(self) -> Parts:
        """The parts that fine-tunes and LoRAs change."""
        with self.state.moment:
            self.state.settle()
        return {name: part for name, part in self.state.parts.items() if name in self.family.original}

    def _lora(self, place: Path, strength: Strength) -> list[Share]:
        both = strength if isinstance(strength, tuple) and len(strength) == 2 else (strength, strength)
        if not all(_is_finite(each) for each in both):
            told = f"a strength of {strength!r}"
            raise Refusal(Fault(str(place), told, "a finite number, or two", "1 is as it was trained"))
        with weights.steady(place):
            source = adapters.opened(place)
            found = parsing.read(source, self.denoiser.config)
        for word in set(bundled_embeddings.names(source)) - set(self.placeholder_tokens):
            text = f"{place} holds the learned word {word}: with_word, or tenshot generate, makes a model know it"
            warnings.warn(text, Noted, stacklevel=3)
        refuse_if(misfits(str(place), found, weights.layers(self._nets)))
        of_text = {layer: each for layer, each in found.items() if layer[0] != self.family.denoiser}
        of_denoiser = {layer: each for layer, each in found.items() if layer[0] == self.family.denoiser}
        return [(of_text, float(both[0])), (of_denoiser, float(both[1]))]

    def _change(self, changes: weights.Changes, stack: Stack) -> None:
        """Make everything that can fail, and then decide."""
        contents = {part: wrappers.exchanged(self.state.parts[part], new) for part, new in changes.items()}
        for part, content in contents.items():
            sections = self.state.parts[part].programs
            content["programs"] = {name: self.openers[name](flat(name, content["eager"])) for name in sections}
        self.state.decide(Swap(contents, stack))


def _is_finite(number: object) -> TypeGuard[float]:
    return isinstance(number, int | float) and not isinstance(number, bool) and abs(number) <= float_info.max


def find(name: str, events: Events | None = None, vae: Path | None = None) -> Path:
    """The folder of the model called `name`: a compiled one, or what `checkpoints.opening.find` finds."""
    if not artifact.is_one(Path(name)):
        return resolve.find(name, events, vae, half=True)
    if vae is not None:
        do = "compile the model with it: tenshot compile MODEL --vae FILE"
        raise Refusal(Fault(f"--vae {vae}", f"{name} is compiled with its own", "a model that is not compiled", do))
    return Path(name)


def examine(place: Path) -> Family:
    """What family a model is of, compiled or not. Raises Refusal with every fault of its folder."""
    return validate.examine(folder(place))


def folder(place: Path) -> Path:
    """The model folder of what `find` found, which a compiled model has within."""
    return place / artifact.MODEL if artifact.is_one(place) else place


def load(
    name: str | Path,
    *,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    fallback: bool = False,
    vae: str | Path | None = None,
    parts: Collection[str] | None = None,
    events: Events | None = None,
) -> CompiledModel:
    """Open a model: "pocket", a model folder, a checkpoint file, org/name of the hub, or what `tenshot compile` made.

    precision: of what is not compiled. vae: a file or folder with one in place of the model's own. parts: only these,
    and no memory for others. fallback: where an artifact is not for this machine, let torch run it and say so. Raises
    Refusal: the folder's faults; or, without fallback, what differs here and the command that rebuilds.
    """
    place = find(str(name), events, Path(vae) if vae is not None else None)
    if not artifact.is_one(place):
        with weights.steady(place):
            plain = model.load(str(place), device=device, precision=precision, events=events).only(parts)
        return _assembled(plain, {})
    where = devices.pick(str(device))
    manifest = artifact.read(place)
    with weights.steady(place / artifact.MODEL):
        plain = model.load(str(place / artifact.MODEL), device=where, events=events).only(parts)
    if (parts is None or "controlnet" in parts) and (place / artifact.CONTROLNET).is_dir():
        plain = plain.with_parts(controlnet=model.load_controlnet(place / artifact.CONTROLNET, where))
    try:
        _refuse_strange_machine(manifest, where)
    except Refusal as refusal:
        if not fallback:
            raise
        reasons = "; ".join(f"{fault.where} {fault.found}" for fault in refusal.faults)
        warnings.warn(f"{place} is not for this machine, torch runs it: {reasons}", Slow, stacklevel=2)
        return _assembled(plain, {})
    before = weights.stamp(place / artifact.PARTS)
    sections = [name for name in manifest.sections if parts is None or SECTIONS[name] in parts]
    openers = {name: partial(_opened, place, manifest, before, name, where) for name in sections}
    return _assembled(plain, openers, events)


def _refuse_strange_machine(manifest: Manifest, where: torch.device) -> None:
    faults = list(
        fingerprint.differences(manifest.fingerprint, fingerprint.here(manifest.backends, where), manifest.again)
    )
    for name in sorted(manifest.backends):
        if reason := backend(name).missing(where):
            faults.append(Fault(name, reason, "what it was compiled with", manifest.again))
    refuse_if(faults)


def _opened(
    place: Path, manifest: Manifest, before: weights.Stamp, name: str, where: torch.device, net: Flat
) -> CompiledSection:
    """A section's programs with the weights of `net`. Raises Refusal where their files were written to since."""
    if weights.stamp(place / artifact.PARTS) != before:
        found = "was written to since it was opened"
        raise Refusal(Fault(str(place / artifact.PARTS), found, "the programs as they were", "open the model again"))
    buckets = []
    for program in manifest.sections[name].programs:
        runner = rewrites.load_program(place / program.folder, program.choice, net, where)
        runner.load(net.weights())
        buckets.append(ShapeBucket(program.shapes, runner))
    return CompiledSection(name, buckets, net)


def _assembled(plain: Model, openers: Mapping[str, Opener], events: Events | None = None) -> CompiledModel:
    each_in_turn = track(openers.items(), "loading its programs", len(openers), events or Events())
    programs = {section: open_(flat(section, plain[SECTIONS[section]])) for section, open_ in each_in_turn}
    stand_ins = {}
    for name in {*SECTIONS.values(), *plain.family.nets} & plain.parts.keys():
        mine = {section: each for section, each in programs.items() if SECTIONS[section] == name}
        stand_ins[name] = wrappers.standing_in(plain[name], mine)
    known = {each: getattr(plain, each) for each in Model.__dataclass_fields__} | {
        "parts": {**plain.parts, **stand_ins}
    }
    return CompiledModel(**known, state=State(stand_ins, Stack(plain.place)), openers=openers)
