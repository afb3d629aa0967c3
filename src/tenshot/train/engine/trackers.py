"""Listeners that write down what the loop reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tenshot.core.events import Events
from tenshot.io import hashes, tensors, text_files


class LossLog(Events):
    """Every step's figures as a line of JSON in `path`; a resumed run continues without repeating a step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, job: str, total: int, done: int = 0) -> None:
        if job != "training":
            return
        lines = [line for line in read(self.path) if line["step"] <= done]
        tensors.write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))

    def step(self, step: int, **figures: float) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")


def read(path: Path) -> list[dict[str, float]]:
    """The figures in a loss log, oldest first, up to a line that was cut off by a kill or damaged."""
    if not path.is_file():
        return []
    found = []
    with text_files.opened(path, "a loss log", text_files.TABLE) as file:
        text = file.read().decode(errors="replace")
    for line in text.splitlines():
        try:
            figures = text_files.parsed(line)
            found.append({name: float(value) for name, value in figures.items()} | {"step": int(figures["step"])})
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            break
    return found


class Service(Events):
    """Scalars and pictures to Weights & Biases or trackio, whose calls are the same. name: of the module.

    Each run is one of `project`; a resumed run is the same one again.
    """

    def __init__(self, name: str, project: str, config: Mapping[str, object]) -> None:
        self.library = import_module(name)
        self.project, self.config = project, dict(config)
        place = str(Path(str(config["output_dir"])).absolute())
        self.within = 0
        self.same = {"id": hashes.of_values(place)[:16]} if name == "wandb" else {}
        self.open = False

    def begin(self, job: str, total: int, done: int = 0) -> None:
        self.within += self.open
        if job == "training":
            name = Path(str(self.config["output_dir"])).name
            self.library.init(project=self.project, name=name, config=self.config, resume="allow", **self.same)
            self.open = True

    def step(self, step: int, **figures: float) -> None:
        self.library.log({f"train/{name}": value for name, value in figures.items()}, step=step)

    def picture(self, tag: str, step: int, image: Image.Image) -> None:
        self.library.log({tag: self.library.Image(np.asarray(image))}, step=step)

    def end(self) -> None:
        if self.within:
            self.within -= 1
        elif self.open:
            self.library.finish()
            self.open = False


class TensorBoard(Events):
    """Scalars and pictures as TensorBoard event files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: Any = None
        self.within = 0

    def begin(self, job: str, total: int, done: int = 0) -> None:
        self.within += self.writer is not None
        if job == "training":
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder), purge_step=done + 1)

    def step(self, step: int, **figures: float) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(f"train/{name}", value, step)

    def picture(self, tag: str, step: int, image: Image.Image) -> None:
        self.writer.add_image(tag, np.asarray(image), step, dataformats="HWC")

    def end(self) -> None:
        if self.within:
            self.within -= 1
        elif self.writer:
            self.writer.close()
