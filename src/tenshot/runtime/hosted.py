"""A compiled denoiser inside another program that has the model itself, under the names of its first code.

ComfyUI, Forge and WebUI keep the weights and draw; what they would ask their own UNet, they ask this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from weakref import ref

import torch

from tenshot.core.errors import Fault, Refusal, refuse_if, some
from tenshot.families import conversion, keymaps, shapes
from tenshot.families.base import Conditioning, Family, flattened, nested
from tenshot.families.keymaps import Line
from tenshot.io import hashes
from tenshot.model import checkpoint
from tenshot.runtime import artifact, compiled_model
from tenshot.runtime.compiled_model import CompiledModel
from tenshot.runtime.sections import CompiledSection
from tenshot.runtime.weights import Tensors, own

#: A ControlNet's answers: of the down blocks, the first ones of which may be left out, and of the middle one.
Residuals: TypeAlias = tuple[Sequence[torch.Tensor | None], torch.Tensor | None]
Question: TypeAlias = Mapping[str, Any]  #: a denoiser's arguments
SAMPLES = 64  # numbers of each weight that go into a digest
AGAIN = "tenshot compile MODEL --out FOLDER"


class Hosted:
    """model: compiled, of which only the denoiser is needed."""

    def __init__(self, model: CompiledModel) -> None:
        self.model = model
        self.part = model.family.denoiser
        self.table = _table(model.family, model.denoiser.config, own(model.denoiser))
        self._host: Callable[[], object | None] = lambda: None  # whose own weights have been compared
        self._different: dict[str, torch.Tensor] = {}  # those of them that are not the model's, under our names
        self._version: object = None  # of the weights that it runs with
        self._refused: Refusal | None = None  # why that version does not fit
        if self.part not in model.programs:
            found = f"has no program for its {self.part}"
            raise Refusal(Fault(str(model.place), found, "a compiled model with one", AGAIN))

    def follow(self, host: object, version: object, read: Callable[[], tuple[Tensors, Tensors]]) -> bool:
        """Run with the weights that the host has in this version; were others there before?

        read: gives the host's own, and those that are in place of some of them, both under their original names.
        Raises Refusal, with nothing changed, where they do not fit, and again without reading for the same version.
        """
        if version != self._version:
            self._version, self._refused = version, None
            try:
                with torch.inference_mode(False):
                    self._take(host, *read())
            except BaseException as error:
                self._refused = error if isinstance(error, Refusal) else None
                self._version = version if self._refused else None
                raise
            return True
        if self._refused:
            raise self._refused
        return False

    def _take(self, host: object, weights: Tensors, instead: Tensors) -> None:
        different = self._different if self._host() is host else self._differing(weights)
        self.model.set_weights(self.part, different | self._ours(instead))
        self._host, self._different = ref(host), different

    def asked(
        self,
        x: torch.Tensor,
        times: torch.Tensor,
        context: torch.Tensor,
        vector: torch.Tensor | None = None,
        residuals: Residuals | None = None,
    ) -> Question:
        """What the denoiser is asked, as its first code is called; vector is what that calls y.

        Raises Refusal where no program is made for it.
        """
        given = {"sample": x, "timestep": times, **flattened(self._conditioning(context, vector))}
        inputs = [given[name] for name in self.model.family.inputs]
        if residuals is None:
            self._shapes(self.part, inputs)
            return nested(given)
        *down, middle = self._residuals(inputs, *residuals)
        return {**nested(given), "down_block_additional_residuals": down, "mid_block_additional_residual": middle}

    def __call__(self, question: Question) -> torch.Tensor:
        """What it answers."""
        answer: torch.Tensor = self.model.denoiser(**question, return_dict=False)[0]
        return answer

    def _conditioning(self, context: torch.Tensor, vector: torch.Tensor | None) -> Conditioning:
        read = self.model.family.of_vector
        if (read is None) != (vector is None):
            found = "a vector beside the text" if vector is not None else "no vector beside the text"
            raise Refusal(Fault("the conditioning", found, f"what {self.model.family.title} is told"))
        told = {} if read is None or vector is None else read(vector, self.model.denoiser.config)
        if told is None:
            raise Refusal(Fault("the conditioning", "a vector that is not the text and six numbers"))
        return {"encoder_hidden_states": context, **told}

    def _residuals(
        self, inputs: Sequence[torch.Tensor], down: Sequence[torch.Tensor | None], middle: torch.Tensor | None
    ) -> list[torch.Tensor]:
        """All that the program wants; nothing is zeros."""
        wanted = self._shapes(f"{self.part}_controlled", inputs)[len(inputs) :]
        if len(down) > len(wanted) - 1:
            raise Refusal(Fault("the ControlNet", f"{len(down)} answers", f"{len(wanted) - 1}"))
        found = [*[None] * (len(wanted) - 1 - len(down)), *down, middle]
        x = inputs[0]
        full = [x.new_zeros(1, *shape[1:]) if e is None else e for e, shape in zip(found, wanted, strict=True)]
        odd = [each for each, shape in zip(full, wanted, strict=True) if tuple(each.shape[1:]) != shape[1:]]
        refuse_if([Fault("the ControlNet", f"answers of {list(odd[0].shape)}", "those of this model's")] if odd else [])
        return full

    def _shapes(self, section: str, inputs: Sequence[torch.Tensor]) -> tuple[tuple[int, ...], ...]:
        """Of all inputs of the section's program for these, the first of them."""
        programs: CompiledSection | None = self.model.programs.get(section)
        if programs is None:
            do = "tenshot compile MODEL --controlnet FOLDER"
            raise Refusal(Fault("the ControlNet", "no program listens to one", "an artifact compiled with one", do))
        for bucket in programs.buckets:
            if all(tuple(e.shape[1:]) == s[1:] for e, s in zip(inputs, bucket.shapes, strict=False)):
                return bucket.shapes
        made = " or ".join(_told(bucket.shapes) for bucket in programs.buckets)
        found = _told([tuple(each.shape) for each in inputs])
        raise Refusal(Fault("no program", f"for {found}", made, "tenshot compile --height --width --also_sizes"))

    def _differing(self, weights: Tensors) -> dict[str, torch.Tensor]:
        """Those of a whole net that are not the model's own, as far as they tell in their numbers."""
        if missing := self.table.keys() - weights.keys():
            raise Refusal(Fault("the weights", f"{len(missing)} are missing: {some(sorted(missing))}", "a whole net"))
        mine = self.model.base_weights(self.part)
        return {name: each for name, each in self._ours(weights).items() if not _same(mine[name], each)}

    def _ours(self, weights: Tensors) -> dict[str, torch.Tensor]:
        if strange := weights.keys() - self.table.keys():
            told = f"{len(strange)} have no place in this model: {some(sorted(strange))}"
            raise Refusal(Fault("the weights", told, f"those of its {self.part}"))
        mine = self.model.base_weights(self.part)
        found: dict[str, torch.Tensor] = {}
        for theirs, tensor in weights.items():
            line = self.table[theirs]
            for name, each in zip(line.ours, keymaps.ours_of(line.form, tensor, len(line.ours)), strict=True):
                alike = shapes.as_matrix(each.shape) == shapes.as_matrix(mine[name].shape)
                found[name] = each.reshape(mine[name].shape) if alike else each
        return found


def open_hosted(place: str | Path, device: torch.device | str) -> Hosted:
    """What `tenshot compile` made. Raises Refusal as `compiled_model.load`, and where no denoiser is compiled."""
    with torch.inference_mode(False):
        family = compiled_model.examine(Path(place))
        return Hosted(compiled_model.load(place, device=device, parts=(family.denoiser,)))


def digest(weights: Tensors, dtype: torch.dtype) -> str:
    """By which the weights of a whole net, under original names, are known; some numbers of each, in `dtype`."""
    return hashes.of_tensors({name: _sample(tensor).to(dtype) for name, tensor in weights.items()})


def digest_of(place: Path, dtype: torch.dtype) -> str:
    """The same of a compiled model's own."""
    whole = checkpoint.read(place / artifact.MODEL)
    part = whole.family.denoiser
    table = _table(whole.family, whole.denoiser, whole.parts[part])
    return digest(
        {name: _sample(conversion.as_theirs(line, whole.parts[part]).read()) for name, line in table.items()}, dtype
    )


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, len(flat) // SAMPLES)][:SAMPLES].cpu()


def _table(family: Family, config: Mapping[str, Any], names: Mapping[str, object]) -> dict[str, Line]:
    """Original name, without what it begins with in a checkpoint -> ours."""
    root = family.original[family.denoiser][0]
    lines = conversion.lines(family, family.denoiser, dict(config), names)
    return {line.theirs.removeprefix(root): line for line in lines}


def _same(mine: torch.Tensor, theirs: torch.Tensor) -> bool:
    return mine.shape == theirs.shape and torch.equal(mine.to(theirs.dtype), theirs.to(mine.device))


def _told(shapes: Sequence[Sequence[int]]) -> str:
    sample, _, context, *_ = shapes
    return f"latents of {sample[2]}x{sample[3]} and {context[1]} tokens"
