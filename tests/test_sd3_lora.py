"""LoRAs of Stable Diffusion 3: trained, read in every form, written for diffusers and for kohya's scripts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file

from tenshot.adapters import adapter_files, base_model, lora, lora_keys, parsing
from tenshot.adapters.base_model import ARCHITECTURE, BASE
from tenshot.convert.convert import convert
from tenshot.convert.options import ConvertOptions
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.options import gather
from tenshot.families import conversion
from tenshot.families.sd3 import SD3
from tenshot.inspect.inspect import InspectOptions, inspect
from tenshot.io import tensor_files
from tenshot.merge.merge import merge
from tenshot.merge.options import MergeOptions
from tenshot.model import model
from tests.test_mmdit import GOLDEN

#: SHA-256 over `name columns rows` of each module that kohya's LoRANetwork makes (sd-scripts 48d368fa, lora_sd3.py,
#: with emb_dims), and how many.
KOHYA = {
    "3.5-medium": (271, "db2d6d5bd4bc928768b9ead4d1d40e863a9ff7068c9491d3f0f64dba1ab95b4c"),
    "3.5-large": (385, "51d586a9c09e0d6abdf3e4cecba4251a04c592455cf1277b03b49594107057de"),
}


@pytest.fixture(params=["sd3", "sd35"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def file(folder: Path, tmp_path: Path) -> Path:
    """A LoRA on every layer that one can be on, in the denoiser and both CLIPs, alpha not the rank."""
    opened = model.load(str(folder))
    torch.manual_seed(0)
    named: dict[str, torch.Tensor] = {}
    for part in (opened.family.denoiser, *opened.family.encoders):
        ends = opened.family.targets(part, "all")
        for name, module in opened[part].named_modules():
            if lora.targeted(name, ends):
                start = (
                    f"{part}.{name}"
                    if part == "transformer"
                    else f"{part}.text_model.{name.removeprefix('text_model.')}"
                )
                named[f"{start}.lora_A.weight"] = torch.randn(2, module.in_features) / 8
                named[f"{start}.lora_B.weight"] = torch.randn(module.out_features, 2) / 8
    save_file(named, tmp_path / "plain.safetensors", {"format": "pt"})
    return tmp_path / "plain.safetensors"


def run(*words: object) -> dict[str, Any]:
    return convert(gather(ConvertOptions, [str(word) for word in words]), Events())


def differences(file: Path) -> dict[Any, torch.Tensor]:
    found = parsing.low_rank(tensor_files.opened(file))
    return {layer: each.difference() for layer, each in found.items()}


def answers(net: Any, pooled: int) -> torch.Tensor:
    dice = torch.Generator().manual_seed(3)
    x, text = torch.randn(1, 16, 8, 8, generator=dice), torch.randn(1, 9, 48, generator=dice)
    with torch.no_grad():
        return net(x, text, torch.randn(1, pooled, generator=dice), torch.tensor([500.0])).sample


def test_diffusers_loads_it_with_the_same_effect(folder: Path, file: Path):
    without = {} if (folder / "text_encoder_3").is_dir() else {"text_encoder_3": None, "tokenizer_3": None}
    theirs = StableDiffusion3Pipeline.from_pretrained(folder, **without)
    plain = answers(theirs.transformer, 40)
    theirs.load_lora_weights(str(file.parent), weight_name=file.name)
    opened = model.load(str(folder))
    lora.attach(opened, lora.read(file))
    found = answers(opened.denoiser, 40)
    assert torch.allclose(found, answers(theirs.transformer, 40), atol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-3)


def test_kohyas_form_and_back(folder: Path, file: Path, tmp_path: Path):
    run(file, tmp_path / "kohya.safetensors", "--form", "kohya")
    named = load_file(tmp_path / "kohya.safetensors")
    assert "lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight" in named
    assert "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight" in named
    assert named["lora_unet_joint_blocks_0_x_block_attn_qkv.lora_up.weight"].shape == (96, 6)
    before, after = differences(file), differences(tmp_path / "kohya.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(each, after[layer]) for layer, each in before.items())


def test_merged_into_the_files_of_one_file_it_is_what_kohyas_form_says(folder: Path, file: Path, tmp_path: Path):
    """ComfyUI and kohya's scripts add the factors to the tensors of the single file, name by name."""
    run(file, tmp_path / "kohya.safetensors", "--form", "kohya")
    run(folder, tmp_path / "one.safetensors")
    plain, named = load_file(tmp_path / "one.safetensors"), load_file(tmp_path / "kohya.safetensors")
    words = ["--sd_model", folder, "--models", file, "--save_to", tmp_path / "two.safetensors"]
    merge(gather(MergeOptions, [str(word) for word in words]), Events())
    merged, start = load_file(tmp_path / "two.safetensors"), "model.diffusion_model."
    changed = 0
    for name, tensor in plain.items():
        key = f"lora_unet_{name.removeprefix(start).removesuffix('.weight').replace('.', '_')}"
        if name.startswith(start) and f"{key}.alpha" in named:
            up, down = named[f"{key}.lora_up.weight"], named[f"{key}.lora_down.weight"]
            scale = named[f"{key}.alpha"] / len(down)
            assert torch.allclose(merged[name], tensor + scale * up @ down, atol=1e-5), name
            changed += 1
    assert changed == sum(name.startswith("lora_unet_") and name.endswith(".alpha") for name in named) > 10


@pytest.mark.parametrize("name", KOHYA)
def test_kohyas_names_of_released_sizes(name: str):
    """Each is read, and says the layers that lie in it."""
    config = GOLDEN[name][0]
    wanted = conversion.skeleton(SD3Transformer2DModel, config)
    weights = [each for each in wanted if each.endswith(".weight") and len(wanted[each]) > 1]
    listed = []
    for line in conversion.DIALECTS["mmdit"].lines(config, weights):
        rows = sum(wanted[each][0] for each in line.ours)
        called = f"lora_unet_{line.theirs.removesuffix('.weight').replace('.', '_')}"
        listed.append(f"{called} {wanted[line.ours[0]][1]} {rows}")
        place = lora_keys.parse(f"{called}.lora_down.weight")
        assert place == ("transformer", line.theirs.removesuffix(".weight"), "down")
    digest = hashlib.sha256("\n".join(sorted(listed)).encode()).hexdigest()
    assert (len(listed), digest) == KOHYA[name]


@pytest.mark.parametrize("start", ["transformer.", "base_model.model.", "lora_transformer_", "diffusion_model."])
def test_other_programs_names(start: str):
    """diffusers' and peft's, OneTrainer's, and the original ones with dots."""
    layer = "transformer_blocks.3.attn.add_k_proj"
    if start == "diffusion_model.":
        layer = "joint_blocks.3.context_block.attn.qkv"
    name = layer.replace(".", "_") if start.endswith("_") else layer
    end = ".lora_A.weight" if start.endswith("model.") or start == "transformer." else ".lora_down.weight"
    assert lora_keys.parse(f"{start}{name}{end}") == ("transformer", layer, "down")


@pytest.mark.parametrize(("layer", "part"), [
    ("transformer_blocks.0.attn.to_q", "transformer"),
    ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "unet"),
    ("text_model.encoder.layers.0.self_attn.q_proj", "text_encoder"),
])  # fmt: skip
def test_a_folder_of_peft_tells_its_part_by_its_layers(layer: str, part: str, tmp_path: Path):
    factors = {"lora_A": torch.ones(2, 32), "lora_B": torch.ones(32, 2)}
    named = {f"base_model.model.{layer}.{name}.weight": tensor for name, tensor in factors.items()}
    save_file(named, tmp_path / "adapter_model.safetensors", {"format": "pt"})
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}))
    assert {where for where, _ in parsing.layers(adapter_files.opened(tmp_path))} == {part}


@pytest.mark.parametrize(("more", "variant"), [
    ({}, "medium"),
    ({"qk_norm": "rms_norm"}, "5-large"),
    ({"qk_norm": "rms_norm", "dual_attention_layers": (0,)}, "5-medium"),
])  # fmt: skip
def test_headers_name_the_variant_as_kohyas_scripts_do(more: dict[str, Any], variant: str):
    """sd-scripts 48d368fa: the model_type of sd3_utils.py is ss_base_model_version, and ends the architecture."""
    told = base_model.saying(SD3, more)
    assert told == {BASE: variant, ARCHITECTURE: f"stable-diffusion-3-{variant}/lora"}
    assert base_model.claimed({BASE: variant}) is SD3
    assert base_model.claimed({ARCHITECTURE: told[ARCHITECTURE]}) is SD3
    assert base_model.saying(SD3, said=variant) == told


def test_what_becomes_of_a_lora_names_the_variant(folder: Path, file: Path, tmp_path: Path):
    run(file, tmp_path / "kohya.safetensors", "--form", "kohya", "--config", folder)
    run(tmp_path / "kohya.safetensors", tmp_path / "back.safetensors", "--form", "diffusers")
    for name in ("kohya", "back"):
        assert (
            tensor_files.opened(tmp_path / f"{name}.safetensors").metadata[BASE]
            == {"sd3": "medium", "sd35": "5-medium"}[folder.name]
        )


def test_what_is_said_of_a_lora(file: Path, tmp_path: Path):
    """In both forms the same family, and no layer that kohya's scripts lack."""
    run(file, tmp_path / "kohya.safetensors", "--form", "kohya")
    for place in (file, tmp_path / "kohya.safetensors"):
        told = inspect(InspectOptions(file=place), Events())
        assert told["family"] == "Stable Diffusion 3" and "left_out" not in told


KINDS = {
    "loha": {"hada_w1_a": (0, 2), "hada_w1_b": (2, 1), "hada_w2_a": (0, 2), "hada_w2_b": (2, 1)},
    "lokr": {"lokr_w1": (4, 4), "lokr_w2": (-4, -4)},
    "diff": {"diff": (0, 1)},
}  # the sides of each tensor: 0 the layer's outputs, 1 its inputs, -4 a quarter of them, 2 and 4 themselves


def lycoris(named: dict[str, torch.Tensor], kind: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A file of that kind for some layers of a single file's transformer; and what it adds to which tensor."""
    dice, start = torch.Generator().manual_seed(0), "model.diffusion_model."
    layers = ("joint_blocks.0.x_block.attn.qkv", "joint_blocks.1.x_block.mlp.fc1", "final_layer.adaLN_modulation.1")
    file, added = {}, {}
    for layer in layers:
        sides = named[f"{start}{layer}.weight"].shape
        found = {}
        for name, shape in KINDS[kind].items():
            given = [side if side > 1 else sides[place] // (4 if side < 0 else 1) for place, side in enumerate(shape)]
            if kind == "loha":
                given = [2 if side == 2 else sides[side] for side in shape]
            found[name] = torch.randn(given, generator=dice) / 4
        if kind == "loha":
            change = (found["hada_w1_a"] @ found["hada_w1_b"]) * (found["hada_w2_a"] @ found["hada_w2_b"])
        else:
            change = torch.kron(found["lokr_w1"], found["lokr_w2"]) if kind == "lokr" else found["diff"]
        added[f"{start}{layer}.weight"] = change
        file |= {f"lora_unet_{layer.replace('.', '_')}.{name}": tensor for name, tensor in found.items()}
    return file, added


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_under_kohyas_names(kind: str, folder: Path, tmp_path: Path):
    """LyCORIS' formulas at alpha = rank, on the tensors of a single file."""
    run(folder, tmp_path / "one.safetensors")
    plain = load_file(tmp_path / "one.safetensors")
    named, added = lycoris(plain, kind)
    save_file(named, tmp_path / "it.safetensors", {"ss_network_module": "lycoris.kohya"})
    words = ["--sd_model", folder, "--models", tmp_path / "it.safetensors", "--save_to", tmp_path / "two.safetensors"]
    merge(gather(MergeOptions, [str(word) for word in words]), Events())
    merged = load_file(tmp_path / "two.safetensors")
    for name, tensor in plain.items():
        expected = tensor + added[name] if name in added else tensor
        assert torch.allclose(merged[name], expected, atol=1e-6), name
    again = tmp_path / "again.safetensors"
    run(tmp_path / "it.safetensors", again, "--form", "kohya")
    found = load_file(again)
    assert found.keys() == named.keys() and all(torch.equal(tensor, found[name]) for name, tensor in named.items())


def test_other_kinds_under_our_names_are_called_as_comfyui_knows_them(tmp_path: Path):
    """ComfyUI takes `lora_transformer_` and diffusers' names for the rows of what lies together there."""
    layer = "transformer_blocks.0.attn.to_k"
    pairs = {"hada_w1_a": (32, 2), "hada_w1_b": (2, 32), "hada_w2_a": (32, 2), "hada_w2_b": (2, 32)}
    named = {f"transformer.{layer}.{name}": torch.ones(shape) for name, shape in pairs.items()}
    save_file(named, tmp_path / "it.safetensors")
    run(tmp_path / "it.safetensors", tmp_path / "kohya.safetensors", "--form", "kohya")
    found = load_file(tmp_path / "kohya.safetensors")
    assert {name.partition(".")[0] for name in found} == {"lora_transformer_transformer_blocks_0_attn_to_k"}
    before, after = (parsing.layers(tensor_files.opened(tmp_path / f"{each}.safetensors")) for each in ("it", "kohya"))
    assert before.keys() == after.keys() == {("transformer", layer)}


def test_loras_for_models_of_other_sizes_are_not_merged(file: Path, tmp_path: Path):
    """Stable Diffusion 3 has several sizes, and the same names for them."""
    longer = {name: torch.cat([each, each], int("lora_A" in name)) for name, each in load_file(file).items()}
    save_file(longer, tmp_path / "longer.safetensors", {"format": "pt"})
    words = ["--models", file, tmp_path / "longer.safetensors", "--save_to", tmp_path / "two.safetensors"]
    with pytest.raises(Refusal, match="have other shapes"):
        merge(gather(MergeOptions, [str(word) for word in words]), Events())
    assert not (tmp_path / "two.safetensors").exists()
