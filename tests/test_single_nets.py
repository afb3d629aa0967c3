"""Files with one net, under either program's names; and files that are part of a model, which never pass for one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, SD3Transformer2DModel, UNet2DConditionModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tenshot.cli.main import main
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.inspect.inspect import InspectOptions, inspect
from tenshot.model import checkpoint, single_nets
from tenshot.model.model import load as load_model
from tests import test_mmdit

WIDE = {"block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 16}
DOWN = ("CrossAttnDownBlock2D", "DownBlock2D")
BIG = {"use_linear_projection": True, "attention_head_dim": (1, 1)}
LABEL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 1600,
}
DUAL = test_mmdit.DUAL
SMALL = {name: value for name, value in test_mmdit.SMALL.items() if name != "sample_size"}
SMALL |= {"attention_head_dim": 64, "num_attention_heads": 1, "caption_projection_dim": 64}
MAKERS: dict[str, Callable[[], Any]] = {
    "vae": lambda: AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 32, 64),
    ),
    "unet": lambda: UNet2DConditionModel(
        **WIDE, down_block_types=DOWN, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")
    ),
    "inpainting": lambda: UNet2DConditionModel(
        **WIDE, in_channels=9, down_block_types=DOWN, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")
    ),
    "xl": lambda: UNet2DConditionModel(
        **WIDE,
        **BIG,
        **LABEL,
        down_block_types=DOWN[::-1],
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
    ),
    "mmdit": lambda: SD3Transformer2DModel(**SMALL, sample_size=128),
    "mmdit 3.5": lambda: SD3Transformer2DModel(**SMALL, sample_size=128, **DUAL),
    "controlnet": lambda: ControlNetModel(
        **WIDE, down_block_types=DOWN, conditioning_embedding_out_channels=(16, 32, 96)
    ),
}


@pytest.fixture(scope="module", params=MAKERS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A net, and the folder that diffusers wrote of it."""
    torch.manual_seed(0)
    net = MAKERS[request.param]().eval()
    folder = tmp_path_factory.mktemp("nets") / request.param
    net.save_pretrained(folder)
    return net, folder


def same(folder: Path, net: Any) -> bool:
    """What diffusers opens is the net, also in what no tensor says."""
    opened = type(net).from_pretrained(folder)
    told, wanted = ({k: v for k, v in each.config.items() if k[0] != "_"} for each in (opened, net))
    other = {name for name in wanted if str(told[name]).strip("([])") != str(wanted[name]).strip("([])")}
    assert other <= {
        "transformer_layers_per_block",
        "block_out_channels",
        "down_block_types",
        "up_block_types",
        "sample_size",
    }
    return all(torch.equal(a, b) for a, b in zip(opened.state_dict().values(), net.state_dict().values(), strict=True))


NAMES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors", "x.safetensors")


@pytest.mark.parametrize(
    ("made", "name"),
    [
        pytest.param(net, name, marks=() if net in ("vae", "unet") or name == NAMES[-1] else pytest.mark.slow)
        for net, name in product(MAKERS, NAMES)
    ],
    indirect=["made"],
    scope="module",
)
def test_diffusers_own_names_alone(name: str, made: tuple[Any, Path], tmp_path: Path) -> None:
    net, folder = made
    file = tmp_path / "in" / name
    file.parent.mkdir()
    shutil.copyfile(folder / "diffusion_pytorch_model.safetensors", file)
    assert inspect(InspectOptions(file=file), Events())["what"] == type(net).__name__
    assert main(["convert", str(file), str(tmp_path / "folder")]) == 0
    assert same(tmp_path / "folder", net)
    assert main(["convert", str(file.parent if name[0] == "d" else file), str(tmp_path / "original.safetensors")]) == 0
    assert main(["convert", str(tmp_path / "original.safetensors"), str(tmp_path / "back")]) == 0
    assert same(tmp_path / "back", net)
    save_file(load_file(tmp_path / "original.safetensors"), tmp_path / "bare.safetensors")  # without what we say in it
    assert main(["convert", str(tmp_path / "bare.safetensors"), str(tmp_path / "again")]) == 0
    assert same(tmp_path / "again", net)


def test_a_denoiser_of_original_names_behind_their_root(made: tuple[Any, Path], tmp_path: Path) -> None:
    """As files for ComfyUI's models/diffusion_models have them."""
    net, folder = made
    if isinstance(net, AutoencoderKL | ControlNetModel):
        pytest.skip("is no denoiser")
    assert main(["convert", str(folder), str(tmp_path / "bare.safetensors")]) == 0
    named = load_file(tmp_path / "bare.safetensors")
    root = "model.diffusion_model."
    assert all(name.startswith(root) for name in named)
    save_file({name.removeprefix(root): tensor for name, tensor in named.items()}, tmp_path / "rootless.safetensors")
    for name in ("bare", "rootless"):
        file = tmp_path / f"{name}.safetensors"
        assert inspect(InspectOptions(file=file), Events())["what"] == type(net).__name__
        assert main(["convert", str(file), str(tmp_path / name)]) == 0
        assert same(tmp_path / name, net)
    (tmp_path / "ui" / "models").mkdir(parents=True)
    assert main(["convert", str(folder), "--to", "comfyui", str(tmp_path / "ui"), "--name", "it"]) == 0
    assert load_file(tmp_path / "ui/models/diffusion_models/it.safetensors").keys() == named.keys()


def test_what_belongs_to_something_else_is_not_dropped(made: tuple[Any, Path], tmp_path: Path) -> None:
    _, folder = made
    named = load_file(folder / "diffusion_pytorch_model.safetensors")
    save_file(named | {"something.else": torch.zeros(2)}, tmp_path / "more.safetensors")
    assert main(["convert", str(tmp_path / "more.safetensors"), str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def file(
    sd1: Path, sdxl: Path, sd3: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of whole checkpoints."""
    place = tmp_path_factory.mktemp("files")
    found = {}
    for name, folder in (("sd1", sd1), ("sdxl", sdxl), ("sd3", sd3)):
        assert main(["convert", str(folder), str(place / f"{name}.safetensors")]) == 0
        found[name] = load_file(place / f"{name}.safetensors")
    return found


Named = dict[str, torch.Tensor]


def without(named: Named, *starts: str) -> Named:
    return {name: tensor for name, tensor in named.items() if not name.startswith(starts)}


def renamed(named: Named, old: str, new: str) -> Named:
    return {new + name.removeprefix(old) if name.startswith(old) else name: tensor for name, tensor in named.items()}


def averaged(named: Named) -> Named:
    """The running average alone."""
    unet = "model.diffusion_model."
    return {
        f"model_ema.{name.removeprefix('model.').replace('.', '')}" if name.startswith(unet) else name: tensor
        for name, tensor in named.items()
    }


PARTIAL: dict[str, tuple[str, Callable[[Named], Named], str]] = {
    "without a VAE": ("sd1", lambda n: without(n, "first_stage_model."), "Stable Diffusion 1.x, without VAE"),
    "without text encoder": ("sd1", lambda n: without(n, "cond_stage_model."), "without text encoder"),
    "XL without a VAE": ("sdxl", lambda n: without(n, "first_stage_model."), "Stable Diffusion XL, without VAE"),
    "XL without text encoders": ("sdxl", lambda n: without(n, "conditioner."), "XL, without text encoders"),
    "XL with one of them": ("sdxl", lambda n: without(n, "conditioner.embedders.1."), "XL, without text encoders"),
    "without UNet": ("sd1", lambda n: without(n, "model.diffusion_model."), "without UNet"),
    "the average alone": ("sd1", averaged, "without UNet"),
    "the average and nothing else": (
        "sd1",
        lambda n: without(averaged(n), "first_stage_model.", "cond_stage_model."),
        "without UNet and VAE and text encoder",
    ),
    "a refiner without its text encoder": (
        "sdxl",
        lambda n: without(n, "conditioner.") | {"model.diffusion_model.label_emb.0.0.weight": torch.zeros(8, 2560)},
        "Stable Diffusion XL refiner",
    ),
    "3 without a VAE": ("sd3", lambda n: without(n, "first_stage_model."), "Stable Diffusion 3, without vae"),
    "refiner": (
        "sdxl",
        lambda n: renamed(
            without(n, "conditioner.embedders.0."), "conditioner.embedders.1.", "conditioner.embedders.0."
        ),
        "Stable Diffusion XL refiner",
    ),
    "3 without text encoders": ("sd3", lambda n: without(n, "text_encoders."), "3, without text_encoder and"),
    "Flux": (
        "sd1",
        lambda n: without(n, "cond_stage_model.", "model.") | {"double_blocks.0.img_attn.qkv.weight": torch.zeros(1)},
        "Flux",
    ),
    "a ControlNet inside": (
        "sd1",
        lambda n: (
            without(n, "cond_stage_model.", "model.") | {"control_model.input_hint_block.0.weight": torch.zeros(1)}
        ),
        "without UNet and text encoder",
    ),
}


@pytest.mark.parametrize("ema", (False, True))
@pytest.mark.parametrize(("family", "change", "says"), PARTIAL.values(), ids=PARTIAL)
def test_a_part_is_not_the_whole(
    family: str, change: Callable[[Named], Named], says: str, ema: bool, file: dict[str, Named], tmp_path: Path, capsys
) -> None:
    source, out = tmp_path / "part.safetensors", tmp_path / "out"
    save_file(change(file[family]), source)
    assert main(["convert", str(source), str(out), *(["--ema"] if ema else []), "--json"]) == 2
    (fault,) = json.loads(capsys.readouterr().out)["faults"]
    assert says in fault["found"] and fault["do"]
    assert main(["generate", "--model", str(source), "--prompt", "x", "--out", str(out / "x.png"), "--json"]) == 2
    assert says in json.loads(capsys.readouterr().out)["faults"][0]["found"]
    assert not out.exists()
    assert says in inspect(InspectOptions(file=source), Events())["what"]


def test_nets_of_another_kind_are_refused(made: tuple[Any, Path]) -> None:
    net, folder = made
    other = AutoencoderKL if not isinstance(net, AutoencoderKL) else UNet2DConditionModel
    with pytest.raises(Refusal, match=type(net).__name__):
        single_nets.read(folder, kind=other)
    assert single_nets.read(folder, kind=type(net)).content


@pytest.fixture(scope="module")
def vae(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with another VAE of the same size."""
    folder = tmp_path_factory.mktemp("vae") / "vae"
    net = AutoencoderKL.from_pretrained(sd1 / "vae")
    with torch.no_grad():
        net.decoder.conv_out.bias += 0.5
    net.save_pretrained(folder)
    return folder


def test_a_vae_completes_a_checkpoint(sd1: Path, vae: Path, tmp_path: Path, pictures: Path) -> None:
    bare, alone = tmp_path / "bare.safetensors", tmp_path / "vae.safetensors"
    assert main(["convert", str(sd1), str(tmp_path / "sd1.safetensors")]) == 0
    with safe_open(tmp_path / "sd1.safetensors", "pt") as whole:
        told = json.loads(whole.metadata()["tenshot"])
    del told["configs"]["vae"]
    named = without(load_file(tmp_path / "sd1.safetensors"), "first_stage_model.")
    save_file(named, bare, {"tenshot": json.dumps(told)})
    assert main(["convert", str(vae), str(alone)]) == 0
    wanted = load_file(vae / "diffusion_pytorch_model.safetensors")
    for number, given in enumerate((vae, alone)):
        out = tmp_path / f"folder{number}"
        assert main(["convert", str(bare), str(out), "--vae", str(given)]) == 0
        found = load_file(out / "vae" / "diffusion_pytorch_model.safetensors")
        assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in found)
        config = json.loads((out / "vae" / "config.json").read_text())
        assert config["scaling_factor"] == 0.18215
    draw = ["--prompt", "a cat", "--steps", "1", "--seed", "1"]
    for name, model in (("bare", bare), ("folder", sd1), ("whole", out)):
        more = [] if name == "whole" else ["--vae", str(alone)]
        assert main(["generate", "--model", str(model), *more, *draw, "--out", str(tmp_path / f"{name}.png")]) == 0
    shown = [Image.open(tmp_path / f"{name}.png").tobytes() for name in ("bare", "folder", "whole")]
    assert shown[0] == shown[1] == shown[2]
    assert main(["generate", "--model", str(sd1), *draw, "--out", str(tmp_path / "own.png")]) == 0
    assert Image.open(tmp_path / "own.png").tobytes() != shown[0]
    lora = ["--instance_data_dir", str(pictures), "--instance_prompt", "a photo of az cat", "--max_train_steps", "1"]
    lora += ["--device", "cpu", "--report_to", "none", "--output_dir", str(tmp_path / "lora")]
    assert main(["train", "lora", "--pretrained_model_name_or_path", str(bare), "--vae", str(vae), *lora]) == 0
    merged = ["--models", str(tmp_path / "lora"), "--save_to", str(tmp_path / "merged.safetensors")]
    assert main(["merge", "--sd_model", str(bare), "--vae", str(vae), *merged]) == 0


@pytest.mark.parametrize(
    ("family", "gone"), [("sd1", "cond_stage_model."), ("sd3", "text_encoders."), ("sdxl", "conditioner.")]
)
def test_a_model_completes_a_part_of_a_checkpoint(
    family: str, gone: str, file: dict[str, Named], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Stability's own sd3.5_large.safetensors has no text encoders."""
    folder: Path = request.getfixturevalue(family)
    save_file(without(file[family], gone), tmp_path / "part.safetensors")
    named = without(file[family], gone, "first_stage_model.")
    save_file(named, tmp_path / "alone.safetensors")
    with_vae = ["--vae", str(folder / "vae")]
    for name, more in (("part", []), ("alone", with_vae)):
        words = [str(tmp_path / f"{name}.safetensors"), str(tmp_path / name), "--config", str(folder), *more]
        assert main(["convert", *words]) == 0
        before, after = (checkpoint.read(each) for each in (folder, tmp_path / name))
        assert before.shapes == after.shapes and before.family.name == after.family.name
        for part, content in before.parts.items():
            assert all(torch.equal(lazy.read(), after.parts[part][each].read()) for each, lazy in content.items())
        assert load_model(str(tmp_path / name)).encode_prompt(["a cat"])
    # A denoiser alone stays one, unless a VAE is given as well.
    words = [str(tmp_path / "alone.safetensors"), str(tmp_path / "net"), "--config", str(folder)]
    assert main(["convert", *words]) == 0
    assert not (tmp_path / "net" / "model_index.json").exists() and (tmp_path / "net" / "config.json").is_file()


def test_what_is_no_vae_is_refused(sd1: Path, made: tuple[Any, Path], tmp_path: Path, capsys) -> None:
    net, folder = made
    if isinstance(net, AutoencoderKL):
        pytest.skip("is one")
    line = ["generate", "--model", str(sd1), "--prompt", "x", "--vae", str(folder), "--out", str(tmp_path / "x.png")]
    assert main([*line, "--json"]) == 2
    assert type(net).__name__ in json.loads(capsys.readouterr().out)["faults"][0]["found"]
