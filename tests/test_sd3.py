"""Stable Diffusion 3 and 3.5: what the family says of them, against diffusers' own pipeline."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_sd3_t5_checkpoint_to_diffusers,
    convert_sd3_transformer_checkpoint_to_diffusers,
)

from tenshot.core.errors import Refusal
from tenshot.families import conversion, keymaps
from tenshot.families import sd3 as family
from tenshot.families.base import Family
from tenshot.families.registry import FAMILIES
from tenshot.families.sd3 import SD3
from tenshot.io.tensor_files import Lazy
from tests.test_mmdit import told

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
    found = SD3.encode_prompt(components(pipe), PROMPTS)
    assert torch.equal(found["encoder_hidden_states"], expected)
    assert torch.equal(found["pooled_projections"], pooled)
    t5 = expected[:, 77:]
    assert expected.shape == (3, 77 + 256, 48) and bool((t5 == 0).all()) == (pipe.text_encoder_3 is None)


@torch.no_grad()
def test_one_time_for_all_rows_or_one_a_row(pipe: Any):
    conditioning = SD3.encode_prompt(components(pipe), PROMPTS)
    x = torch.randn(3, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = pipe.transformer(x, *conditioning.values(), torch.full((3,), 250.0)).sample
    for t in (250.0, torch.tensor(250.0), torch.full((3,), 250.0)):
        assert torch.equal(family.predict(pipe.transformer, x, t, conditioning), expected)


@pytest.mark.parametrize(("t5", "wanted"), [({}, 48), ({"text_encoder_3": {"d_model": 40}}, 40)])
def test_the_width_of_the_text(t5: dict[str, Any], wanted: int):
    clips = {"text_encoder": {"hidden_size": 16}, "text_encoder_2": {"hidden_size": 24}}
    assert family.width({**clips, **t5, "transformer": {"joint_attention_dim": 48}}) == wanted
    assert family.width({**clips, "transformer": {"joint_attention_dim": 39}}) == 40  # it does not fit


def parts_of(pipe: Any) -> tuple[dict[str, dict[str, Lazy]], dict[str, dict[str, Any]]]:
    """A pipeline's tensors and configurations, by part."""
    nets = {name: part for name, part in components(pipe).items() if isinstance(part, torch.nn.Module)}
    configs = {
        name: net.config.to_dict() if hasattr(net.config, "to_dict") else told(net) for name, net in nets.items()
    }
    named = {
        name: {
            each.removeprefix("text_model."): Lazy(tuple(tensor.shape), tensor.dtype, tensor.clone)
            for each, tensor in conversion.untied(net).items()
        }
        for name, net in nets.items()
    }
    return named, configs


def of(pipe: Any) -> Family:
    return SD3 if pipe.text_encoder_3 is not None else SD3.without("text_encoder_3")


def test_one_file_and_back(pipe: Any):
    named, configs = parts_of(pipe)
    file, _ = conversion.to_original(of(pipe), named, configs)
    found = conversion.recognised(file, [*FAMILIES, SD3])
    assert found is not None and found.parts == of(pipe).parts
    back, ledger = conversion.to_parts(found, file, configs)
    assert (ledger.used, ledger.left) == (len(file), {})
    assert back.keys() == named.keys()
    for part, content in named.items():
        assert back[part].keys() == content.keys()
        assert all(torch.equal(lazy.read(), back[part][name].read()) for name, lazy in content.items())


def test_diffusers_converters_read_what_was_written(pipe: Any):
    named, configs = parts_of(pipe)
    lazy, _ = conversion.to_original(of(pipe), named, configs)
    file = {name: each.read() for name, each in lazy.items()}
    read = {
        "transformer": convert_sd3_transformer_checkpoint_to_diffusers(under(file, "model.diffusion_model.")),
        "vae": convert_ldm_vae_checkpoint({**file}, configs["vae"]),
        "text_encoder": convert_ldm_clip_checkpoint({**file}, "text_encoders.clip_l.transformer."),
        "text_encoder_2": convert_ldm_clip_checkpoint({**file}, "text_encoders.clip_g.transformer."),
        "text_encoder_3": convert_sd3_t5_checkpoint_to_diffusers(file),
    }
    for part, content in named.items():
        found = {name.removeprefix("text_model."): tensor for name, tensor in read[part].items()}
        if part == "text_encoder":  # diffusers puts the identity there
            content.pop("text_projection.weight")
        assert found.keys() == content.keys()
        assert all(torch.equal(each.read(), found[name]) for name, each in content.items())


def under(file: dict[str, torch.Tensor], start: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in file.items() if name.startswith(start)}


def test_a_file_tells_its_sizes(pipe: Any):
    named, configs = parts_of(pipe)
    file, _ = conversion.to_original(of(pipe), named, configs)
    heads = {"transformer": {"attention_head_dim": 16, "num_attention_heads": 2}, "vae": {"norm_num_groups": 8}}
    found = conversion.configured(of(pipe), file, heads)
    for part, content in named.items():
        assert conversion.skeleton(of(pipe).parts[part], found[part]) == {
            name: each.shape for name, each in content.items()
        }
    found = conversion.configured(of(pipe), file, {})
    assert (found["vae"]["scaling_factor"], found["vae"]["shift_factor"]) == (1.5305, 0.0609)
    assert not found["vae"]["use_quant_conv"]
    assert [found[f"text_encoder{each}"]["hidden_act"] for each in ("", "_2")] == ["quick_gelu", "gelu"]


def test_a_projection_that_readers_of_one_file_do_not_make_is_refused(pipe: Any):
    pipe.text_encoder.text_projection.weight.data[0, 1] = 0.5
    with pytest.raises(Refusal, match="text_projection"):
        conversion.to_original(of(pipe), *parts_of(pipe))


def test_files_as_comfyui_wrote_them_have_more(pipe: Any):
    """CLIP-L's projection, which nothing reads, and T5's words a second time."""
    named, configs = parts_of(pipe)
    file, _ = conversion.to_original(of(pipe), named, configs)
    more = {"text_encoders.clip_l.transformer.text_projection.weight": "", "text_encoders.clip_g.logit_scale": ""}
    if pipe.text_encoder_3 is not None:
        more["text_encoders.t5xxl.transformer.encoder.embed_tokens.weight"] = ""
    some = Lazy((1,), torch.float32, lambda: torch.zeros(1))
    back, ledger = conversion.to_parts(of(pipe), {**file, **dict.fromkeys(more, some)}, configs)
    assert ledger.left.keys() == more.keys()
    assert torch.equal(back["text_encoder"]["text_projection.weight"].read(), torch.eye(16))


@pytest.mark.parametrize("part", SD3.released)
def test_released_sizes_are_read_off_their_shapes(part: str):
    kind, config = SD3.parts[part], SD3.released[part]
    root, dialect = SD3.original[part]
    wanted = conversion.skeleton(kind, config)
    table = conversion.lines(SD3, part, config, wanted)
    shapes = {
        line.theirs.removeprefix(root): keymaps.shape_of(line.form, [wanted[each] for each in line.ours])
        for line in table
    }
    found = conversion.DIALECTS[dialect].config(shapes)
    assert conversion.skeleton(kind, found) == wanted
    assert {name: value for name, value in config.items() if found.get(name) != value} == {}


def test_sizes_are_those_that_were_released():
    """Of stabilityai/stable-diffusion-3-medium's and google/t5-v1_1-xxl's config.json, and what kohya's scripts say."""
    transformer, t5 = SD3.released["transformer"], SD3.released["text_encoder_3"]
    assert (SD3.name, SD3.title, SD3.resolution) == ("sd3", "Stable Diffusion 3", 1024)
    heads, layers = transformer["num_attention_heads"], transformer["num_layers"]
    assert (layers, heads, transformer["caption_projection_dim"]) == (24, 24, 1536)
    assert (transformer["joint_attention_dim"], transformer["pos_embed_max_size"]) == (4096, 192)
    assert SD3.widths(transformer) == (1536,) and SD3.widths({"num_attention_heads": 3, "attention_head_dim": 5}) == (
        15,
    )
    assert SD3.known_widths == ((1536,), (2432,))
    assert [t5[name] for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")] == [
        32128, 4096, 64, 10240, 24, 64,
    ]  # fmt: skip
    assert (SD3.scheduler_config["num_train_timesteps"], SD3.scheduler_config["shift"]) == (1000, 3.0)
    assert SD3.fits({})
    variants = [{}, {"qk_norm": "rms_norm", "dual_attention_layers": [0, 1]}, {"qk_norm": "rms_norm"}]
    assert [SD3.variant(each) for each in variants] == ["medium", "5-medium", "5-large"]
    assert SD3.kohya.original is not None
    assert SD3.kohya.original.module_of("proj_out", 64, 1536) == ("final_layer.linear", "same", 0)


@torch.no_grad()
def test_text_encoders_may_be_elsewhere_and_in_another_type(sd35: Path):
    parts = components(StableDiffusion3Pipeline.from_pretrained(sd35))
    wanted = SD3.encode_prompt(parts, PROMPTS)
    parts["text_encoder_3"] = parts["text_encoder_3"].double()
    found = SD3.encode_prompt(parts, PROMPTS)
    assert {name: tensor.dtype for name, tensor in found.items()} == dict.fromkeys(wanted, torch.float32)
    torch.testing.assert_close(found, wanted)
    asked: list[str] = []
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        parts[name].to("meta").register_forward_pre_hook(lambda net, given: asked.append(given[0].device.type))
    assert {tensor.device.type for tensor in SD3.encode_prompt(parts, PROMPTS).values()} == {"meta"}
    assert asked == ["meta"] * 3


def test_t5_is_not_told_words_that_clip_has_learned():
    added = {"<|end|>": 1, "zaz": 2, "zaz_1": 3}
    clip: Any = SimpleNamespace(get_added_vocab=lambda: added, all_special_tokens=["<|end|>"])
    assert family.said_to_t5(clip, ["a zaz_1 zaz toy <|end|>", "zaz"]) == ["a toy <|end|>", ""]
    clip.all_special_tokens = [*added]
    assert family.said_to_t5(clip, ["a zaz toy"]) == ["a zaz toy"]
