"""Training runs for tests: the practice guide's options in small, and what a run leaves."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tenshot.cli.verbs import VERBS
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.options import resolve
from tenshot.train import finetune
from tenshot.train.engine import loop
from tenshot.train.methods import dreambooth, full, lora, textual_inversion
from tenshot.train.options import (
    DreamBoothOptions,
    FineTuneOptions,
    FullOptions,
    LoraOptions,
    TextualInversionOptions,
)

GUIDE = {  # the practice guide's command, in small
    "instance_prompt": "a photo of az baby",
    "train_batch_size": "1",
    "gradient_accumulation_steps": "1",
    "learning_rate": "1e-3",
    "lr_scheduler": "constant",
    "lr_warmup_steps": "0",
    "max_train_steps": "3",
    "report_to": "none",
    "device": "cpu",
}
PRIOR = {
    "with_prior_preservation": True,
    "prior_loss_weight": "0.7",
    "class_prompt": "a photo of baby",
    "num_class_images": "4",
}
UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


WAYS = {
    "dreambooth": (dreambooth.METHOD, DreamBoothOptions),
    "full": (full.METHOD, FullOptions),
    "lora": (lora.METHOD, LoraOptions),
    "inversion": (textual_inversion.METHOD, TextualInversionOptions),
}


#: The options of every method.
METHOD_OPTIONS: list[type[FineTuneOptions]] = [
    getattr(import_module(module), name)
    for path, verb in VERBS.items()
    if path[0] == "train"
    for module, _, name in [verb.options.partition(":")]
]


class Ear(Events):
    """Remembers the jobs, and asks to stop once `job` has begun and something of it is done."""

    def __init__(self, job: str = "") -> None:
        self.job, self.jobs, self.said = job, [], []
        self.stop = False

    def say(self, text: str) -> None:
        self.said.append(text)

    def begin(self, job: str, total: int, done: int = 0) -> None:
        self.jobs.append(job)

    def advance(self, done: int, **figures: float) -> None:
        self.stop = self.jobs[-1] == self.job

    def cancelled(self) -> bool:
        return self.stop


class Bench:
    """Runs one method, DreamBooth with the guide's options at first; every run writes to a folder of its own name."""

    def __init__(self, model: Path, pictures: Path, folder: Path, way: str = "dreambooth") -> None:
        self.folder, self.way = folder, way
        self.base = GUIDE | {"pretrained_model_name_or_path": str(model)}
        if way in ("full", "inversion"):
            self.base |= {"train_data_dir": str(pictures)}
            self.base.pop("instance_prompt")
        else:
            self.base |= {"instance_data_dir": str(pictures)}

    def options(self, name: str, **given: Any) -> FineTuneOptions:
        return resolve(WAYS[self.way][1], self.base | {"output_dir": str(self.folder / name)} | given)

    def run(self, name: str, events: Events | None = None, **given: Any) -> Path:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(loop, "MEASURED", 1)  # more steps would take longer than the training
            finetune.train(WAYS[self.way][0], self.options(name, **given), events or Ear())
        return self.folder / name

    def refused(self, name: str, **given: Any) -> list[str]:
        """Where the faults are."""
        with pytest.raises(Refusal) as caught:
            self.run(name, **given)
        return [fault.where.split(" ")[0] for fault in caught.value.faults]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "loss.jsonl").read_text().splitlines()]


def same_weights(one: Path, other: Path, file: str = UNET) -> bool:
    return (one / file).read_bytes() == (other / file).read_bytes()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
