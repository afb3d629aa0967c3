"""Stable Diffusion 3 and 3.5: what the family says of them, against diffusers' own pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from tenshot.families import sd3 as family

PROMPTS = ["a cat", "", "a photo of " + "very " * 90 + "small things"]  # the last is longer than CLIP reads


@pytest.fixture(params=["sd3", "sd35"])
def pipe(request: pytest.FixtureRequest) -> Any:
    folder: Path = request.getfixturevalue(request.param)
    without = {} if (folder / "text_encoder_3").is_dir() else {"text_encoder_3": None, "tokenizer_3": None}
    found = StableDiffusion3Pipeline.from_pretrained(folder, **without)
    found.set_progress_bar_config(disable=True)
    return found


def components(pipe: Any) -> dict[str, Any]:
    return {name: part for name, part in pipe.components.items() if part is not None}


@torch.no_grad()
def test_prompts_are_encoded_as_diffusers_does(pipe: Any):
    expected, _, pooled, _ = pipe.encode_prompt(PROMPTS, PROMPTS, PROMPTS, do_classifier_free_guidance=False)
    found = family.condition(components(pipe), PROMPTS)
    assert torch.equal(found["encoder_hidden_states"], expected)
    assert torch.equal(found["pooled_projections"], pooled)
    t5 = expected[:, 77:]
    assert expected.shape == (3, 77 + 256, 48) and bool((t5 == 0).all()) == (pipe.text_encoder_3 is None)


@torch.no_grad()
def test_one_time_for_all_rows_or_one_a_row(pipe: Any):
    conditioning = family.condition(components(pipe), PROMPTS)
    x = torch.randn(3, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = pipe.transformer(x, *conditioning.values(), torch.full((3,), 250.0)).sample
    for t in (250.0, torch.tensor(250.0), torch.full((3,), 250.0)):
        assert torch.equal(family.predict(pipe.transformer, x, t, conditioning), expected)


@pytest.mark.parametrize(("t5", "wanted"), [({}, 48), ({"text_encoder_3": {"d_model": 40}}, 40)])
def test_the_width_of_the_text(t5: dict[str, Any], wanted: int):
    clips = {"text_encoder": {"hidden_size": 16}, "text_encoder_2": {"hidden_size": 24}}
    assert family.width({**clips, **t5, "transformer": {"joint_attention_dim": 48}}) == wanted
    assert family.width({**clips, "transformer": {"joint_attention_dim": 39}}) == 40  # it does not fit
