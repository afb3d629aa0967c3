"""What an adapter without its model is for: every sign is used, and where they leave it open it is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tenshot.adapters import base_model, lora, lora_keys, parsing
from tenshot.adapters.base_model import BASE
from tenshot.core.errors import Refusal
from tenshot.export import compatibility
from tenshot.families import keymaps, released
from tenshot.families.sd import SD1, SD2
from tenshot.families.sdxl import FULL
from tenshot.io import tensor_files
from tests.test_adapter_files import a_lora
from tests.test_adapter_files import run as convert
from tests.test_extract import run_resize as resize
from tests.test_inspect import told as told
from tests.test_merge import run as merge

ATTENTION = ".attn1.to_q"
Named = Mapping[str, torch.Tensor]


def factors(stem: str, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    down, up = torch.ones(1, *shape[1:]), torch.ones(shape[0], 1, *(1,) * (len(shape) - 2))
    return {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(1.0)}


def of(family: str, part: str, has: str, stem: Callable[[str], str]) -> dict[str, torch.Tensor]:
    """Factors for the layers of a released model whose name has `has`."""
    found = {layer: shape for (where, layer), shape in released.layers(family).items() if where == part}
    chosen = {stem(layer): shape for layer, shape in found.items() if has in layer and len(shape) > 1}
    return {name: tensor for layer, shape in chosen.items() for name, tensor in factors(layer, shape).items()}


def kohya(part: str, originals: Mapping[str, str] | None = None) -> Callable[[str], str]:
    return lambda layer: lora_keys.kohya(part, layer, originals)


def file_of(named: Named, file: Path, about: dict[str, str] | None = None) -> Path:
    save_file(dict(named), file, about)
    return file


XL = keymaps.unet_modules(FULL)
PLAIN = keymaps.unet_modules(SD1.released["unet"])
CASES: dict[str, tuple[Callable[[], Named], dict[str, str], str]] = {
    "xl, first text encoder": (lambda: of("sdxl", "text_encoder", "q_proj", kohya("text_encoder", XL)), {}, "sdxl"),
    "xl, self-attention": (lambda: of("sdxl", "unet", ATTENTION, kohya("unet", XL)), {}, "sdxl"),
    "xl, the middle, as it says": (
        lambda: of("sdxl", "unet", f"mid_block.attentions.0.transformer_blocks.0{ATTENTION}", kohya("unet", XL)),
        {BASE: "sdxl_base_v1-0"},
        "sdxl",
    ),
    "xl, against a header": (lambda: of("sdxl", "unet", ATTENTION, kohya("unet", XL)), {BASE: "sd_v1"}, "sdxl"),
    "sd2, text encoder": (lambda: of("sd2", "text_encoder", "q_proj", kohya("text_encoder")), {}, "sd2"),
    "sd1, text encoder": (lambda: of("sd1", "text_encoder", "q_proj", kohya("text_encoder")), {}, "sd1"),
    "sd1, self-attention, as it says": (lambda: of("sd1", "unet", ATTENTION, kohya("unet")), {BASE: "sd_v1"}, "sd1"),
    "sd2, self-attention, before XL": (lambda: of("sd2", "unet", ATTENTION, kohya("unet")), {"ss_v2": "True"}, "sd2"),
    "sd2, by its projections": (lambda: of("sd2", "unet", "proj_in", kohya("unet")), {}, "sd2"),
    "sd1, original names": (lambda: of("sd1", "unet", "attn2.to_k", kohya("unet", PLAIN)), {}, "sd1"),
    "sd1, by LyCORIS": (
        lambda: of("sd1", "unet", "attn2.to_k", lambda layer: f"lycoris_{layer.replace('.', '_')}"),
        {},
        "sd1",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_sign_is_used(case: str, tmp_path: Path):
    named, about, family = CASES[case]
    file = file_of(named(), tmp_path / "a.safetensors", about)
    resize(file, "--rank", 1, "--out", tmp_path / "b.safetensors")
    found = tensor_files.opened(tmp_path / "b.safetensors")
    assert found.metadata[BASE] == {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}[family]
    layers = parsing.read(found)
    assert layers.keys() == parsing.read(tensor_files.opened(file)).keys() <= released.layers(family).keys()
    start = {"sd1": "lora_unet_down_blocks_0", "sd2": "lora_unet_down_blocks_0", "sdxl": "lora_unet_input_blocks_4_1"}
    if "self-attention" in case or "original" in case:
        assert any(name.startswith(start[family]) for name in found.tensors)


OPEN: dict[str, tuple[Callable[[], Named], dict[str, str], str]] = {
    "sd1 or sd2": (lambda: of("sd1", "unet", ATTENTION, kohya("unet")), {}, "of Stable Diffusion 2.x, and it does not"),
    "sd1 or xl": (
        lambda: of("sd1", "text_encoder", "q_proj", lambda layer: f"text_encoder.text_model.{layer}"),
        {},
        "of Stable Diffusion XL, and it does not say",
    ),
    "no width of theirs": (lambda: factors("lora_unet_mid_block_attentions_0_proj_in", (48, 48)), {}, "ever released"),
    "flux": (lambda: factors("lora_unet_double_blocks_0_img_attn_proj", (8, 8)), {}, "Flux"),
    "flux's text encoder": (
        lambda: of("sdxl", "text_encoder", "q_proj", kohya("text_encoder", XL)),
        {BASE: "flux1"},
        "Flux",
    ),
    "a transformer": (lambda: factors("transformer.single_transformer_blocks.0.attn.to_q", (8, 8)), {}, "Flux"),
    "t5": (lambda: factors("lora_te3_encoder_block_0_layer_0_SelfAttention_q", (8, 8)), {}, "T5"),
    "cascade": (lambda: factors("lora_prior_te_text_model_encoder_layers_0_mlp_fc1", (8, 8)), {}, "Cascade"),
    "the refiner": (
        lambda: of("sdxl", "unet", ATTENTION, kohya("unet", XL)),
        {"modelspec.architecture": "stable-diffusion-xl-v1-refiner/lora"},
        "refiner",
    ),
    "blocks that nobody has": (lambda: factors("lora_unet_input_blocks_40_1_proj_in", (8, 8)), {}, "numbered as in no"),
}


@pytest.mark.parametrize("case", OPEN)
@pytest.mark.parametrize("verb", ["resize", "convert", "merge"])
def test_what_stays_open_or_is_anothers_is_refused(case: str, verb: str, tmp_path: Path):
    named, about, why = OPEN[case]
    file = file_of(named(), tmp_path / "a.safetensors", about)
    out = tmp_path / "b.safetensors"
    with pytest.raises(Refusal, match=why):
        if verb == "resize":
            resize(file, "--rank", 1, "--out", out)
        elif verb == "convert":
            convert(file, out)
        else:
            merge("--models", file, file, "--save_to", out)
    assert not out.exists()


@pytest.mark.parametrize("case", OPEN)
def test_inspect_does_not_guess(case: str, tmp_path: Path, told: Any):
    named, about, why = OPEN[case]
    found = told(file_of(named(), tmp_path / "a.safetensors", about))
    assert (found["what"], found["family"]) == ("lora", None)
    assert why in found["family_unknown"]


def test_a_model_settles_what_stays_open(sd2_v: Path, sdxl: Path, tmp_path: Path):
    file = a_lora(sd2_v, tmp_path / "a.safetensors")
    unsaid = file_of(load_file(file), tmp_path / "unsaid.safetensors")
    resize(unsaid, "--rank", 2, "--config", sd2_v, "--out", tmp_path / "b.safetensors")
    assert tensor_files.opened(tmp_path / "b.safetensors").metadata[BASE] == "sd_v2"
    with pytest.raises(Refusal, match="are not in the model"):
        resize(unsaid, "--rank", 2, "--config", sdxl, "--out", tmp_path / "c.safetensors")
    with pytest.raises(Refusal, match=r"is for Stable Diffusion 2\.x, as its header says"):
        resize(file, "--rank", 2, "--config", sdxl, "--out", tmp_path / "c.safetensors")
    assert not (tmp_path / "c.safetensors").exists()


@pytest.mark.parametrize("case", ["flux's text encoder", "xl, first text encoder"])
def test_a_header_counts_where_the_layers_would_fit_another_model(case: str, tmp_path: Path):
    """A text encoder that several models share: the layers alone would be taken."""
    named = (OPEN | CASES)[case][0]()
    said = OPEN[case][1] if case in OPEN else {BASE: "sdxl_base_v1-0"}
    source = tensor_files.opened(file_of(named, tmp_path / "a.safetensors", said))
    with pytest.raises(Refusal, match=r"Flux|is for Stable Diffusion XL"):
        parsing.read(source, SD1.released["unet"])


def test_layers_count_where_a_header_is_wrong(tmp_path: Path):
    named, about, _ = CASES["xl, against a header"]
    source = tensor_files.opened(file_of(named(), tmp_path / "a.safetensors", about))
    assert parsing.read(source, FULL)


def test_a_textual_part_by_peft_and_biases(tmp_path: Path):
    peft = of("sd2", "text_encoder", "q_proj", lambda layer: f"base_model.model.text_model.{layer}")
    biases = {"lora_unet_conv_in.diff_b": torch.ones(320)}
    for number, named in enumerate((peft, biases | CASES["sd1, original names"][0]())):
        source = tensor_files.opened(file_of(named, tmp_path / f"{number}.safetensors"))
        assert base_model.family_of(source, parsing.read(source)) is (SD2, SD1)[number]


def test_loras_of_two_families_do_not_become_one(tmp_path: Path):
    files = [
        file_of(CASES[case][0](), tmp_path / f"{number}.safetensors")
        for number, case in enumerate(("xl, self-attention", "sd2, text encoder"))
    ]
    with pytest.raises(Refusal, match=r"is for Stable Diffusion 2\.x"):
        merge("--models", *files, "--save_to", tmp_path / "both.safetensors")
    assert not (tmp_path / "both.safetensors").exists()


def test_half_an_effect_is_told_in_numbers(tmp_path: Path, told: Any):
    """diffusers' names of all layers: 282 that kohya's names would reach, of which ComfyUI knows those without to_."""
    found = of("sd1", "unet", "", lambda layer: f"unet.{layer}") | of(
        "sd1", "text_encoder", "encoder.", lambda layer: f"text_encoder.{layer}"
    )
    renamed = {
        name.replace("lora_down", "lora_A").replace("lora_up", "lora_B"): tensor
        for name, tensor in found.items()
        if not name.endswith("alpha")
    }
    why = told(file_of(renamed, tmp_path / "a.safetensors"))["not_in"]
    assert "154 of 282 layers of unet" in why["ComfyUI"] and "0 of 72 layers of text_encoder" in why["ComfyUI"]
    assert "without effect" in why["AUTOMATIC1111 and Forge"]


def test_layers_that_kohya_has_no_module_for_are_named(tmp_path: Path, told: Any):
    everything = of("sd1", "unet", "", kohya("unet"))
    said = told(file_of(everything, tmp_path / "a.safetensors"))["left_out"]
    assert "no module for 4 of 282 layers" in said and "unet.conv_in, unet.conv_out, unet.time_embedding" in said
    trained = SD1.targets("unet", "all")
    layers = [
        ("unet", layer)
        for part, layer in released.layers("sd1")
        if part == "unet" and not re.search("norm|bias", layer)
    ]
    ours = [layer for layer in layers if lora.targeted(layer[1], trained)]
    assert len(ours) == 278 and not compatibility.without_module(ours)


@pytest.mark.parametrize("rows", [True, False], ids=["by rows", "by columns"])
def test_what_programs_make_of_a_dora(rows: bool, tmp_path: Path, told: Any):
    named = dict(CASES["sd1, by LyCORIS"][0]()) | of("sd1", "unet", "attn2.to_k", kohya("unet"))
    named = {name: tensor for name, tensor in named.items() if name.startswith("lora_unet")}
    for name in [name for name in named if "lora_up" in name]:
        side = named[name].shape[0] if rows else 768
        named[name.replace("lora_up.weight", "dora_scale")] = torch.ones((side, 1) if rows else (1, side))
    found = told(file_of(named, tmp_path / "a.safetensors"))
    assert found["dora"] and all("--bake_dora" in why for why in found["not_in"].values())
    wrong = ["diffusers", "AUTOMATIC1111 and Forge", "ComfyUI"] if rows else ["diffusers"]
    assert list(found["not_in"]) == wrong


def test_webui_hides_an_xl_that_does_not_say_it(tmp_path: Path, told: Any):
    named = CASES["xl, self-attention"][0]()
    assert "not_in" not in told(file_of(named, tmp_path / "a.safetensors"))
    hidden = told(file_of(named, tmp_path / "b.safetensors", {"format": "pt"}))
    assert "hides it" in hidden["not_in"]["AUTOMATIC1111 and Forge"]


@pytest.mark.parametrize(
    "said",
    [
        {"unet.lora_alpha": "8", "unet.r": 3},
        {"unet.lora_alpha": [8], "unet.r": 3},
        {"unet.lora_alpha": 8, "unet.r": None},
        {"unet.lora_alpha": float("nan"), "unet.r": 3},
        {"unet.lora_alpha": 8, "unet.use_rslora": True},
        {"unet.lora_alpha": 8, "unet.r": 3, "unet.alpha_pattern": [1]},
        {"unet.lora_alpha": 8, "unet.r": 3, "unet.rank_pattern": {"to_q": "x"}},
        {"unet.lora_alpha": 8, "unet.r": 3, "unet.target_modules": {"a": 1}},
        [1],
        "x",
        "[" * 100_000,
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(said: Any, sd1: Path, tmp_path: Path):
    text = said if isinstance(said, str) else json.dumps(said)
    file = file_of(load_file(a_lora(sd1, tmp_path / "a.safetensors")), tmp_path / "b.safetensors", {
        "lora_adapter_metadata": text
    })  # fmt: skip
    with pytest.raises(Refusal, match="its header tells what cannot be"):
        resize(file, "--rank", 2, "--config", sd1, "--out", tmp_path / "c.safetensors")


@pytest.mark.parametrize(
    "tags", ["[" * 100_000, "[1]", '{"a": 1}', '{"a": {"b": "x"}}', '{"a": {"b": 1e999, "c": [2]}}', "null", '"x"']
)
def test_strange_tags_are_no_obstacle(tags: str, tmp_path: Path, told: Any):
    file = file_of(CASES["sd2, text encoder"][0](), tmp_path / "a.safetensors", {"ss_tag_frequency": tags})
    assert told(file)["family"] == "Stable Diffusion 2.x"
