"""What a person would have in ComfyUI's folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from tenshot.bench.sizes import random_model
from tenshot.cli.main import main as command
from tenshot.families import keymaps
from tenshot.io.text_files import read_json
from tenshot.model import model
from tests import artifacts
from tests.comfyui_server import NODE, ROOT
from tests.test_controlnet import a_controlnet
from tests.test_swap import a_lora


def wide(folder: Path) -> Path:
    """By its widths a Stable Diffusion 1.5 to ComfyUI, with a UNet that is no wider deeper down; random weights."""
    found = random_model("sd15", torch.device("cpu"))
    torch.manual_seed(0)
    unet = UNet2DConditionModel(sample_size=16, cross_attention_dim=768, block_out_channels=(320,) * 4).eval()
    model.save(found.with_parts(unet=unet), folder)
    return folder


def make(folder: Path, place: Path | None = None) -> None:
    """Checkpoints, LoRAs, a ControlNet, and a compiled model, all of that at `place`, or else of a `wide` one."""
    if (folder / "made").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("checkpoints", "loras", "controlnet", "tenshot"):
        (folder / "models" / name).mkdir(parents=True)
    for name in ("input", "custom_nodes", "output", "page"):
        (folder / name).mkdir()
    (folder / "custom_nodes/tenshot").symlink_to(NODE)
    for name in ("compare", "pocket") if place else ("compare",):
        (folder / f"custom_nodes/comfyui_{name}.py").symlink_to(ROOT / f"tests/comfyui_{name}.py")
    place = place or wide(folder / "wide")
    checkpoints(place, folder / "models/checkpoints")
    for seed, name in enumerate("ab"):
        ours = a_lora(place, folder / f"{name}.safetensors", seed, 4, ("to_q", "to_v", "ff.net.2", "conv1"))
        assert command(["convert", str(ours), "--to", "comfyui", str(folder), "--config", str(place)]) == 0
    net = a_controlnet(folder / "edges", place)
    held, config = load_file(next(net.glob("*.safetensors"))), read_json(net / "config.json")
    lines = keymaps.controlnet(config, held)
    theirs = {line.theirs: keymaps.theirs_of(line.form, [held[name] for name in line.ours]) for line in lines}
    save_file(
        {name: each.contiguous() for name, each in theirs.items()}, folder / "models/controlnet/edges.safetensors"
    )
    picture = Image.new("RGB", (128, 128))
    ImageDraw.Draw(picture).ellipse((30, 30, 98, 98), outline="white", width=3)
    picture.save(folder / "input/edges.png")
    sections = ("unet", "unet_controlled")
    artifacts.made(place, folder / "models/tenshot/fast", sections=sections, controlnet=net)
    (folder / "made").touch()


def checkpoints(place: Path, folder: Path) -> None:
    """The model as one file, and another fine-tune of it."""
    assert command(["convert", str(place), str(folder / "model.safetensors")]) == 0
    dice = torch.Generator().manual_seed(7)
    tuned = {
        name: tensor * (1 + 0.05 * torch.randn(tensor.shape, generator=dice)) if "diffusion_model" in name else tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    save_file(tuned, folder / "tuned.safetensors")
