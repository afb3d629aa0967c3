"""What is learned of the subjects that ship, by every method, ours beside diffusers' own example scripts.

python -m tests.peers [--diffusers DIR [--python PYTHON]] [--out out/peers] [--subjects fox otter] [--methods lora]
                      [--seeds 0 1 2] [--record docs/learning.json]

DIR is a checkout of diffusers; without it only ours are trained. Both get the same pictures, class pictures, model and
options. One cell is one training and its measures; it goes into the record at once, and docs/learning.md is written
anew from that, so what is stopped goes on where it was, also side by side in several processes. What was recorded with
another model or other settings is measured again. OUT keeps a sheet of each cell's pictures. The scripts are run by
PYTHON, where torchvision is installed, and datasets for `full`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import mean

import torch
import yaml
from PIL import Image

import tenshot
from recipes.pocket.sprites import CONCEPTS
from tenshot import pipeline
from tenshot.adapters import embedding
from tenshot.core.shipped import ASSETS
from tenshot.core.size import Size
from tenshot.diffusion.process import DDPM
from tenshot.evaluate import pocket_judge, protocol, subject
from tenshot.evaluate.subject import SUBJECTS, UNSEEN
from tenshot.io.images import as_tensor
from tenshot.io.png import contact_sheet
from tenshot.model import model
from tenshot.model.model import Model
from tenshot.pipeline import Request, SamplingSettings
from tenshot.train.engine.denoising import Latents, Objective
from tenshot.train.engine.rng import CounterRNG
from tests import learning

SCRIPTS = {
    "dreambooth": "dreambooth/train_dreambooth.py",
    "lora": "dreambooth/train_dreambooth_lora.py",
    "textual-inversion": "textual_inversion/textual_inversion.py",
    "full": "text_to_image/train_text_to_image.py",
}
COMMON: dict[str, object] = {"resolution": 128, "lr_scheduler": "constant", "lr_warmup_steps": 0}
OURS = "lora, all linear layers"  # as documented; diffusers' script knows attention alone
SETTINGS: dict[str, dict[str, object]] = {  # row -> the options that both tools get
    "dreambooth": {"train_batch_size": 4, "max_train_steps": 300, "learning_rate": 3e-4},
    "dreambooth, no prior": {"train_batch_size": 4, "max_train_steps": 300, "learning_rate": 3e-4},
    "lora": {"train_batch_size": 4, "max_train_steps": 300, "learning_rate": 2e-3, "rank": 8},
    OURS: {
        "train_batch_size": 4,
        "max_train_steps": 300,
        "learning_rate": 2e-3,
        "rank": 8,
        "layers": "transformer",
    },
    "textual-inversion": {"train_batch_size": 4, "max_train_steps": 300, "learning_rate": 1e-3, "num_vectors": 8},
    "full": {"train_batch_size": 4, "max_train_steps": 300, "learning_rate": 3e-4},
}
CLASSES = 48  # class pictures for prior preservation
DRAWN = 3  # pictures of each prompt
CLASS_DRAWN = 12
NAME, WORD = "az", "<az>"
# torchvision's operators in C++ are built for CUDA; the scripts use its transforms alone
BEGIN = "import runpy, sys, types; sys.modules['torchvision._meta_registrations'] = types.ModuleType('none'); "


@dataclass(frozen=True)
class Cell:
    """row: of SETTINGS. noun: what the subject is, in the model's words."""

    tool: str
    row: str
    subject: str
    noun: str
    seed: int

    @property
    def method(self) -> str:
        return self.row.split(",")[0]

    @property
    def name(self) -> str:
        """What prompts call the subject after training."""
        return WORD if self.method == "textual-inversion" else f"{NAME} {self.noun}"

    def folder(self, out: Path) -> Path:
        return out / "-".join((self.row.replace(", ", "-").replace(" ", "-"), self.subject, str(self.seed), self.tool))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--diffusers", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--out", type=Path, default=Path("out/peers"))
    parser.add_argument("--record", type=Path, default=learning.RECORD)
    parser.add_argument(
        "--subjects", nargs="*", default=sorted({path.name for path in SUBJECTS.iterdir()} - learning.TUNED_ON)
    )
    parser.add_argument("--methods", nargs="*", default=[*SETTINGS], choices=[*SETTINGS])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    given = parser.parse_args()
    kept_out = yaml.safe_load(CONCEPTS.read_text())["kept_out"]
    kinds = {name: kind for kind, names in kept_out.items() for name in names}
    tools = learning.TOOLS if given.diffusers else learning.TOOLS[:1]
    cells = [
        Cell(tool, row, name, kinds[name], seed)
        for seed, row, name, tool in product(given.seeds, given.methods, given.subjects, tools)
        if tool == tools[0] or row != OURS
    ]
    for number, cell in enumerate(cells, 1):
        if asdict(cell) not in [each["cell"] for each in learning.read(given.record, SETTINGS)["cells"]]:
            print(f"{number} of {len(cells)}: {cell.folder(given.out).name}", flush=True)
            figures = run(cell, given.out, given.diffusers, given.python)
            learning.add(given.record, SETTINGS, {"cell": asdict(cell), "figures": figures})
    print(learning.table(learning.read(given.record, SETTINGS)))
    return 0


def run(cell: Cell, out: Path, peer: Path | None, python: str) -> dict[str, float]:
    folder = cell.folder(out)
    shutil.rmtree(folder, ignore_errors=True)
    data = pictures(cell, out)
    words = [
        f"--{name}={value}" for name, value in options(cell, data, class_pictures(cell, out), folder / "made").items()
    ]
    command = ours(cell, words) if cell.tool == "tenshot" else theirs(cell, words, peer, python)
    folder.mkdir(parents=True)
    with (folder / "log.txt").open("wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}\nfailed: {folder / 'log.txt'}")
    took = {"cpu_seconds": used.ru_utime + used.ru_stime, "memory_gb": used.ru_maxrss / 1e6}
    found = measures(cell, opened(cell, folder / "made"), folder / "drawn.png")
    shutil.rmtree(folder / "made")
    return found | took


def options(cell: Cell, data: Path, classes: Path, out: Path) -> dict[str, object]:
    """By diffusers' names, which are ours, too."""
    told = (
        COMMON
        | SETTINGS[cell.row]
        | {
            "pretrained_model_name_or_path": ASSETS / "pocket",
            "output_dir": out,
            "seed": cell.seed,
            "checkpointing_steps": 100_000,
        }
    )
    if cell.method in ("dreambooth", "lora"):
        told |= {"instance_data_dir": data, "instance_prompt": f"a photo of {cell.name}"}
    else:
        told |= {"train_data_dir": data}
    if cell.method == "textual-inversion":
        told |= {"placeholder_token": WORD, "initializer_token": cell.noun}
    if cell.row == "dreambooth":
        told |= {"class_data_dir": classes, "class_prompt": class_prompt(cell), "num_class_images": CLASSES}
    return told


def ours(cell: Cell, words: Sequence[str]) -> list[str]:
    prior = ["--with_prior_preservation"] if cell.row == "dreambooth" else []
    return [sys.executable, "-m", "tenshot", "train", cell.method, *words, *prior, "--report_to=none", "--device=cpu"]


def theirs(cell: Cell, words: Sequence[str], peer: Path | None, python: str) -> list[str]:
    script = Path(peer or "") / "examples" / SCRIPTS[cell.method]
    more = {
        "dreambooth": ["--with_prior_preservation"] if cell.row == "dreambooth" else [],
        "textual-inversion": ["--learnable_property=object"],
    }.get(cell.method, [])
    begin = BEGIN + f"sys.argv = {['train', *words, *more]!r}; runpy.run_path({str(script)!r}, run_name='__main__')"
    return [python, "-c", begin]


def pictures(cell: Cell, out: Path) -> Path:
    """The subject's pictures; with a caption each where a method wants captions."""
    if cell.method != "full":
        return SUBJECTS / cell.subject
    folder = out / "captioned" / cell.subject
    shutil.copytree(SUBJECTS / cell.subject, folder, dirs_exist_ok=True)
    caption = f"a photo of {cell.name}"
    names = sorted(path.name for path in folder.glob("*.png"))
    lines = [json.dumps({"file_name": name, "text": caption}) for name in names]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def class_prompt(cell: Cell) -> str:
    return f"a photo of {protocol.article(cell.noun)}"


def class_pictures(cell: Cell, out: Path) -> Path:
    """Drawn once for each class, for both tools."""
    folder = out / "classes" / cell.noun
    if len(list(folder.glob("*.png"))) < CLASSES:
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [Request(class_prompt(cell), 10_000 + number) for number in range(CLASSES)]
        for number, image in enumerate(pipeline.images(model.load("pocket"), wanted, SamplingSettings(batch=8))):
            image.save(folder / f"{number:03d}.png")
    return folder


def opened(cell: Cell, made: Path) -> Model:
    if cell.method == "lora":
        found = tenshot.load("pocket")
        found.set_loras({made if cell.tool == "tenshot" else made / "pytorch_lora_weights.safetensors": 1})
        return found
    if cell.method == "textual-inversion":
        file = made / (f"{NAME}.safetensors" if cell.tool == "tenshot" else "learned_embeds.safetensors")
        return embedding.add(model.load("pocket"), *embedding.read(file))
    return model.load(str(made))


def measures(cell: Cell, tuned: Model, sheet: Path) -> dict[str, float]:
    """sheet: where the pictures that are measured can be looked at."""
    shown, unseen = (subject.pictures(place / cell.subject) for place in (SUBJECTS, UNSEEN))
    asked = protocol.contexts(shown)
    wanted = [Request(each.prompt(cell.name), 100 * cell.seed + n) for each in asked for n in range(DRAWN)]
    classes = [Request(class_prompt(cell), 500 + number) for number in range(CLASS_DRAWN)]
    images = pipeline.images(tuned, wanted + classes, SamplingSettings(batch=8))
    drawn = {each: images[DRAWN * n : DRAWN * (n + 1)] for n, each in enumerate(asked)}
    heads = ["", *map(str, range(DRAWN))]
    rows = [[*pair] for pair in zip(shown, *zip(*drawn.values(), strict=True), strict=False)]
    contact_sheet(rows, [each.prompt(cell.name) for each in asked[: len(rows)]], heads, 128).save(sheet)
    others = subject.gallery(without=cell.subject)
    found = protocol.measure(pocket_judge.load(), drawn, images[len(wanted) :], cell.noun, shown, others, unseen)
    figures = asdict(found)
    of_subject = figures.pop("subject")
    of_subject.pop("other")
    return of_subject | figures | {"loss": fixed_loss(cell, tuned, [*shown, *unseen])}


@torch.no_grad()
def fixed_loss(cell: Cell, tuned: Model, images: Sequence[Image.Image], repeats: int = 16) -> float:
    """Of the subject's pictures, shown and unseen, with its own prompt, on noise and times that are always the same."""
    pixels = torch.stack([as_tensor(image) for image in images])
    aim = Objective(DDPM.from_config(tuned.scheduler_config))
    latents = Latents.of(*tuned.encode(pixels))
    said = tuned.conditioning([f"a photo of {cell.name}"] * len(images), Size.square(128))
    found = []
    for step in range(repeats):
        batch = aim.draw(latents, CounterRNG(0, range(step * len(images), (step + 1) * len(images))))
        found.append(aim.per_sample(lambda x, t: tuned.predict(x, t, said), batch, torch.device("cpu")).mean().item())
    return mean(found)


if __name__ == "__main__":
    sys.exit(main())
