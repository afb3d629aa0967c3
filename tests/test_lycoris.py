"""All that LyCORIS trains, against its own package: drawn with, merged, swapped, converted and inspected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tenshot.adapters import adapter_files, parsing
from tenshot.cli.main import main
from tenshot.core.errors import Refusal
from tenshot.model import model
from tenshot.runtime import compiled_model
from tests.test_adapter_files import run as convert
from tests.test_extract import run_resize as resize
from tests.test_merge import adapted, answers, plain
from tests.test_merge import run as merge

lycoris = pytest.importorskip("lycoris")
OFT = {"algo": "diag-oft", "linear_dim": 4, "conv_dim": 4}
BOFT = {"algo": "boft", "linear_dim": 8, "conv_dim": 8}
Given = tuple[dict[str, Any], float]
GIVEN: list[Given] = [
    ({"algo": "loha", "use_tucker": True}, 1.0), ({"algo": "loha", "rs_lora": True}, 1.0),
    ({"algo": "loha", "dora_wd": True, "every other": True}, 1.0),
    ({"algo": "lokr", "use_tucker": True, "factor": 2}, 1.0),
    ({"algo": "lokr", "dora_wd": True, "wd_on_output": False}, 1.0),
    ({"algo": "locon", "use_tucker": True}, 1.0), ({"algo": "locon", "dora_wd": True}, 1.0),
    ({"algo": "full", "train_norm": True}, 1.0),
    (OFT, 0.6), (OFT | {"constraint": 1e-3}, 1.0), (OFT | {"rescaled": True}, 0.6),
    (BOFT, 0.6), (BOFT | {"constraint": 1e-3}, 1.0), (BOFT | {"rescaled": True}, 0.6),
    ({"algo": "glora"}, 0.6), ({"algo": "ia3"}, 1.0), ({"algo": "ia3", "train_on_input": True}, 0.6),
]  # fmt: skip
#: What goes the same ways: parts of one above, its strength of 1, or a shape that test_loha_lokr.py has.
SIBLINGS: list[Given] = [
    ({"algo": "loha"}, 1.0), ({"algo": "loha", "dora_wd": True}, 1.0),
    ({"algo": "lokr"}, 0.6), ({"algo": "lokr", "decompose_both": True, "factor": 8}, 1.0),
    ({"algo": "lokr", "full_matrix": True}, 1.0), ({"algo": "locon"}, 0.6), ({"algo": "full"}, 1.0),
    ({"algo": "locon", "train_norm": True}, 0.6), (OFT, 1.0), (OFT | {"rescaled": True}, 1.0), (BOFT, 1.0),
    ({"algo": "glora"}, 1.0),
    *(({"algo": algo, "dora_wd": True, "every other": True}, 1.0) for algo in ("locon", "lokr")),
]  # fmt: skip


def trained(folder: Path, file: Path, given: dict[str, Any], multiplier: float = 1.0) -> Any:
    """A model in which LyCORIS' random modules are active, as its training has it; written as its training does.

    given: to LyCORIS; with "every other", DoRA's magnitudes stay in every other layer alone.
    """
    given = dict(given)
    thin = given.pop("every other", False)
    opened = model.load(str(folder))
    torch.manual_seed(3)
    lycoris.LycorisNetwork.apply_preset({"target_module": ["Transformer2DModel", "ResnetBlock2D", "Downsample2D"]})
    sizes = {"linear_dim": 3, "linear_alpha": 2, "conv_dim": 2, "conv_alpha": 2}
    network = lycoris.create_lycoris(opened["unet"], multiplier, **(sizes | given))
    for each in network.loras[::2] if thin else ():
        each.wd = False
        del each.dora_scale
    network.apply_to()
    named = {}
    for each in network.loras:
        with torch.no_grad():
            for parameter in each.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
        start = each.lora_name.replace("lycoris_", "lora_unet_")
        content = each.custom_state_dict() or each.state_dict()
        named |= {f"{start}.{name}": tensor.detach().clone().contiguous() for name, tensor in content.items()}
    save_file(named, file, {"ss_network_module": "lycoris.kohya"})
    return opened


@pytest.mark.parametrize(
    ("given", "multiplier"), [*GIVEN, *(pytest.param(*each, marks=pytest.mark.slow) for each in SIBLINGS)], ids=str
)
def test_the_effect_is_that_of_its_own_package(given: dict[str, Any], multiplier: float, sd1: Path, tmp_path: Path):
    file = tmp_path / "it.safetensors"
    expected = answers(trained(sd1, file, given, multiplier))  # its merge_to counts the scale of a LoHa twice
    assert (plain(sd1) - expected).abs().max() > 1e-3
    found = answers(adapted(sd1, (file, multiplier)))
    assert torch.allclose(found, expected, atol=1e-4)
    merge("--sd_model", sd1, "--models", file, "--ratios", multiplier, "--save_to", tmp_path / "merged")
    assert torch.equal(answers(model.load(str(tmp_path / "merged"))), found)


@pytest.mark.parametrize("given", [OFT | {"rescaled": True}, BOFT, {"algo": "glora"}, {"algo": "ia3"},
                                   {"algo": "full", "train_norm": True}], ids=str)  # fmt: skip
def test_other_verbs_take_it_as_it_is_or_say_why_not(
    given: dict[str, Any], sd1: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    file = tmp_path / "it.safetensors"
    trained(sd1, file, given)
    convert(file, tmp_path / "kohya.safetensors", "--form", "kohya", "--config", sd1)
    before, after = load_file(file), load_file(tmp_path / "kohya.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert main(["inspect", str(file), "--json"]) == 0
    title = {"diag-oft": "OFT", "boft": "OFT", "glora": "GLoRA", "ia3": "IA3", "full": "full"}[given["algo"]]
    assert json.loads(capsys.readouterr().out)["kinds"][title] > 10
    for verb in (
        lambda out: convert(file, out, "--form", "diffusers", "--config", sd1),
        lambda out: merge("--models", file, file, "--config", sd1, "--save_to", out),
        lambda out: resize(file, "--rank", 2, "--config", sd1, "--out", out),
    ):
        with pytest.raises(Refusal, match=title if given["algo"] != "full" else "norm"):
            verb(tmp_path / "no.safetensors")
    assert not (tmp_path / "no.safetensors").exists()


def test_a_swap_adds_the_same(sd1: Path, tmp_path: Path):
    file = tmp_path / "it.safetensors"
    trained(sd1, file, {"algo": "full", "train_norm": True})
    opened = compiled_model.load(sd1)
    opened.set_loras({file: 0.7})
    assert torch.equal(answers(opened), answers(adapted(sd1, (file, 0.7))))
    opened.clear_loras()
    assert torch.equal(answers(opened), plain(sd1))


@pytest.mark.parametrize("name", ["norm1.w_norm", "conv1.diff_b"])
def test_what_a_model_has_no_tensor_for_is_refused(name: str, sd1: Path, tmp_path: Path):
    layer, _, kind = name.partition(".")
    found = {f"lora_unet_mid_block_resnets_0_{layer}.{kind}": torch.ones(63)}
    found["lora_unet_mid_block_resnets_0_conv1.diff"] = torch.zeros(64, 64, 3, 3)
    save_file(found, tmp_path / "it.safetensors")
    with pytest.raises(Refusal, match="63"):
        adapted(sd1, (tmp_path / "it.safetensors", 1.0))
    found["lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.diff_b"] = torch.ones(64)
    save_file(found, tmp_path / "it.safetensors")
    with pytest.raises(Refusal, match=r"attn1\.to_q\.bias"):
        merge("--sd_model", sd1, "--models", tmp_path / "it.safetensors", "--save_to", tmp_path / "merged")


def test_norms_of_text_encoders_have_their_names(tmp_path: Path):
    start = "lora_te_text_model_encoder_layers_0_layer_norm1"
    save_file({f"{start}.w_norm": torch.ones(4), f"{start}.b_norm": torch.ones(4)}, tmp_path / "it.safetensors")
    found = parsing.read(adapter_files.opened(tmp_path / "it.safetensors"))
    assert found.keys() == {("text_encoder", f"encoder.layers.0.layer_norm1{end}") for end in ("", ".bias")}


def test_tensors_that_belong_to_nothing_are_refused(sd1: Path, tmp_path: Path):
    file = tmp_path / "it.safetensors"
    trained(sd1, file, {"algo": "locon"})
    named = load_file(file)
    start = next(name for name in named if "lora_up" in name).partition(".")[0]
    save_file(named | {f"{start}.diff": torch.ones(2, 2)}, file)
    with pytest.raises(Refusal, match="belong together"):
        parsing.read(adapter_files.opened(file))
