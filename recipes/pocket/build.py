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

from recipes.pocket import autoencoder, bar, controlnet, finish, judge, pair, sprites, unet, words
from tenshot.core.events import EventGroup, Events
from tenshot.core.options import resolve
from tenshot.core.shipped import ASSETS
from tenshot.evaluate.pocket_judge import PocketJudge
from tenshot.io import tensors
from tenshot.model import model
from tenshot.train.engine import loop
from tenshot.train.engine.trackers import LossLog
from tenshot.train.options import LoopOptions

STAGES = ("judge", "autoencoder", "decoder", "pair", "unet", "controlnet", "finish", "bar")

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


def build_judge(folder: Path) -> None:
    drawn = sprites.load(folder / "data")
    options = stage_options("judge", folder)
    method = judge.Judging(drawn, options.seed)
    fit(method, options)
    tensors.write(folder / "judge.safetensors", method.net.state_dict())
    (folder / "words.txt").write_text("\n".join(method.words) + "\n", encoding="utf-8")
    print("subjects kept out, told apart:", judge.held_out(drawn, PocketJudge(method.net.eval(), method.words)))


def build_autoencoder(folder: Path) -> None:
    drawn = sprites.load(folder / "data")
    options = stage_options("autoencoder", folder)
    method = autoencoder.Autoencoder(drawn, options.seed)
    start_at(method.net, folder / "pocket" / "vae" / WEIGHTS)
    fit(method, options)
    autoencoder.finish(method.net.eval(), drawn, options.seed).save_pretrained(folder / "pocket" / "vae")


def build_decoder(folder: Path) -> None:
    drawn = sprites.load(folder / "data")
    options = stage_options("decoder", folder)
    vae = AutoencoderKL.from_pretrained(folder / "pocket" / "vae")
    method = autoencoder.Autoencoder(drawn, options.seed, vae)
    fit(method, options)
    method.net.save_pretrained(folder / "pocket" / "vae")


def build_pair(folder: Path) -> None:
    drawn = sprites.load(folder / "data")
    options = stage_options("pair", folder)
    tokenizer = words.tokenizer(drawn, folder / "pocket" / "tokenizer")
    method = pair.Contrast(drawn, tokenizer, options.seed)
    if (folder / "pocket" / "text_encoder").is_dir():
        method.net.words.load_state_dict(words_of(folder)[1].state_dict())
    fit(method, options)
    method.net.words.save_pretrained(folder / "pocket" / "text_encoder")


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


def build_controlnet(folder: Path) -> None:
    drawn = sprites.load(folder / "data")
    options = stage_options("controlnet", folder)
    opened = model.load(str(folder / "pocket"))
    scenes = controlnet.scenes(drawn, options.seed)
    latents = unet.encode(opened.vae, drawn, scenes)
    method = controlnet.Edges(drawn, latents, scenes, opened, options.seed)
    start_at(method.net, folder / "controlnet-canny" / WEIGHTS)
    fit(method, options)
    method.net.save_pretrained(folder / "controlnet-canny")


def build_finish(folder: Path) -> None:
    finish.pocket(folder / "pocket", ASSETS)
    finish.canny(folder, ASSETS)
    finish.judge(folder, ASSETS)
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
    for stage in given.stages:
        globals()[f"build_{stage}"](given.folder)


if __name__ == "__main__":
    main()
