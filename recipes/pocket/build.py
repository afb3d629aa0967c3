"""Make the pocket model: `python -m recipes.pocket.build [STAGE ...]`. Stopped at any moment, it continues.

With --onward every stage begins at the weights that ship instead of at random ones.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
import yaml
from diffusers import AutoencoderKL
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from recipes.pocket import autoencoder, bar, finish, pair, sprites, unet, words
from tenshot.core.events import EventGroup, Events
from tenshot.core.options import resolve
from tenshot.io import tensors
from tenshot.model import model
from tenshot.train.engine import loop
from tenshot.train.engine.trackers import LossLog
from tenshot.train.options import LoopOptions

STAGES = ("autoencoder", "pair", "unet", "finish", "bar")
ASSETS = model.ASSETS
WEIGHTS = "diffusion_pytorch_model.safetensors"


class Printed(Events):
    """A line now and then."""

    def step(self, step: int, **figures: float) -> None:
        if step % 50 == 0:
            print(step, " ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)


def stage_options(name: str, folder: Path) -> LoopOptions:
    table = yaml.safe_load(Path(__file__).with_name("pocket.yaml").read_text())
    return resolve(LoopOptions, table[name] | {"output_dir": folder / name})


def fit(method: loop.TrainingTask, options: LoopOptions) -> None:
    loop.fit(method, options, EventGroup(Printed(), LossLog(options.output_dir / "loss.jsonl")))


def words_of(folder: Path) -> tuple[CLIPTokenizer, CLIPTextModel]:
    tokenizer = CLIPTokenizer.from_pretrained(folder / "pocket" / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "pocket" / "text_encoder", torch_dtype=torch.float32)
    return tokenizer, encoder.eval()


def start_at(net: nn.Module, file: Path) -> None:
    """Begin with the weights in `file`, if it is there; what it does not name stays."""
    if file.is_file():
        net.load_state_dict({**net.state_dict(), **tensors.read(file)})


def build_autoencoder(folder: Path) -> None:
    drawn = sprites.load(folder / "data")
    options = stage_options("autoencoder", folder)
    method = autoencoder.Autoencoder(drawn, options.seed)
    start_at(method.net, folder / "pocket" / "vae" / WEIGHTS)
    fit(method, options)
    autoencoder.finish(method.net.eval(), drawn, options.seed).save_pretrained(folder / "pocket" / "vae")


def build_pair(folder: Path) -> None:
    drawn = sprites.load(folder / "data")
    options = stage_options("pair", folder)
    tokenizer = words.tokenizer(drawn, folder / "pocket" / "tokenizer")
    method = pair.Contrast(drawn, tokenizer, options.seed)
    start_at(method.net.words, folder / "pocket" / "text_encoder" / "model.safetensors")
    start_at(method.net, folder / "judge.safetensors")
    fit(method, options)
    method.net.words.save_pretrained(folder / "pocket" / "text_encoder")
    tensors.write(folder / "judge.safetensors", method.net.state_dict())


def build_unet(folder: Path) -> None:
    drawn = sprites.load(folder / "data")
    options = stage_options("unet", folder)
    vae = AutoencoderKL.from_pretrained(folder / "pocket" / "vae").eval()
    tokenizer, encoder = words_of(folder)
    scenes = unet.scenes(drawn, options.seed)
    latents = unet.encode(vae, drawn, scenes)
    method = unet.Denoiser(drawn, latents, scenes, (tokenizer, encoder), options.seed)
    start_at(method.net, folder / "pocket" / "unet" / WEIGHTS)
    fit(method, options)
    method.net.save_pretrained(folder / "pocket" / "unet")
    encoder.save_pretrained(folder / "pocket" / "text_encoder")


def build_finish(folder: Path) -> None:
    finish.pocket(folder / "pocket", ASSETS)
    finish.judge(folder / "judge.safetensors", ASSETS)
    finish.subjects(sprites.load(folder / "data"), ASSETS)


def build_bar(folder: Path) -> None:
    print(bar.measure(sprites.load(folder / "data"), folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="*", default=STAGES)
    parser.add_argument("--folder", type=Path, default=Path("out/pocket"))
    parser.add_argument("--onward", action="store_true", help="begin at the weights that ship")
    given = parser.parse_args()
    if given.onward and not (given.folder / "pocket").exists():
        shutil.copytree(ASSETS / "pocket", given.folder / "pocket")
        shutil.copyfile(ASSETS / "judge" / "model.safetensors", given.folder / "judge.safetensors")
    for stage in given.stages:
        globals()[f"build_{stage}"](given.folder)


if __name__ == "__main__":
    main()
