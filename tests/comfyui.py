"""Let ComfyUI, in its own checkout and by its own API, draw with our node: on a CPU, with the workflow that ships.

python -m tests.comfyui --comfyui DIR [--python PYTHON] [--folder out/comfyui]

DIR: a checkout of ComfyUI; nothing is written into it. PYTHON: one in which ComfyUI's requirements and Tenshot's are
installed. The pocket model is drawn with, of which tests/comfyui_pocket.py tells ComfyUI. Exit code 0 where all holds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request as Call
from urllib.request import urlopen

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

import tenshot
from tenshot import pipeline
from tenshot.cli.main import main as command
from tenshot.core.size import Size
from tenshot.families import keymaps
from tenshot.io.text_files import read_json
from tenshot.pipeline import Request, SamplingSettings
from tests import artifacts
from tests.test_controlnet import a_controlnet
from tests.test_swap import a_lora

ROOT = Path(__file__).parent.parent
NODE = ROOT / "integrations/comfyui"
POCKET = ROOT / "src/tenshot/assets/pocket"
BACK = "Tenshot: ComfyUI's own UNet draws"
PROMPT, NEGATIVE = "a 3d emoji of a cat on a blue background", "a car"
STEPS, GUIDANCE, SEED = 12, 5.0, 3
LONG = "a cat and a dog on a red chair " * 12  # more than 77 tokens


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--folder", type=Path, default=Path("out/comfyui"))
    given = parser.parse_args()
    folder = given.folder.resolve()
    if not (folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        make(folder)
    results = Results()
    with serving(given.comfyui, given.python, folder) as comfy:
        beside(comfy, results)
        loras(comfy, results)
        controlnets(comfy, results)
        another(comfy, results)
        handed_back(comfy, results)
        calls(comfy, results)
    with serving(given.comfyui, given.python, folder, TENSHOT_COMFYUI_AUTO="1") as comfy:
        automatic(comfy, results)
    print("\n".join(results.lines))
    return 0 if results.good else 1


@dataclass
class Results:
    lines: list[str] = field(default_factory=list)
    good: bool = True

    def say(self, what: str, holds: bool, figure: str = "") -> None:
        self.good &= holds
        self.lines.append(f"{'yes' if holds else 'NO '}  {what}{f': {figure}' if figure else ''}")
        print(self.lines[-1], flush=True)


@dataclass
class Picture:
    """pixels: 0..255. said: what the log had to say meanwhile."""

    pixels: np.ndarray
    said: str

    @property
    def backs(self) -> list[str]:
        return [line for line in self.said.splitlines() if BACK in line]


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = float(((one - other) ** 2).mean())
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def make(folder: Path) -> None:
    """What a person would have in ComfyUI's folders: checkpoints, LoRAs, a ControlNet, and a compiled model."""
    for name in ("checkpoints", "loras", "controlnet", "tenshot"):
        (folder / "models" / name).mkdir(parents=True)
    for name in ("input", "custom_nodes", "output", "page"):
        (folder / name).mkdir()
    (folder / "custom_nodes/tenshot").symlink_to(NODE)
    (folder / "custom_nodes/comfyui_pocket.py").symlink_to(ROOT / "tests/comfyui_pocket.py")
    checkpoint = folder / "models/checkpoints/pocket.safetensors"
    assert command(["convert", str(POCKET), str(checkpoint)]) == 0
    dice = torch.Generator().manual_seed(7)
    tuned = {
        name: tensor * (1 + 0.05 * torch.randn(tensor.shape, generator=dice)) if "diffusion_model" in name else tensor
        for name, tensor in load_file(checkpoint).items()
    }
    save_file(tuned, checkpoint.with_name("tuned.safetensors"))
    for seed, name in enumerate("ab"):
        ours = a_lora(POCKET, folder / f"{name}.safetensors", seed, 4, ("to_q", "to_v", "ff.net.2", "conv1"))
        assert command(["convert", str(ours), "--to", "comfyui", str(folder), "--config", str(POCKET)]) == 0
    net = a_controlnet(folder / "edges", POCKET)
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
    artifacts.made(POCKET, folder / "models/tenshot/pocket-fast", sections=sections, controlnet=net)
    (folder / "made").touch()


@dataclass
class ComfyUI:
    """A running one. address: of its API. log: what it writes."""

    address: str
    log: Path
    folder: Path

    def draw(self, **changes: object) -> Picture:
        """By the shipped workflow. What `workflow` does not know is an input of a node, NODE__INPUT."""
        before = self.log.stat().st_size
        asked = self.call("/prompt", {"prompt": workflow(**changes)})["prompt_id"]
        while not (found := self.call(f"/history/{asked}")):
            time.sleep(0.1)
        status = found[asked]["status"]
        if status["status_str"] != "success":
            raise SystemExit(json.dumps(status, indent=1))
        cached = next((told["nodes"] for name, told in status["messages"] if name == "execution_cached"), [])
        assert "sampler" not in cached, "ComfyUI drew nothing"
        image = found[asked]["outputs"]["saved"]["images"][0]
        pixels = np.asarray(Image.open(self.folder / "output" / image["filename"]).convert("RGB")).astype(float)
        return Picture(pixels, self.log.read_bytes()[before:].decode())

    def call(self, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Call(self.address + path, data, {"Content-Type": "application/json"}), timeout=300) as answer:
            return json.load(answer)


def workflow(
    node: bool = True,
    lora: tuple[str, float] = ("a", 0.0),
    control: float = 0.0,
    compare: bool = False,
    more: Mapping[str, object] | None = None,
    **inputs: object,
) -> dict[str, Any]:
    """The one that ships, with the files and settings of this test. control: how strong. more: nodes, in order."""
    graph = json.loads((NODE / "workflow.json").read_text())
    told = {
        "checkpoint__ckpt_name": "pocket.safetensors",
        "lora__lora_name": f"{lora[0]}.safetensors",
        "lora__strength_model": lora[1],
        "lora__strength_clip": lora[1],
        "tenshot__artifact": "pocket-fast",
        "controlnet__control_net_name": "edges.safetensors",
        "controlled__strength": control,
        "positive__text": PROMPT,
        "negative__text": NEGATIVE,
        "latents__width": 128,
        "latents__height": 128,
        "sampler__steps": STEPS,
        "sampler__cfg": GUIDANCE,
        "sampler__seed": SEED,
    }
    for name, value in (told | inputs).items():
        part, _, key = name.partition("__")
        graph[part]["inputs"][key] = value
    if compare:
        graph["compare"] = {"class_type": "TestsCompare", "inputs": {"model": ["lora", 0]}}
        graph["tenshot"]["inputs"]["model"] = ["compare", 0]
    if not node:
        del graph["tenshot"]
        graph["sampler"]["inputs"]["model"] = ["lora", 0]
    for kind, settings in (more or {}).items():
        graph[kind] = {"class_type": kind, "inputs": {"model": graph["sampler"]["inputs"]["model"], **settings}}
        graph["sampler"]["inputs"]["model"] = [kind, 0]
    return graph


@contextmanager
def serving(checkout: Path, python: str, folder: Path, **environment: str) -> Iterator[ComfyUI]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [python, "main.py", "--cpu", "--port", str(port), "--base-directory", folder, "--disable-api-nodes"]
    words += ["--front-end-root", folder / "page", "--database-url", f"sqlite:///{folder}/comfyui.db"]
    log = folder / f"comfyui{'-auto' if environment else ''}.log"
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    told = {
        "PYTHONPATH": paths,
        "TENSHOT_TESTS_POCKET": str(POCKET),
        "TENSHOT_TESTS_NOTES": str(folder / "notes.jsonl"),
    }
    with log.open("w") as file:
        program = subprocess.Popen(
            words, cwd=checkout, env=os.environ | told | environment, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            found = ComfyUI(f"http://127.0.0.1:{port}", log, folder)
            while True:
                if program.poll() is not None:
                    raise SystemExit(f"{log.read_text()[-3000:]}\nexit code {program.returncode}")
                try:
                    found.call("/system_stats")
                    break
                except OSError:
                    time.sleep(0.5)
            yield found
        finally:
            program.terminate()
            program.wait()


def beside(comfy: ComfyUI, results: Results) -> None:
    ours, torchs = comfy.draw(), comfy.draw(node=False)
    results.say("our node draws as ComfyUI alone does", psnr(ours.pixels, torchs.pixels) > 60, _apart(ours, torchs))
    results.say("and not by ComfyUI's UNet", not ours.backs and "has this model's weights" in ours.said)
    settings = SamplingSettings("Euler", STEPS, GUIDANCE, Size(128, 128))
    opened = tenshot.load(comfy.folder / "models/tenshot/pocket-fast")
    (own,) = pipeline.images(opened, [Request(PROMPT, SEED, NEGATIVE)], settings)
    far = psnr(ours.pixels, np.asarray(own).astype(float))
    results.say("and as Tenshot does, whose Euler begins with a little less noise", far > 40, f"{far:.1f} dB")


def _apart(one: Picture, other: Picture) -> str:
    most = int(abs(one.pixels - other.pixels).max())
    return f"{psnr(one.pixels, other.pixels):.1f} dB, at most {most} of 255"


def loras(comfy: ComfyUI, results: Results) -> None:
    before = comfy.draw(sampler__seed=SEED + 1)
    a, b, again, off = [
        comfy.draw(sampler__seed=SEED + 1, lora=each) for each in (("a", 0.3), ("b", 0.3), ("a", 0.3), ("b", 0.0))
    ]
    for name, found in (("a", a), ("b", b)):
        torchs = comfy.draw(sampler__seed=SEED + 1, lora=(name, 0.3), node=False)
        holds = psnr(found.pixels, torchs.pixels) > 60 and not found.backs
        results.say(f"LoRA {name}", holds, f"{_apart(found, torchs)}; the LoRA itself: {_apart(found, before)}")
    results.say("LoRA a after b is a", bool((a.pixels == again.pixels).all()))
    results.say("off again, the picture is the first, to the bit", bool((before.pixels == off.pixels).all()))


def controlnets(comfy: ComfyUI, results: Results) -> None:
    before = comfy.draw(sampler__seed=SEED + 2)
    for what, asked in (
        ("ControlNet", {"control": 0.4}),
        ("ControlNet in the first half", {"control": 0.4, "controlled__end_percent": 0.5}),
        ("ControlNet and LoRA", {"control": 0.4, "lora": ("a", 0.3)}),
    ):
        found = comfy.draw(sampler__seed=SEED + 2, **asked)
        torchs = comfy.draw(sampler__seed=SEED + 2, node=False, **asked)
        holds = psnr(found.pixels, torchs.pixels) > 60 and not found.backs
        results.say(what, holds, f"{_apart(found, torchs)}; by itself: {_apart(found, before)}")
    off = comfy.draw(sampler__seed=SEED + 2)
    results.say("off again, the picture is the first, to the bit", bool((before.pixels == off.pixels).all()))


def another(comfy: ComfyUI, results: Results) -> None:
    """Another fine-tune, in the artifact that was compiled from the first."""
    asked: dict[str, Any] = {"checkpoint__ckpt_name": "tuned.safetensors"}
    found, torchs = comfy.draw(**asked), comfy.draw(**asked, node=False)
    first = comfy.draw()
    holds = psnr(found.pixels, torchs.pixels) > 60 and not found.backs
    figure = f"{_apart(found, torchs)}; from the first one: {_apart(found, first)}"
    results.say("another fine-tune in the same artifact", holds, figure)


def handed_back(comfy: ComfyUI, results: Results) -> None:
    """What no program does is drawn by ComfyUI itself, and said in one line."""
    cases: dict[str, dict[str, Any]] = {
        "another size": {"latents__width": 192},
        "154 tokens": {"positive__text": LONG, "negative__text": LONG},
        "FreeU, a patch": {"more": {"FreeU_V2": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}}},
        "hypertile, a patch": {
            "more": {"HyperTile": {"tile_size": 64, "swap_size": 2, "max_depth": 0, "scale_depth": False}}
        },
        "another size with a LoRA": {"latents__width": 192, "lora": ("a", 0.3)},
    }
    for what, asked in cases.items():
        found, torchs = comfy.draw(**asked), comfy.draw(**asked, node=False)
        holds = bool((found.pixels == torchs.pixels).all()) and len(found.backs) == 1
        reason = found.backs[0].partition("one: ")[2] if found.backs else "nothing was said"
        results.say(f"{what} is handed back", holds, f"{_apart(found, torchs)}; {reason}")


def calls(comfy: ComfyUI, results: Results) -> None:
    """How far apart the answers are, call by call, and how long they take."""
    notes = comfy.folder / "notes.jsonl"
    for what, asked in (
        ("alone", {}),
        ("LoRA", {"lora": ("a", 0.3)}),
        ("ControlNet", {"control": 0.4}),
        ("four at once", {"latents__batch_size": 4}),
    ):
        notes.unlink(missing_ok=True)
        comfy.draw(compare=True, **asked)
        told = [json.loads(line) for line in notes.read_text().splitlines()]
        most = max(each["apart"] for each in told)
        ours, torchs = (float(np.median([each[name] for each in told])) for name in ("compiled", "comfyui"))
        figure = (
            f"at most {most:.1e} apart in {len(told)} calls; {ours * 1000:.0f} ms, ComfyUI's own {torchs * 1000:.0f} ms"
        )
        results.say(f"the UNet's answers, {what}", most < 1e-3, figure)


def automatic(comfy: ComfyUI, results: Results) -> None:
    found, other = comfy.draw(node=False), comfy.draw(node=False, checkpoint__ckpt_name="tuned.safetensors")
    taken = re.search(r"Tenshot: (\S+) was compiled from this model", found.said)
    results.say("without the node, by the hash of its weights", bool(taken) and not found.backs)
    results.say("and no artifact for another fine-tune", "was compiled from this model" not in other.said)
    lora = comfy.draw(node=False, lora=("a", 0.3))
    results.say("which follows LoRAs, too", "has this model's weights" in lora.said and not lora.backs)


if __name__ == "__main__":
    sys.exit(main())
