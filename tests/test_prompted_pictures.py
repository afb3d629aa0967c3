"""Prompts in the prompt language, as the denoiser is told of them: worked out with the libraries' own nets.

The rules are those of AUTOMATIC1111's WebUI 1.10, as it documents them and as its source was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from tenshot import pipeline
from tenshot.core.size import Size
from tenshot.model import model, prompts
from tenshot.model.model import Model
from tenshot.model.prompts import Prompts, Reading
from tenshot.pipeline import Request, SamplingSettings

SIZE, STEPS = Size(64, 64), 4


@pytest.fixture(scope="module")
def opened(sd1: Path) -> Model:
    return model.load(str(sd1))


def ids(whole: Model, *texts: str, part: str = "") -> torch.Tensor:
    """A chunk for each text, padded by hand."""
    tokenizer, rows = whole[f"tokenizer{part}"], []
    for text in texts:
        row = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        rows.append(row + [tokenizer.pad_token_id] * (77 - len(row)))
    return torch.tensor(rows)


@torch.no_grad()
def states(whole: Model, *texts: str) -> torch.Tensor:
    return whole["text_encoder"](ids(whole, *texts)).last_hidden_state


def weighed(plain: torch.Tensor, weights: Sequence[tuple[int, float]], restore: bool = True) -> torch.Tensor:
    """weights: (which token, how much)."""
    found = plain.clone()
    for place, weight in weights:
        found[:, place] *= weight
    return found * (plain.mean() / found.mean()) if restore else found


@torch.no_grad()
def told(whole: Model, prompt: str, **reading: object) -> torch.Tensor:
    ((weight, [(_, conditioning)]),) = Prompts(whole, SIZE, STEPS, Reading(**reading)).positive(prompt)
    assert weight == 1
    return conditioning["encoder_hidden_states"]


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found, expected, atol=1e-5)


def test_emphasis_weighs_what_the_encoder_says_of_a_token(opened: Model):
    plain = states(opened, "a b c")
    assert close(told(opened, "a b c"), plain)
    assert close(told(opened, "a (b:1.5) c"), weighed(plain, [(2, 1.5)]))
    assert close(told(opened, "a (b:1.5) c", emphasis="no_norm"), weighed(plain, [(2, 1.5)], False))
    assert close(told(opened, "[a] ((b)) c"), weighed(plain, [(1, 1 / 1.1), (2, 1.21)]))
    assert close(told(opened, "(a b:0.5) c"), weighed(plain, [(1, 0.5), (2, 0.5)]))
    literal = opened["tokenizer"]("a (b:1.5) c", padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        assert close(told(opened, "a (b:1.5) c", emphasis="none"), opened["text_encoder"](literal).last_hidden_state)


def test_long_prompts_are_chunks_side_by_side(opened: Model):
    letters = ["a"] * 80
    both = states(opened, " ".join(letters[:75]), " ".join(letters[75:]))
    assert close(told(opened, " ".join(letters)), both.flatten(0, 1)[None])
    assert close(told(opened, "a b BREAK c"), states(opened, "a b", "c").flatten(0, 1)[None])
    heavy = torch.cat([weighed(states(opened, "a b"), [(2, 2.0)]), states(opened, "c")], dim=1)
    assert close(told(opened, "a (b:2) BREAK c"), heavy)  # the mean of each chunk by itself


def test_clip_skip_takes_an_earlier_layer_normalised(opened: Model):
    encoder = opened["text_encoder"]
    with torch.no_grad():
        hidden = encoder(ids(opened, "a b"), output_hidden_states=True).hidden_states[-2]
        norm = getattr(encoder, "text_model", encoder).final_layer_norm
        assert close(told(opened, "a b", clip_skip=2), norm(hidden))
    assert not close(told(opened, "a b", clip_skip=2), states(opened, "a b"))


def test_both_encoders_of_sdxl_are_weighed_apart_and_the_first_chunk_is_pooled(sdxl: Path):
    whole, found = model.load(str(sdxl)), []
    for part in ("", "_2"):
        with torch.no_grad():
            out = whole[f"text_encoder{part}"](ids(whole, "a b", "c", part=part), output_hidden_states=True)
        plain = out.hidden_states[-2]
        found.append(torch.cat([weighed(plain[:1], [(2, 1.3)]), plain[1:]], dim=1))
    with torch.no_grad():
        ((_, [(_, conditioning)]),) = Prompts(whole, SIZE, STEPS, Reading(clip_skip=2)).positive("a (b:1.3) BREAK c")
    assert close(conditioning["encoder_hidden_states"], torch.cat(found, dim=-1))
    assert close(conditioning["added_cond_kwargs"]["text_embeds"], out.text_embeds[:1])
    assert conditioning["added_cond_kwargs"]["time_ids"].tolist() == [[64, 64, 0, 0, 64, 64]]


def test_t5_reads_words_without_brackets(sd35: Path):
    whole = model.load(str(sd35))
    plain, found = (prompts.tokens(whole, text) for text in ("a b c", "a (b:1.5) c"))
    assert torch.equal(found["text_encoder_3"].ids, plain["text_encoder_3"].ids)
    assert found["text_encoder_3"].weights is None and found["text_encoder"].weights[0, 0, 2] == 1.5
    with torch.no_grad():
        ((_, [(_, conditioning)]),) = Prompts(whole, SIZE, STEPS, Reading()).positive("a BREAK b")
    assert conditioning["encoder_hidden_states"].shape[1] == 2 * 77 + 256


def test_a_learned_word_counts_in_any_bracket_and_is_not_cut(opened: Model):
    placeholders = {"az": "<az> <az_1> <az_2>"}
    tokenizer = type(opened["tokenizer"]).from_pretrained(opened.place / "tokenizer")
    tokenizer.add_tokens(["<az>", "<az_1>", "<az_2>"])
    grown = Model(
        opened.family,
        {**opened.parts, "tokenizer": tokenizer},
        opened.scheduler_config,
        opened.place,
        False,
        placeholders,
    )
    first = tokenizer.convert_tokens_to_ids("<az>")
    (said,) = prompts.tokens(grown, "a (az:1.5) b").values()
    assert said.ids[0, 0, 2:5].tolist() == [first, first + 1, first + 2]
    assert said.weights[0, 0, 1:6].tolist() == pytest.approx([1, 1.5, 1.5, 1.5, 1])
    (said,) = prompts.tokens(grown, " ".join(["a"] * 74) + " az").values()
    assert (
        said.ids[0, 1, 1:4].tolist() == [first, first + 1, first + 2] and said.ids[0, 0, 75] == tokenizer.eos_token_id
    )


@torch.no_grad()
def by_hand(whole: Model, said: Sequence[Sequence[tuple[float, torch.Tensor]]], without: torch.Tensor) -> torch.Tensor:
    """Latents of seed 3 by Euler. said: for each step what leads away from `without`, and how far."""
    scheduler = EulerDiscreteScheduler.from_config(dict(whole.scheduler_config), timestep_spacing="linspace")
    scheduler.set_timesteps(STEPS)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)) * scheduler.init_noise_sigma
    for t, parts in zip(scheduler.timesteps, said, strict=True):
        seen = scheduler.scale_model_input(x, t)
        bare = whole["unet"](seen, t, without).sample
        led = bare + sum(weight * (whole["unet"](seen, t, each).sample - bare) for weight, each in parts)
        x = scheduler.step(led, t, x).prev_sample
    return x


def drawn(whole: Model, *wanted: Request, **more: object) -> torch.Tensor:
    return pipeline.latents(whole, wanted, SamplingSettings("Euler", STEPS, 5.0, SIZE, **more))


def alike(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return float((found - expected).norm() / expected.norm()) < 1e-4


def test_prompts_change_from_step_to_step(opened: Model):
    """WebUI counts steps from 0 and takes what is said until a step inclusively: [a:b:2] of 4 is three steps of a."""
    a, b, empty = (states(opened, text) for text in ("a", "b", ""))
    edited = by_hand(opened, [[(5.0, each)] for each in (a, a, a, b)], empty)
    assert alike(drawn(opened, Request("[a:b:2]", 3)), edited)
    assert alike(drawn(opened, Request("[a:b:0.5]", 3)), edited)
    turns = by_hand(opened, [[(5.0, each)] for each in (a, a, b, a)], empty)
    assert alike(drawn(opened, Request("[a|b]", 3)), turns)
    assert not alike(drawn(opened, Request("a", 3)), turns)


def test_a_sampler_that_asks_twice_a_step_has_twice_as_many_to_count(opened: Model):
    settings = SamplingSettings("Heun", STEPS, 5.0, SIZE)
    late, never, plain = (
        pipeline.latents(opened, [Request(prompt, 3)], settings) for prompt in ("[a:b:5]", "[a:b:7]", "a")
    )
    assert torch.equal(never, plain) and not torch.equal(late, plain)


def test_prompts_are_composed_with_weights(opened: Model):
    a, b, empty = (states(opened, text) for text in ("a", "b", "c"))
    expected = by_hand(opened, [[(5.0, a), (-2.5, b)]] * STEPS, empty)
    assert alike(drawn(opened, Request("a AND b :-0.5", 3, "c")), expected)


def test_pictures_told_of_in_other_lengths_do_not_disturb_each_other(opened: Model):
    wanted = [Request("a BREAK b", 3), Request("b", 4, "a BREAK c"), Request("a AND b BREAK c", 5), Request("c", 6)]
    together = drawn(opened, *wanted, batch=4)
    for row, each in enumerate(wanted):
        assert alike(together[row : row + 1], drawn(opened, each))
    long = torch.cat([states(opened, "a", "b").flatten(0, 1)[None]])
    assert alike(together[:1], by_hand(opened, [[(5.0, long)]] * STEPS, states(opened, "")))
