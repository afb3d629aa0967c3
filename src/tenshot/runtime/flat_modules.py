"""The nets of a model with plain signatures: tensors in, tensors out, the batch first. So every backend takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import chain, repeat
from typing import Any

import torch
from torch import nn

from tenshot.core.device import generator
from tenshot.families import base, registry
from tenshot.families.components import Net

PREFIX = "net."
MARK = 1024  # numbers by which a weight is known
COUNTS = ("timestep", "time_ids")  # inputs that stay float32: in bfloat16 981 is 980


class Flat(nn.Module):
    """keep: how the names of the part's weights begin that this net has; empty: all."""

    keep: tuple[str, ...] = ()

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.net: Net = nn.Module() if self.keep else part
        for child in self.keep:
            setattr(self.net, child, getattr(part, child))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the inputs; those of a ControlNet's answers have none."""
        raise NotImplementedError

    def weights(self) -> dict[str, torch.Tensor]:
        """The part's own names, and the tensors themselves."""
        return {name.removeprefix(PREFIX): tensor for name, tensor in self.named_parameters()}

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Copy `weights` into the net, cast to its numbers."""
        with torch.no_grad():
            for name, mine in self.weights().items():
                mine.copy_(weights[name])


class Denoiser(Flat):
    """Noisy latents [b, c, h/8, w/8], times [b], and the conditioning in its family's order -> an answer like latents.

    Where a ControlNet has been asked, its answers follow, [b, ...] each, the one for the middle block last.
    """

    @property
    def inputs(self) -> tuple[str, ...]:
        return registry.of_net(self.net).inputs

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name.rpartition(".")[2] for name in self.inputs)

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, states: torch.Tensor, *more: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        given, residuals = _told(self.inputs, sample, timestep, states, *more)
        control: dict[str, object] = {}
        if residuals:
            control = {
                "down_block_additional_residuals": residuals[:-1],
                "mid_block_additional_residual": residuals[-1],
            }
        return (self.net(**given, **control, return_dict=False)[0],)


class ControlNet(Denoiser):
    """A denoiser's inputs and the control picture [b, 3, h, w] -> residuals, the middle block's last, in full strength.

    It takes all that the denoiser takes, by the same names.
    """

    @property
    def names(self) -> tuple[str, ...]:
        return (*super().names, "controlnet_cond")

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, states: torch.Tensor, *more: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        given, (picture,) = _told(self.inputs, sample, timestep, states, *more)
        down, middle = self.net(**given, controlnet_cond=picture, return_dict=False)
        return (*down, middle)


def _told(inputs: Sequence[str], *given: torch.Tensor) -> tuple[base.Conditioning, tuple[torch.Tensor, ...]]:
    """The inputs as a denoiser's forward takes them, and what comes after them."""
    return base.nested(dict(zip(inputs, given, strict=False))), given[len(inputs) :]


class Decoder(Flat):
    """latents [b, 4, h/8, w/8], not scaled -> pictures [b, 3, h, w] in -1..1."""

    names = ("latents",)
    keep = ("post_quant_conv", "decoder")

    def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.net.decoder(_through(self.net.post_quant_conv, latents)),)


class Encoder(Flat):
    """pictures [b, 3, h, w] in -1..1 -> mean and log variance [b, 8, h/8, w/8]."""

    names = ("pictures",)
    keep = ("encoder", "quant_conv")

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor]:
        return (_through(self.net.quant_conv, self.net.encoder(pictures)),)


def _through(convolution: nn.Module | None, x: torch.Tensor) -> torch.Tensor:
    """VAEs of 16 channels have none there."""
    return x if convolution is None else convolution(x)


class Text(Flat):
    """input_ids [b, 77] -> last state, pooled (or projected) state, and then every hidden state."""

    names = ("input_ids",)

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out = self.net(input_ids, output_hidden_states=True)
        pooled = out.text_embeds if hasattr(out, "text_embeds") else out.pooler_output
        return (out.last_hidden_state, pooled, *out.hidden_states)


#: Denoisers that are told a ControlNet's answers, and without.
CONTROLLED = {
    f"{family.denoiser}_controlled": family.denoiser for family in registry.FAMILIES if family.takes_controlnet
}
#: Section of an artifact -> the model's part it speaks for.
SECTIONS = {
    **{family.denoiser: family.denoiser for family in registry.FAMILIES},
    **CONTROLLED,
    "controlnet": "controlnet",
    "decoder": "vae",
    "encoder": "vae",
    "text_encoder": "text_encoder",
    "text_encoder_2": "text_encoder_2",
}


KINDS: dict[str, type[Flat]] = {
    **{family.denoiser: Denoiser for family in registry.FAMILIES},
    **dict.fromkeys(CONTROLLED, Denoiser),
    "controlnet": ControlNet,
    "decoder": Decoder,
    "encoder": Encoder,
}


def flat(section: str, part: Net) -> Flat:
    """The net of a section, which shares its weights with `part`."""
    return KINDS.get(section, Text)(part)


def mark(net: Flat) -> None:
    """Give every weight numbers by which it is known again: no two weights begin with the same, however small."""
    with torch.no_grad():
        for name, tensor in net.weights().items():
            some = min(tensor.numel(), MARK)
            tensor.zero_().view(-1)[:some] = torch.rand(some, generator=generator("mark", name))


class Cast(nn.Module):
    """A copy of a net that computes in `dtype`, and still takes and returns float32. names: parameter -> weight."""

    def __init__(self, net: Flat, dtype: torch.dtype, where: torch.device, *, channels_last: bool = False) -> None:
        super().__init__()
        mine: Any = deepcopy(net)  # whose type does not know memory_format
        layout = torch.channels_last if channels_last else torch.preserve_format
        self.net: Flat = mine.to(where, dtype, memory_format=layout).eval()
        self.dtype = dtype

    @property
    def names(self) -> dict[str, str]:
        return {name: name.removeprefix(PREFIX).removeprefix(PREFIX) for name, _ in self.named_parameters()}

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(each.float() for each in self.net(*self._cast(inputs)))

    def _cast(self, inputs: tuple[torch.Tensor, ...]) -> Iterator[torch.Tensor]:
        for name, each in zip(chain(self.net.names, repeat("")), inputs, strict=False):
            yield each.to(self.dtype) if each.is_floating_point() and name not in COUNTS else each
