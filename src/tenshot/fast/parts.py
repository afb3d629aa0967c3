"""The nets of a model with plain signatures: tensors in, tensors out, the batch first. So every backend takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from itertools import chain, repeat
from typing import Any

import torch
from torch import nn

from tenshot.device import generator

PREFIX = "net."
COUNTS = ("timestep", "time_ids")  # inputs that stay float32: in bfloat16 981 is 980


class Flat(nn.Module):
    """names: of the inputs. keep: how the names of the part's weights begin that this net has; empty: all."""

    names: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.net: Any = nn.Module() if self.keep else part
        for child in self.keep:
            setattr(self.net, child, getattr(part, child))

    def weights(self) -> dict[str, torch.Tensor]:
        """The part's own names, and the tensors themselves."""
        return {name.removeprefix(PREFIX): tensor for name, tensor in self.named_parameters()}

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Copy `weights` into the net, cast to its numbers."""
        with torch.no_grad():
            for name, mine in self.weights().items():
                mine.copy_(weights[name])


class UNet(Flat):
    """sample [b, 4, h/8, w/8], timestep [b], encoder_hidden_states [b, 77, c] -> [b, 4, h/8, w/8]."""

    names = ("sample", "timestep", "encoder_hidden_states")

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, states: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.net(sample, timestep, states, return_dict=False)[0],)


class UNetXL(Flat):
    """Beside it text_embeds [b, projection] and time_ids [b, 6], as Stable Diffusion XL wants them."""

    names = (*UNet.names, "text_embeds", "time_ids")

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        states: torch.Tensor,
        text_embeds: torch.Tensor,
        time_ids: torch.Tensor,
    ) -> tuple[torch.Tensor]:
        added = {"text_embeds": text_embeds, "time_ids": time_ids}
        return (self.net(sample, timestep, states, added_cond_kwargs=added, return_dict=False)[0],)


class Controlled(Flat):
    """A UNet that also takes a ControlNet's answers, [b, ...] each, the one for the middle block last."""

    names = UNet.names

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, states: torch.Tensor, *rest: torch.Tensor) -> Any:
        return (_with_control(self.net, (sample, timestep, states), {}, rest),)


class ControlledXL(Flat):
    """The same for Stable Diffusion XL."""

    names = UNetXL.names

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        states: torch.Tensor,
        text_embeds: torch.Tensor,
        time_ids: torch.Tensor,
        *rest: torch.Tensor,
    ) -> Any:
        added = {"added_cond_kwargs": {"text_embeds": text_embeds, "time_ids": time_ids}}
        return (_with_control(self.net, (sample, timestep, states), added, rest),)


def _with_control(net: Any, inputs: Any, added: Any, rest: tuple[torch.Tensor, ...]) -> torch.Tensor:
    down, middle = rest[:-1], rest[-1]
    more = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    return net(*inputs, return_dict=False, **added, **more)[0]


class ControlNet(Flat):
    """UNet's inputs and the control picture [b, 3, h, w] -> residuals, the middle block's last; at full strength."""

    names = (*UNet.names, "controlnet_cond")

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, states: torch.Tensor, cond: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        down, middle = self.net(sample, timestep, states, cond, return_dict=False)
        return (*down, middle)


class ControlNetXL(Flat):
    """The same for Stable Diffusion XL."""

    names = (*UNetXL.names, "controlnet_cond")

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        states: torch.Tensor,
        text_embeds: torch.Tensor,
        time_ids: torch.Tensor,
        cond: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        added = {"text_embeds": text_embeds, "time_ids": time_ids}
        down, middle = self.net(sample, timestep, states, cond, added_cond_kwargs=added, return_dict=False)
        return (*down, middle)


class Decoder(Flat):
    """latents [b, 4, h/8, w/8], not scaled -> pictures [b, 3, h, w] in -1..1."""

    names = ("latents",)
    keep = ("post_quant_conv", "decoder")

    def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.net.decoder(self.net.post_quant_conv(latents)),)


class Encoder(Flat):
    """pictures [b, 3, h, w] in -1..1 -> mean and log variance [b, 8, h/8, w/8]."""

    names = ("pictures",)
    keep = ("encoder", "quant_conv")

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.net.quant_conv(self.net.encoder(pictures)),)


class Text(Flat):
    """input_ids [b, 77] -> last state, pooled (or projected) state, and then every hidden state."""

    names = ("input_ids",)

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out = self.net(input_ids, output_hidden_states=True)
        pooled = out.text_embeds if hasattr(out, "text_embeds") else out.pooler_output
        return (out.last_hidden_state, pooled, *out.hidden_states)


#: Section of an artifact -> the model's part it speaks for.
SECTIONS = {
    "unet": "unet",
    "unet_controlled": "unet",
    "controlnet": "controlnet",
    "decoder": "vae",
    "encoder": "vae",
    "text_encoder": "text_encoder",
    "text_encoder_2": "text_encoder_2",
}


def flat(section: str, part: Any) -> Flat:
    """The net of a section, which shares its weights with `part`."""
    kinds = {"decoder": Decoder, "encoder": Encoder, "text_encoder": Text, "text_encoder_2": Text}
    if section in kinds:
        return kinds[section](part)
    large = getattr(part.config, "addition_embed_type", None) == "text_time"
    return {
        "unet": UNetXL if large else UNet,
        "unet_controlled": ControlledXL if large else Controlled,
        "controlnet": ControlNetXL if large else ControlNet,
    }[section](part)


def mark(net: Flat) -> None:
    """Fill it with numbers by which every weight is known again: no two weights are the same, however small."""
    with torch.no_grad():
        for name, tensor in net.weights().items():
            tensor.copy_(torch.rand(tensor.shape, generator=generator("mark", name)))


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
