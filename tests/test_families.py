"""What families share: conditionings, tokens, latents, and what they tell of pictures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from transformers import CLIPTokenizer

from tenshot.families import base, latents, registry, sd
from tenshot.families import sdxl as xl
from tenshot.families.base import MicroConditioning
from tenshot.families.registry import FAMILIES
from tenshot.families.sd3 import SD3


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def nested(rows: int, seed: int) -> dict[str, Any]:
    return {"a": some(rows, 3, seed=seed), "more": {"b": some(rows, 2, 2, seed=seed + 1)}}


def test_conditionings_are_put_together_by_rows():
    one, other = nested(3, 0), nested(2, 5)
    both = base.joined(one, other)
    for name, part in (("a", both), ("b", both["more"])):
        wanted = torch.cat([(each if name == "a" else each["more"])[name] for each in (one, other)])
        assert torch.equal(part[name], wanted)
    away = base.moved(both, "meta")
    assert away["a"].is_meta and away["more"]["b"].is_meta and away["more"]["b"].shape == (5, 2, 2)


def test_one_conditioning_alone_is_itself():
    one = nested(3, 0)
    assert torch.equal(base.joined(one)["more"]["b"], one["more"]["b"])
    flat = base.flattened(one)
    assert list(flat) == ["a", "more.b"] and flat["more.b"] is one["more"]["b"] and base.nested(flat) == one


@pytest.mark.parametrize(("name", "kind", "family"), [
    ("sd1", StableDiffusionPipeline, sd.SD1), ("sd2_v", StableDiffusionPipeline, sd.SD2),
    ("sdxl", StableDiffusionXLPipeline, xl.SDXL),
])  # fmt: skip
@torch.no_grad()
def test_prompts_are_encoded_as_diffusers_does(name: str, kind: Any, family: Any, request: pytest.FixtureRequest):
    pipe = kind.from_pretrained(request.getfixturevalue(name))
    prompts = ["a cat", "", "a photo of " + "very " * 90]
    found = family.encode_prompt(pipe.components, prompts)
    given = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    expected = [pipe.encode_prompt(prompt, **given) for prompt in prompts]
    torch.testing.assert_close(found["encoder_hidden_states"], torch.cat([each[0] for each in expected]))
    if family is xl.SDXL:
        pooled = found["added_cond_kwargs"]["text_embeds"]
        torch.testing.assert_close(pooled, torch.cat([each[2] for each in expected]))


@pytest.mark.parametrize("family", [sd.SD1, xl.SDXL], ids=lambda family: family.name)
def test_tokens_go_where_the_encoder_is(family: Any, sdxl: Path):
    class Encoder:
        device = torch.device("meta")

        def __call__(self, ids: torch.Tensor, **_: Any) -> Any:
            assert ids.is_meta
            states = torch.empty(len(ids), 77, 4, device="meta")
            return SimpleNamespace(last_hidden_state=states, hidden_states=[states] * 3, text_embeds=states[:, 0])

    parts = {part: Encoder() for part in family.encoders}
    parts |= {part: CLIPTokenizer.from_pretrained(sdxl / "tokenizer") for part in family.paddings}
    assert family.encode_prompt(parts, ["a", "b"])["encoder_hidden_states"].shape[:2] == (2, 77)


@torch.no_grad()
def test_a_unet_is_asked_of_latents_at_times(sd1: Path):
    unet = StableDiffusionPipeline.from_pretrained(sd1).unet
    x, t, text = some(2, 4, 8, 8), torch.tensor([5, 700]), some(2, 77, unet.config.cross_attention_dim)
    found = sd.SD1.predict(unet, x, t, {"encoder_hidden_states": text})
    assert torch.equal(found, unet(sample=x, timestep=t, encoder_hidden_states=text).sample)


@pytest.mark.parametrize("linear", [None, False, True])
@pytest.mark.parametrize("added", [None, "text_time", "image"])
def test_a_unet_is_of_one_family(linear: bool | None, added: str | None):
    found = registry.of({"use_linear_projection": linear, "addition_embed_type": added})
    assert found is {None: sd.SD2 if linear else sd.SD1, "text_time": xl.SDXL}.get(added)


def test_what_is_said_beside_the_parts():
    assert all(family.index["requires_safety_checker"] is False for family in (sd.SD1, sd.SD2))
    assert xl.SDXL.index[base.ZEROS] is True and base.ZEROS not in sd.SD1.index
    assert sd.SD1.known_widths == ((320, 640, 1280, 1280),) and SD3.known_widths == ((1536,), (2432,))
    assert [family.released["unet"].get("use_linear_projection") for family in (sd.SD1, sd.SD2, xl.SDXL)] == [
        None, True, True,
    ]  # fmt: skip


def vae(scale: float, shift: float | None) -> Any:
    return SimpleNamespace(config=SimpleNamespace(scaling_factor=scale, shift_factor=shift))


@pytest.mark.parametrize("shift", [None, 0.0609])
def test_latents_are_shifted_and_scaled(shift: float | None):
    """As diffusers' pipelines write it: (x - shift) scale, and x / scale + shift."""
    x, part = some(1, 4, 2, 2), vae(1.5305, shift)
    known = latents.normalized(part, x)
    torch.testing.assert_close(known, (x - (shift or 0)) * 1.5305)
    torch.testing.assert_close(latents.restored(part, known), x)
    torch.testing.assert_close(latents.scaled(part, x), x * 1.5305)
    assert {f(part, x.double()).dtype for f in (latents.normalized, latents.scaled)} == {torch.float32}
    assert latents.restored(part, x.double()).dtype == torch.float64
    exact = latents.normalized(part, x.half())
    torch.testing.assert_close(exact, (x.half().float() - (shift or 0)) * 1.5305, rtol=1e-6, atol=1e-7)


def test_frames_are_six_numbers_as_in_diffusers():
    frames = [MicroConditioning((3023, 600), (3, 5), (64, 96)), MicroConditioning.whole((32, 40))]
    said = {"encoder_hidden_states": some(2, 77, 4).half(), "added_cond_kwargs": {"text_embeds": some(2, 8).half()}}
    found = xl.micro_conditioned(said, frames)
    assert found["added_cond_kwargs"]["time_ids"].tolist() == [[3023, 600, 3, 5, 64, 96], [32, 40, 0, 0, 32, 40]]
    assert found["added_cond_kwargs"]["time_ids"].dtype == torch.float32
    assert found["added_cond_kwargs"]["text_embeds"] is said["added_cond_kwargs"]["text_embeds"]
    assert "time_ids" not in said["added_cond_kwargs"]
    none = xl.without_words(found)
    assert not none["encoder_hidden_states"].any() and not none["added_cond_kwargs"]["text_embeds"].any()
    assert none["added_cond_kwargs"]["time_ids"] is found["added_cond_kwargs"]["time_ids"]
    assert sd.SD1.micro_conditioned({"a": 1}, frames) == {"a": 1}


def test_what_does_not_fit_a_prompt_is_told_and_by_nobody_else(sdxl: Path, caplog: pytest.LogCaptureFixture):
    tokenizer = CLIPTokenizer.from_pretrained(sdxl / "tokenizer")
    words = " ".join("abcdefghij" * 8).split()
    assert base.overlong(tokenizer, " ".join(words[:75])) == ""
    assert base.overlong(tokenizer, " ".join(words[:76])) == words[75]
    assert base.overlong(tokenizer, " ".join(words[:78])) == " ".join(words[75:78])
    assert not caplog.records
    ids = base.tokens(tokenizer, [" ".join(words), "a"])
    assert ids.shape == (2, 77) and base.tokens(tokenizer, ["a b c"], 4).shape == (1, 4)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_model_that_lacks_nothing_is_its_family(family: Any):
    assert family.without() is family
    assert set(family.nets) == {part for part in family.parts if "tokenizer" not in part}


def test_a_model_without_its_third_encoder():
    less = SD3.without("text_encoder_3")
    gone = {"text_encoder_3", "tokenizer_3"}
    assert set(SD3.parts) - set(less.parts) == gone
    assert all(less.index[part] == [None, None] for part in gone) and less.index["image_encoder"] == [None, None]
    for table in (less.original, less.paddings, less.released):
        assert not gone & set(table)
    assert less.encoders == ("text_encoder", "text_encoder_2")


RELEASED = {  # configurations as they were published, by the fields that shapes or schedules come from
    "sd1": {
        "resolution": 512, "scaling_factor": 0.18215, "unet": (320, 640, 1280, 1280), "attention": 768,
        "encoders": {"text_encoder": (768, 3072, 12, 12)},
    },
    "sd2": {
        "resolution": 768, "scaling_factor": 0.18215, "unet": (320, 640, 1280, 1280), "attention": 1024,
        "encoders": {"text_encoder": (1024, 4096, 24, 16)},
    },
    "sdxl": {
        "resolution": 1024, "scaling_factor": 0.13025, "unet": (320, 640, 1280), "attention": 2048,
        "encoders": {"text_encoder": (768, 3072, 12, 12), "text_encoder_2": (1280, 5120, 32, 20)},
    },
}  # fmt: skip
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


@pytest.mark.parametrize("family", [sd.SD1, sd.SD2, xl.SDXL], ids=lambda family: family.name)
def test_sizes_are_those_released(family: Any):
    wanted = RELEASED[family.name]
    unet = family.released["unet"]
    assert (family.resolution, family.latents["scaling_factor"]) == (wanted["resolution"], wanted["scaling_factor"])
    assert (unet["block_out_channels"], unet["cross_attention_dim"]) == (wanted["unet"], wanted["attention"])
    assert unet["layers_per_block"] == 2
    fields = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    found = {part: tuple(family.released[part][name] for name in fields) for part in family.encoders}
    assert found == wanted["encoders"]
    schedule = family.scheduler_config
    assert {name: schedule[name] for name in SCHEDULE} == SCHEDULE
    assert (schedule["steps_offset"], schedule["set_alpha_to_one"], schedule["clip_sample"]) == (1, False, False)
    assert schedule["skip_prk_steps"]
    assert (
        family.width({part: {"hidden_size": sizes[0]} for part, sizes in wanted["encoders"].items()})
        == wanted["attention"]
    )


def test_the_unet_of_xl_as_it_was_released():
    """stabilityai/stable-diffusion-xl-base-1.0, unet/config.json: six numbers and a pooled text are added."""
    unet = xl.SDXL.released["unet"]
    assert unet["transformer_layers_per_block"] == (1, 2, 10) and unet["attention_head_dim"] == (5, 10, 20)
    assert unet["addition_time_embed_dim"] == 256 and unet["sample_size"] == 1024 // 8
    assert unet["projection_class_embeddings_input_dim"] == 6 * 256 + 1280 == 2816
    assert xl.CLIP_G["projection_dim"] == 1280
