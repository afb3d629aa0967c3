"""A denoiser with plain inputs, and its stand-in, against the denoiser itself, in every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tenshot.core.errors import Slow
from tenshot.families.base import MicroConditioning, flattened, nested
from tenshot.model import model
from tenshot.runtime import wrappers
from tenshot.runtime.flat_modules import Flat, flat

INPUTS = {
    "sd1": ("sample", "timestep", "encoder_hidden_states"),
    "sdxl": ("sample", "timestep", "encoder_hidden_states", "text_embeds", "time_ids"),
    "sd3": ("hidden_states", "timestep", "encoder_hidden_states", "pooled_projections"),
}
CALLS = {
    "sd1": lambda net, x, t, c, **more: net(x, t, c, **more),
    "sdxl": lambda net, x, t, c, p, i, **more: net(
        x, t, c, added_cond_kwargs={"text_embeds": p, "time_ids": i}, **more
    ),
    "sd3": lambda net, x, t, c, p, **more: net(x, c, p, t, **more),
}  # as diffusers' pipelines call them, to the letter


@pytest.fixture(params=INPUTS)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def opened(family: str, request: pytest.FixtureRequest) -> model.Model:
    return model.load(str(request.getfixturevalue(family)))


@torch.no_grad()
def given(opened: model.Model) -> list[torch.Tensor]:
    size = (opened.resolution, opened.resolution)
    conditioning = opened.family.micro_conditioned(
        opened.encode_prompt(["a cat", "a dog"]), [MicroConditioning.whole(size)] * 2
    )
    told = flattened(conditioning)
    side = opened.resolution // opened.vae_scale_factor
    dice = torch.Generator().manual_seed(0)
    x = torch.randn(2, opened.latent_channels, side, side, generator=dice)
    return [x, torch.tensor([300.0, 20.0]), *(told[name] for name in opened.family.inputs[2:])]


@torch.no_grad()
def test_a_flat_denoiser_answers_what_the_denoiser_does(family: str, opened: model.Model):
    inputs = given(opened)
    expected = CALLS[family](opened.denoiser, *inputs).sample
    net = flat(opened.family.denoiser, opened.denoiser)
    assert net.names == INPUTS[family]
    assert torch.equal(net(*inputs)[0], expected)
    conditioning = nested(dict(zip(opened.family.inputs[2:], inputs[2:], strict=True)))
    assert torch.equal(opened.predict(*inputs[:2], conditioning), expected)


class Program:
    """Counts how often it is asked."""

    def __init__(self, net: Flat) -> None:
        self.net, self.calls = net, 0

    def __call__(self, *inputs: torch.Tensor) -> Any:
        self.calls += 1
        return self.net(*inputs)


@torch.no_grad()
def test_a_stand_in_asks_its_program_and_torch_for_what_that_does_not_know(family: str, opened: model.Model):
    part, inputs = opened.family.denoiser, given(opened)
    program = Program(flat(part, opened.denoiser))
    stand_in: Any = wrappers.standing_in(opened.denoiser, {part: program})  # type: ignore[dict-item]
    assert isinstance(stand_in, type(opened.denoiser))
    expected = CALLS[family](opened.denoiser, *inputs).sample
    assert torch.equal(CALLS[family](stand_in, *inputs).sample, expected)
    (answer,) = CALLS[family](stand_in, *inputs, return_dict=False)
    assert torch.equal(answer, expected) and program.calls == 2
    inputs[1] = torch.tensor(300.0)  # one time for all rows
    assert CALLS[family](stand_in, *inputs[:1], inputs[1].expand(2), *inputs[2:]).sample.shape == expected.shape
    assert program.calls == 3
    strange = {"skip_layers": [0]} if family == "sd3" else {"encoder_attention_mask": torch.ones(2, 77)}
    with pytest.warns(Slow, match=next(iter(strange))):
        other = CALLS[family](stand_in, *inputs[:1], inputs[1].expand(2), *inputs[2:], **strange).sample
    assert program.calls == 3
    eager = CALLS[family](opened.denoiser, *inputs[:1], inputs[1].expand(2), *inputs[2:], **strange).sample
    assert torch.equal(other, eager)


@torch.no_grad()
def test_a_flat_vae_answers_what_the_vae_does(opened: model.Model):
    x = torch.randn(1, opened.latent_channels, 4, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(flat("decoder", opened["vae"])(x)[0], opened["vae"].decode(x).sample)
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    assert torch.equal(flat("encoder", opened["vae"])(pixels)[0], opened["vae"].encode(pixels).latent_dist.parameters)


def test_nesting_is_undone():
    whole = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert flattened(whole) == {"a.b": 1, "a.c.d": 2, "e": 3}
    assert nested({"a.b": 1, "a.c": 2, "e": 3}) == {"a": {"b": 1, "c": 2}, "e": 3}
