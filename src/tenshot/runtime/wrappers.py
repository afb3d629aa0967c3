"""Compiled parts in the shape of those they replace: diffusers' pipelines, and `generate`, cannot tell them apart.

Each is the eager part itself, weights and configuration included, with another way to answer. Arguments that a program
does not know are answered by the eager part's own code. A call goes on with the weights that it began with.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, ControlNetModel
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.controlnets.controlnet import ControlNetOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput, Transformer2DModelOutput
from transformers import CLIPTextModel, CLIPTextModelWithProjection
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPTextModelOutput

from tenshot.core.errors import Slow
from tenshot.families import base, registry
from tenshot.families.components import Net
from tenshot.runtime.sections import CompiledSection
from tenshot.runtime.weights import own

Programs = Mapping[str, CompiledSection]  #: section -> its programs


def standing_in(part: Net, programs: Programs) -> Net:
    """`part` with some of its work done by `programs`; its weights are the same tensors."""
    kind = next(kind for eager, kind in KINDS.items() if isinstance(part, eager))
    fast = copy.copy(part)
    fast.__class__ = kind
    fast.__dict__ |= {"programs": dict(programs), "eager": part}
    return fast


def still(part: Net) -> Net:
    """A stand-in as it is now, which no exchange reaches; other parts as they are."""
    return copy.copy(part) if isinstance(part, tuple(KINDS.values())) else part


def exchanged(part: Net, weights: Mapping[str, torch.Tensor]) -> dict[str, object]:
    """What a stand-in would consist of with these weights among its own, all the rest shared; it is not touched."""
    memo: dict[int, object] = {id(part): part, id(part.programs): part.programs}
    memo |= {id(each): each for each in (*part.parameters(), *part.buffers())}
    for name, mine in own(part).items():
        if name in weights:
            memo[id(mine)] = torch.nn.Parameter(weights[name], requires_grad=mine.requires_grad)
    return copy.deepcopy(part.__dict__, memo)


def become(part: Net, content: dict[str, object]) -> None:
    """Let a stand-in consist of what `exchanged` made. One assignment: whoever looks sees the one or the other."""
    object.__setattr__(part, "__dict__", content)


def _strange(part: Net, given: Mapping[str, object]) -> bool:
    """Is anything asked for that programs do not know? Says so once."""
    names = sorted(name for name, value in given.items() if value is not None)
    if _adapted(part):
        names.append("adapters put in by the pipeline (set_loras keeps it fast)")
    if not names:
        return False
    told = part.__dict__.setdefault("told", set())
    if (text := ", ".join(names)) not in told:
        told.add(text)
        warnings.warn(f"{type(part).__name__}: torch answers, as programs do not know {text}", Slow, stacklevel=4)
    return True


def _adapted(part: Net) -> bool:
    return bool(getattr(part, "peft_config", None))


def _times(timestep: torch.Tensor | float, sample: torch.Tensor) -> torch.Tensor:
    """One time a row."""
    times = torch.as_tensor(timestep, device=sample.device)
    return times.flatten().float().expand(sample.shape[0]).contiguous()


def _as(outputs: Sequence[torch.Tensor], like: torch.Tensor) -> list[torch.Tensor]:
    return [each.to(like.device, like.dtype) for each in outputs]


def _conditioning(part: Net, given: Mapping[str, torch.Tensor]) -> list[torch.Tensor] | None:
    """What the part is told besides latents and times, in its family's order; None where anything lacks."""
    told = [given.get(name) for name in registry.of_net(part).inputs[2:]]
    return None if any(each is None for each in told) else [each.float() for each in told if each is not None]


def _given(values: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """What is given at all of a call's arguments; those in mappings by dotted names."""
    return {name: value for name, value in base.flattened(values).items() if value is not None}


class _CompiledDenoiser:
    """A denoiser whose forward is a program's; with a ControlNet's answers, another program's.

    eager_kind: the class whose place it takes. section: its own, without a ControlNet.
    """

    eager_kind: ClassVar[type]
    section: ClassVar[str]
    programs: Programs

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = dict(_signature(self.eager_kind).bind(self, *args, **kwargs).arguments)
        return_dict = given.pop("return_dict", True)
        down = given.pop("down_block_additional_residuals", None)
        middle = given.pop("mid_block_additional_residual", None)
        told = _given({name: value for name, value in given.items() if name != "self"})
        added = _conditioning(self, told)
        first, second, *others = registry.of_net(self).inputs
        program = self.programs.get(self.section if middle is None else f"{self.section}_controlled")
        further = {name: value for name, value in told.items() if name not in (first, second, *others)}
        if program is None or added is None or _strange(self, further):
            return self.eager_kind.forward(still(self), *args, **kwargs)  # type: ignore[attr-defined]
        sample = told[first]
        inputs = [sample, _times(told[second], sample), *added, *([] if middle is None else [*down, middle])]
        (answer,) = _as(program(*(each.float() for each in _rowed(inputs, sample.shape[0]))), sample)
        return Transformer2DModelOutput(sample=answer) if return_dict else (answer,)


@cache
def _signature(kind: type[Net]) -> inspect.Signature:
    return inspect.signature(kind.forward)


def _compiled(kind: type, section: str) -> type:
    """The class that stands in for denoisers of `kind`."""
    return type(f"Compiled{kind.__name__}", (_CompiledDenoiser, kind), {"eager_kind": kind, "section": section})


def _rowed(inputs: Sequence[torch.Tensor], rows: int) -> list[torch.Tensor]:
    """A single row stands for all."""
    return [each if each.shape[0] == rows else each.expand(rows, *each.shape[1:]) for each in inputs]


class CompiledControlNet(ControlNetModel):
    """A ControlNet whose forward is a program's."""

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float,
        encoder_hidden_states: torch.Tensor,
        controlnet_cond: torch.Tensor,
        conditioning_scale: float = 1.0,
        class_labels: torch.Tensor | None = None,
        timestep_cond: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        added_cond_kwargs: Mapping[str, torch.Tensor] | None = None,
        cross_attention_kwargs: Mapping[str, torch.Tensor] | None = None,
        guess_mode: bool = False,
        return_dict: bool = True,
    ) -> ControlNetOutput | tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        given: dict[str, object] = {
            "class_labels": class_labels,
            "timestep_cond": timestep_cond,
            "attention_mask": attention_mask,
            "cross_attention_kwargs": cross_attention_kwargs or None,
            "guess_mode": guess_mode or None,
        }
        told = _given({"encoder_hidden_states": encoder_hidden_states, "added_cond_kwargs": added_cond_kwargs})
        added = _conditioning(self, told)
        program = self.programs.get("controlnet")
        if program is None or added is None or _strange(self, given):
            given |= {"added_cond_kwargs": added_cond_kwargs, "guess_mode": guess_mode, "return_dict": return_dict}
            plain = (sample, timestep, encoder_hidden_states, controlnet_cond, conditioning_scale)
            return ControlNetModel.forward(still(self), *plain, **given)
        inputs = [sample, _times(timestep, sample), *added, controlnet_cond]
        answers = program(*(each.float() for each in _rowed(inputs, sample.shape[0])))
        *down, middle = (each * conditioning_scale for each in _as(answers, sample))
        if not return_dict:
            return tuple(down), middle
        return ControlNetOutput(down_block_res_samples=tuple(down), mid_block_res_sample=middle)


class CompiledVae(AutoencoderKL):
    """A VAE whose decoder and encoder are programs."""

    def decode(
        self, z: torch.Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> DecoderOutput | tuple[torch.Tensor]:
        program = self.programs.get("decoder")
        if program is None or self.use_tiling or _adapted(self):
            return AutoencoderKL.decode(still(self), z, return_dict, generator)
        (picture,) = _as(program(z.float()), z)
        return DecoderOutput(sample=picture) if return_dict else (picture,)

    def encode(
        self, x: torch.Tensor, return_dict: bool = True
    ) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        program = self.programs.get("encoder")
        if program is None or self.use_tiling or _adapted(self):
            return AutoencoderKL.encode(still(self), x, return_dict)
        (moments,) = _as(program(x.float()), x)
        posterior = DiagonalGaussianDistribution(moments)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)


def _read(
    part: Net, input_ids: torch.Tensor, mask: torch.Tensor | None, positions: object, more: Mapping[str, object]
) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...]] | None:
    """The program's answers, or None where torch has to answer."""
    given: dict[str, object] = {"attention_mask": None if mask is None or bool(torch.as_tensor(mask).all()) else mask}
    given |= {"position_ids": positions, **{name: more[name] or None for name in more if name != "return_dict"}}
    program = next(iter(part.programs.values()), None)
    if program is None or _strange(part, given):
        return None
    last, pooled, *states = program(input_ids.long())
    return _as([last, pooled], _like(part)), tuple(_as(states, _like(part)))


def _like(part: Net) -> torch.Tensor:
    first: torch.Tensor = next(part.parameters())
    return first


class _CompiledText:
    """A text encoder that is a program."""

    programs: Programs
    eager: torch.nn.Module

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **more: Any,
    ) -> Any:
        found = _read(self, input_ids, attention_mask, position_ids, more)
        if found is None:
            more |= {"output_hidden_states": output_hidden_states, "return_dict": return_dict}
            return self.eager(input_ids, attention_mask, position_ids, **more)
        (last, pooled), states = found
        out = self.answer(last, pooled, states if output_hidden_states else None)
        return out if return_dict is not False else out.to_tuple()

    @staticmethod
    def answer(
        last: torch.Tensor, pooled: torch.Tensor, states: tuple[torch.Tensor, ...] | None
    ) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(last_hidden_state=last, pooler_output=pooled, hidden_states=states)


class CompiledText(_CompiledText, CLIPTextModel):
    """One without a projection."""


class CompiledTextWithProjection(_CompiledText, CLIPTextModelWithProjection):
    """One with."""

    @staticmethod
    def answer(
        last: torch.Tensor, pooled: torch.Tensor, states: tuple[torch.Tensor, ...] | None
    ) -> CLIPTextModelOutput:
        return CLIPTextModelOutput(text_embeds=pooled, last_hidden_state=last, hidden_states=states)


_DENOISERS = {family.parts[family.denoiser]: family.denoiser for family in registry.FAMILIES}
KINDS: dict[type, type] = {
    **{kind: _compiled(kind, part) for kind, part in _DENOISERS.items()},
    ControlNetModel: CompiledControlNet,
    AutoencoderKL: CompiledVae,
    CLIPTextModelWithProjection: CompiledTextWithProjection,
    CLIPTextModel: CompiledText,
}
#: Nets that no program speaks for are stand-ins without one, so that an exchange reaches them, too.
KINDS |= {
    kind: type(f"Plain{kind.__name__}", (kind,), {})
    for family in registry.FAMILIES
    for kind in (family.parts[net] for net in family.nets)
    if kind not in KINDS
}
