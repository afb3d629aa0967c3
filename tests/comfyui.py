"""Let ComfyUI, in its own checkout and by its own API, draw with our node: on a CPU, with the workflow that ships.

python -m tests.comfyui --comfyui DIR [--python PYTHON] [--folder out/comfyui] [--models pocket wide]

DIR: a checkout of ComfyUI; nothing is written into it. PYTHON: one in which ComfyUI's requirements and Tenshot's are
installed. Models: pocket, of which tests/comfyui_pocket.py tells ComfyUI, and one of random weights by widths that it
knows. Some 15 minutes on two busy cores. Exit code 0 where all holds.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import tenshot
from tenshot import pipeline
from tenshot.core.size import Size
from tenshot.pipeline import Request, SamplingSettings
from tests import comfyui_models
from tests.comfyui_server import GUIDANCE, NEGATIVE, POCKET, PROMPT, SEED, STEPS, ComfyUI, Picture, serving

LONG = "a cat and a dog on a red chair " * 12  # more than 77 tokens


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--folder", type=Path, default=Path("out/comfyui"))
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    given = parser.parse_args()
    results = Results()
    for name in given.models:
        results.heading(name)
        MODELS[name](given.comfyui, given.python, given.folder.resolve() / name, results)
    print("\n".join(results.lines))
    return 0 if results.good else 1


def pocket(checkout: Path, python: str, folder: Path, results: Results) -> None:
    comfyui_models.make(folder, POCKET)
    with serving(checkout, python, folder) as comfy:
        for check in (beside, loras, controlnets, another, handed_back, calls):
            check(comfy, results)
    with serving(checkout, python, folder, TENSHOT_COMFYUI_AUTO="1") as comfy:
        automatic(comfy, results)


def wide(checkout: Path, python: str, folder: Path, results: Results) -> None:
    comfyui_models.make(folder)
    with serving(checkout, python, folder) as comfy:
        comfy.steps = 3
        for check in (loras, controlnets, calls):
            check(comfy, results)


MODELS = {"pocket": pocket, "wide": wide}


@dataclass
class Results:
    lines: list[str] = field(default_factory=list)
    good: bool = True

    def say(self, what: str, holds: bool, figure: str = "") -> None:
        self.good &= holds
        self.heading(f"{'yes' if holds else 'NO '}  {what}{f': {figure}' if figure else ''}")

    def heading(self, text: str) -> None:
        self.lines.append(text)
        print(text, flush=True)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = float(((one - other) ** 2).mean())
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def beside(comfy: ComfyUI, results: Results) -> None:
    ours, torchs = comfy.draw(), comfy.draw(node=False)
    results.say("our node draws as ComfyUI alone does", psnr(ours.pixels, torchs.pixels) > 60, _apart(ours, torchs))
    results.say("and not by ComfyUI's UNet", not ours.backs and "has this model's weights" in ours.said)
    settings = SamplingSettings("Euler", STEPS, GUIDANCE, Size(128, 128))
    opened = tenshot.load(comfy.folder / "models/tenshot/fast")
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
        "a LoRA by a hook": {"hook": "b"},
        "another size with a LoRA": {"latents__width": 192, "lora": ("a", 0.3)},
    }
    for what, asked in cases.items():
        found, torchs = comfy.draw(**asked), comfy.draw(**asked, node=False)
        holds = bool((found.pixels == torchs.pixels).all()) and len(found.backs) == 1
        reason = found.backs[0].partition("one: ")[2] if found.backs else "nothing was said"
        results.say(f"{what} is handed back", holds, f"{_apart(found, torchs)}; {reason}")

    first, again = comfy.draw(sampler__seed=SEED + 3), comfy.draw(sampler__seed=SEED + 4)
    results.say("and not what comes after", not first.backs and not again.backs)
    asked = {"more": {"PerturbedAttentionGuidance": {"scale": 2.0}}}
    found, torchs = comfy.draw(**asked), comfy.draw(**asked, node=False)
    holds = psnr(found.pixels, torchs.pixels) > 60 and len(found.backs) == 1
    results.say("of perturbed attention guidance the perturbed calls alone", holds, _apart(found, torchs))


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
