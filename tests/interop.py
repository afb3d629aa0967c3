"""Let stable-diffusion.cpp, which shares no code with us, load what we write, at full size.

python -m tests.interop [--folder out/interop] [--cli sd-cli]

Builds `sd-cli` from the source distribution of stable-diffusion-cpp-python (minutes; needs cmake and a C++ compiler),
makes a Stable Diffusion 1.5 of random weights, a LoRA and a learned word for it, converts all three, and draws one tiny
picture with each. Prints what the program says of its tensors; exit code 0 where all were taken.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from tenshot.adapters import lora, lora_keys
from tenshot.bench.sizes import random_model
from tenshot.cli.main import main as tenshot
from tenshot.families.sd import NOISE, SD1
from tenshot.model import model

PACKAGE = "stable-diffusion-cpp-python==0.4.7"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("out/interop"))
    parser.add_argument("--cli", type=Path, help="a built sd-cli; default: build one")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    program = given.cli or build(given.folder)
    make(given.folder)
    lines = [*draw(program, given.folder, "a photo of a cat", "plain")]
    lines += draw(program, given.folder, "a photo of word <lora:az:1>", "adapted")
    print("\n".join(lines))
    plain, adapted = (pixels(given.folder / f"{name}.png") for name in ("plain", "adapted"))
    loaded = any("embedding" in line.lower() and "word" in line for line in lines)
    print(f"LoRA whole: {whole(lines)}; word loaded: {loaded}; pictures differ: {(plain != adapted).any()}")
    kinds = [agrees(program, given.folder, name, plain) for name in ("az", *KINDS)]
    return 0 if whole(lines) and loaded and (plain != adapted).any() and all(kinds) else 1


def whole(lines: list[str]) -> bool:
    """Did it say that it applied every tensor?"""
    applied = [re.search(r"\((\d+) / (\d+)\) LoRA tensors", line) for line in lines]
    return any(match and match[1] == match[2] for match in applied)


def agrees(program: Path, folder: Path, name: str, plain: np.ndarray) -> bool:
    """Does it draw the same with the file beside the model as with the model that we merged it into?"""
    ui, merged = folder / "ui", folder / "ui/models/Stable-diffusion/merged.safetensors"
    file, base = ui / f"models/Lora/{name}.safetensors", ui / "models/Stable-diffusion/model.safetensors"
    words = ["merge", "--sd_model", base, "--models", file, "--save_to", merged, "--overwrite"]
    assert tenshot([str(word) for word in words]) == 0
    lines = draw(program, folder, f"a photo of a cat <lora:{name}:1>", f"{name}-beside")
    draw(program, folder, "a photo of a cat", f"{name}-merged", "merged")
    merged.unlink()
    beside, inside = (pixels(folder / f"{name}-{place}.png") for place in ("beside", "merged"))
    apart, moved = abs(beside - inside).mean(), abs(beside - plain).mean()
    print(f"{name}: whole: {whole(lines)}; beside and merged {apart:.2f} of 255 apart, both moved by {moved:.2f}")
    return whole(lines) and apart < moved / 10


def pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB")).astype(float)


def build(folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", PACKAGE.split("=")[0], PACKAGE]
    subprocess.run([*pip, "-d", str(folder)], check=True)
    with tarfile.open(next(folder.glob("stable_diffusion_cpp_python-*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    source = next(folder.glob("stable_diffusion_cpp_python-*/vendor/stable-diffusion.cpp"))
    made = folder / "build"
    subprocess.run(["cmake", "-S", source, "-B", made, "-DCMAKE_BUILD_TYPE=Release"], check=True)
    subprocess.run(["cmake", "--build", made, "--target", "sd-cli", "-j", "2"], check=True)
    return made / "bin" / "sd-cli"


def make(folder: Path) -> None:
    """The model, the LoRA and the word, each as a person would hand it to a user interface."""
    ui = folder / "ui"
    (ui / "models").mkdir(parents=True, exist_ok=True)
    full = random_model("sd15", torch.device("cpu"))
    settings = {
        part: {"r": 4, "lora_alpha": 2, "target_modules": full.family.targets(part, "all"), "init_lora_weights": False}
        for part in ("unet", "text_encoder")
    }
    base = {part: full[part] for part in full.parts}
    place = folder / "model"
    if not place.exists():
        for part in base.values():
            if isinstance(part, torch.nn.Module):
                part.half()
        model.save(model.Model(full.family, base, NOISE, place), place)
    torch.manual_seed(1)
    for name, made in KINDS.items():
        save_file(made(full["unet"]), folder / f"{name}.safetensors")
    lora.attach(full, lora.new(settings))
    told = {part: {k: v for k, v in each.items() if k in lora.SETTINGS} for part, each in settings.items()}
    lora.write(folder / "az.safetensors", lora.current(full, told), full.parts)
    save_file({"emb_params": torch.randn(2, 768)}, folder / "word.safetensors")
    for name in ("model", "az.safetensors", "word.safetensors", *(f"{kind}.safetensors" for kind in KINDS)):
        assert tenshot(["convert", str(folder / name), "--to", "webui", str(ui), "--overwrite"]) == 0


def loha(unet: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Random, of rank 4, for every attention layer."""
    named = {}
    for start, (out, inner) in attention(unet):
        for number in (1, 2):
            named[f"{start}.hada_w{number}_a"] = 0.2 * torch.randn(out, 4)
            named[f"{start}.hada_w{number}_b"] = 0.2 * torch.randn(4, inner)
        named[f"{start}.alpha"] = torch.tensor(6.0)
    return named


def lokr(unet: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Random, the outer factor whole, the inner one of rank 4, for every attention layer."""
    named = {}
    for start, (out, inner) in attention(unet):
        named[f"{start}.lokr_w1"] = 0.2 * torch.randn(8, 8)
        named[f"{start}.lokr_w2_a"] = 0.2 * torch.randn(out // 8, 4)
        named[f"{start}.lokr_w2_b"] = 0.2 * torch.randn(4, inner // 8)
        named[f"{start}.alpha"] = torch.tensor(6.0)
    return named


KINDS = {"loha": loha, "lokr": lokr}


def attention(unet: torch.nn.Module) -> Iterator[tuple[str, tuple[int, int]]]:
    """Kohya's names of the attention layers, and the shapes of their weights."""
    for layer, module in unet.named_modules():
        if isinstance(module, torch.nn.Linear) and lora.targeted(layer, SD1.targets("unet", "attention")):
            yield lora_keys.kohya("unet", layer, None), (module.out_features, module.in_features)


def draw(program: Path, folder: Path, prompt: str, name: str, model: str = "model") -> list[str]:
    """One picture of 64 x 64 in one step. What the program says of LoRAs, embeddings and tensors comes back."""
    ui = folder / "ui"
    words = [
        "-m",
        ui / f"models/Stable-diffusion/{model}.safetensors",
        "--lora-model-dir",
        ui / "models/Lora",
        "-p",
        prompt,
    ]
    words += ["--embd-dir", ui / "embeddings", "--steps", "1", "-W", "64", "-H", "64", "-s", "1", "-v"]
    ran = subprocess.run([program, *words, "-o", folder / f"{name}.png"], capture_output=True, text=True)
    said = [
        line for line in (ran.stdout + ran.stderr).splitlines() if re.search(r"lora|embedd|tensor|unknown", line, re.I)
    ]
    if ran.returncode:
        raise SystemExit(f"{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}\nexit code {ran.returncode}")
    return said


if __name__ == "__main__":
    sys.exit(main())
