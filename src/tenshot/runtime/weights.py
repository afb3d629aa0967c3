"""The weights that a model runs with: those of a base, and what LoRAs add to some of them, always made from the base.

A swap makes new tensors and leaves the old ones as they are. What is drawing keeps what it has; what was the base's own
is put back, the very same tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from tenshot.adapters.weight_delta import BIAS, Addition, Layer, parameter, summed
from tenshot.core.errors import Fault, Refusal, refuse_if, some
from tenshot.families import shapes, text_model
from tenshot.families.components import Net, Parts
from tenshot.io.tensor_files import Lazy
from tenshot.model import checkpoint
from tenshot.model.checkpoint import LazyModel

Share = tuple[Mapping[Layer, Addition], float]  #: what a LoRA adds, and how strongly it counts
Changes = dict[str, dict[str, torch.Tensor]]  #: part -> its weights that become others
Tensors = Mapping[str, torch.Tensor]
Kept = dict[tuple[str, str], torch.Tensor]  #: part and weight -> the base's own


@dataclass(frozen=True)
class Stack:
    """place: of the base, a folder or a file. kept: its own weights where LoRAs have put others."""

    place: Path
    kept: Kept = field(default_factory=dict)


def own(net: Net) -> dict[str, torch.Tensor]:
    """A part's weights under the names that files know, whatever has been put around its layers."""
    found = {}
    for name, tensor in net.named_parameters():
        bare = (
            text_model.bare(name).replace(".base_layer.", ".").replace(".token_embedding.known.", ".token_embedding.")
        )
        if ".lora_" not in bare and not bare.endswith(".token_embedding.rows"):
            found[bare] = tensor
    return found


def layers(parts: Parts) -> dict[Layer, tuple[int, ...]]:
    """Part and layer -> the shape of its weight, and of its bias."""
    return {
        (part, name.removesuffix(".weight")): tuple(tensor.shape)
        for part, net in parts.items()
        for name, tensor in own(net).items()
        if name.endswith((".weight", BIAS))
    }


def with_base(parts: Parts, place: Path, prediction: str) -> tuple[Changes, Stack]:
    """All weights of `parts` as another model has them.

    Raises Refusal where it is of another architecture, or its denoiser was not trained for `prediction`.
    """
    with steady(place):
        base = checkpoint.read(place)
        refuse_if((*unexpected(parts, base), *_other_prediction(base, prediction)))
        changes = {
            part: {name: _like(tensor, base.parts[part][name].read()) for name, tensor in own(parts[part]).items()}
            for part in base.parts
        }
    return changes, Stack(place)


def with_loras(parts: Parts, stack: Stack, loras: Sequence[Share]) -> tuple[Changes, Stack]:
    """What changes when these LoRAs, and no others, are on `parts`, whose weights are those of `stack`.

    Raises Refusal where that gives numbers that are not finite.
    """
    base = _Numbers(stack.place)
    wanted = {(part, parameter(layer)) for found, _ in loras for part, layer in found}
    changes, kept, broken = _changed(parts, stack, {key: partial(_sum, base, key, loras) for key in wanted})
    if broken:
        found = (
            f"these LoRAs at these strengths make NaN or infinite numbers of {len(broken)} weights: {broken[0]}, ..."
        )
        raise Refusal(Fault("loras", found, "finite numbers", "lower the strengths"))
    return changes, Stack(stack.place, kept)


def with_tensors(parts: Parts, stack: Stack, part: str, tensors: Tensors) -> tuple[Changes, Stack]:
    """What changes when `tensors`, and no LoRAs, are in place of those that the base of a part has by these names.

    Raises Refusal where one has no place there, or is not finite.
    """
    shapes_there = {name: tuple(tensor.shape) for name, tensor in own(parts[part]).items()}
    odd = [name for name, tensor in tensors.items() if shapes_there.get(name) != tuple(tensor.shape)]
    fits = "weights by the names, and of the shapes, that the part has"
    refuse_if([Fault(part, f"{len(odd)} weights have no place in it: {some(odd)}", fits)] if odd else [])
    made = {(part, name): partial(_given, tensor) for name, tensor in tensors.items()}
    changes, kept, broken = _changed(parts, stack, made)
    refuse_if(
        [Fault(part, f"{len(broken)} weights are not finite: {some(broken)}", "finite numbers")] if broken else []
    )
    return changes, Stack(stack.place, kept)


def _changed(
    parts: Parts, stack: Stack, made: Mapping[tuple[str, str], Callable[[torch.Tensor], torch.Tensor]]
) -> tuple[Changes, Kept, list[str]]:
    """What changes when these weights are `made` of the base's own, and all others are those; names of broken ones."""
    kept: Kept = {}
    changes: Changes = {}
    for part, net in parts.items():
        for name, tensor in own(net).items():
            key = (part, name)
            if key in made or key in stack.kept:
                new = pristine = stack.kept.get(key, tensor.detach())
                if key in made:
                    kept[key] = pristine
                    new = _like(pristine, made[key](pristine))
                changes.setdefault(part, {})[name] = new
    return changes, kept, [name for part, name in kept if not bool(changes[part][name].isfinite().all())]


def _sum(base: _Numbers, key: tuple[str, str], loras: Sequence[Share], pristine: torch.Tensor) -> torch.Tensor:
    layer = (key[0], key[1].removesuffix(".weight"))
    return summed(base.of(*key, pristine), [(found[layer], ratio) for found, ratio in loras if layer in found])


def _given(tensor: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return tensor


def _like(old: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """New memory, even where nothing has to be rounded: `values` may be a file's own."""
    return torch.empty_like(old, requires_grad=False).copy_(values)


class _Numbers:
    """The base's numbers as its files have them, read anew only where the model runs in fewer bits."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.base: LazyModel | None = None

    def of(self, part: str, name: str, pristine: torch.Tensor) -> torch.Tensor:
        """float32. Raises Refusal where the files are no longer what the model was opened from."""
        if pristine.dtype == torch.float32:
            return pristine
        self.base = self.base or checkpoint.read(self.place)
        lazy = self.base.parts.get(part, {}).get(name)
        read = lazy.read().to(pristine.device) if lazy else pristine.new_zeros(0)
        if read.shape != pristine.shape or not torch.equal(read.to(pristine.dtype), pristine):
            found = f"{part} {name} is not what the model was opened with: the files have been rewritten since"
            raise Refusal(Fault(str(self.place), found, "the same files", "open the model again"))
        return read.float()


def unexpected(parts: Parts, base: LazyModel) -> Iterator[Fault]:
    """What keeps `base` from taking the place of the weights of `parts`: names, shapes, kinds of numbers."""
    for part, content in base.parts.items():
        wanted = {name: tuple(tensor.shape) for name, tensor in own(parts[part]).items()} if part in parts else {}
        missing, odd, unknown = shapes.differences(wanted, {name: lazy.shape for name, lazy in content.items()})
        held = dict(parts[part].named_buffers()) if part in parts else {}
        beside = [name for name in unknown if content[name].dtype.is_floating_point]
        odd += [*missing]
        odd += [name for name in beside if name not in held or not _equal(held[name], content[name])]
        odd += [name for name in wanted.keys() & content.keys() if not content[name].dtype.is_floating_point]
        if odd:
            found = f"{part}: {len(odd)} weights are not as in this model: {', '.join(sorted(odd)[:3])}"
            yield Fault(str(base.place), found, "a model of the same architecture", "or open (or compile) this one")


def _equal(held: torch.Tensor, lazy: Lazy) -> bool:
    """Has a file what a net holds beside its weights? No exchange reaches that."""
    return tuple(held.shape) == lazy.shape and torch.equal(held.cpu(), lazy.read().to(held.dtype))


def _other_prediction(base: LazyModel, wanted: str) -> Iterator[Fault]:
    found = base.family.process.from_config(base.scheduler_config).prediction
    if found != wanted:
        yield Fault(
            str(base.place), f"its denoiser predicts {found}", f"{wanted}, as in this model", "open it by itself"
        )


Stamp = Mapping[Path, tuple[int, ...]]


def stamp(place: Path) -> Stamp:
    """By what a file, or the files of a folder and of its folders, are known not to have been written since."""
    folder = place.parent if place.name.endswith(".index.json") else place
    files = [folder] if folder.is_file() else sorted((*folder.glob("*"), *folder.glob("*/*")))
    facts = {file: file.stat() for file in files if file.is_file()}
    return {file: (s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for file, s in facts.items()}


@contextmanager
def steady(place: Path) -> Iterator[None]:
    """Raises Refusal where somebody writes at `place` meanwhile."""
    before = stamp(place)
    yield
    if stamp(place) != before:
        raise Refusal(Fault(str(place), "was written to while it was read", "files at rest", "open it again"))
