"""Compiled models for tests, made of chosen programs rather than measured ones."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tenshot.autotune import calibration, compile
from tenshot.autotune.options import CompileOptions
from tenshot.autotune.search import shapes_of
from tenshot.autotune.trial import opened
from tenshot.core.events import Events
from tenshot.model import model
from tenshot.pipeline import SamplingSettings
from tenshot.runtime import artifact, fingerprint, rewrites
from tenshot.runtime.artifact import CONTROLNET, MODEL, PARTS, Manifest, Program, Section
from tenshot.runtime.backend import Candidate, Job

CPU = torch.device("cpu")
AGAIN = "tenshot compile MODEL --out FOLDER"
OPENVINO = Candidate("openvino", "fp32")
_BUILT: dict[tuple[object, ...], tempfile.TemporaryDirectory[str]] = {}  # of what -> the program, which takes long


def made(
    place: Path | str,
    out: Path,
    candidate: Candidate = OPENVINO,
    sections: Sequence[str] = ("unet", "decoder"),
    controlnet: Path | None = None,
) -> Path:
    """The model at `place`, which nobody writes into, some of its sections compiled in one given way."""
    shutil.copytree(model.find(str(place)), out / MODEL)
    whole = model.load(str(place))
    if controlnet is not None:
        shutil.copytree(controlnet, out / CONTROLNET)
        whole = whole.with_parts(controlnet=model.load_controlnet(controlnet, "cpu"))
    recorded, _ = calibration.record(whole, ["a cat"], SamplingSettings(steps=2, batch=1), Events())
    found = {}
    for name in sections:
        what = (model.find(str(place)), name, candidate, controlnet if "control" in name else None)
        if what not in _BUILT:
            _BUILT[what] = tempfile.TemporaryDirectory(prefix="tenshot-tests-")
            rewrites.build(Job(opened(out, name, CPU), recorded[name].inputs), candidate, Path(_BUILT[what].name))
        shutil.copytree(_BUILT[what].name, out / PARTS / name)
        program = Program(candidate, shapes_of(recorded[name]), f"{PARTS}/{name}")
        found[name] = Section((program,), 0.0, 1.0, 1.0)
    prints = fingerprint.here({candidate.backend}, CPU)
    artifact.write(out, Manifest(whole.family.name, AGAIN, prints, found, version="test"))
    return out


def options(place: Path | str, out: Path, **more: Any) -> CompileOptions:
    """Two steps, one turn, torch alone unless said otherwise."""
    given = {"backend": ["eager"], "steps": 2, "rounds": 1, "prompt": ["a cat"], "device": "cpu", "max_error": 0.2}
    return CompileOptions.model_validate(given | {"model": str(place), "out": out} | more)


class Listener(Events):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def compiled(place: Path | str, out: Path, **more: Any) -> tuple[dict[str, Any], list[str]]:
    """What `tenshot compile` answers, and what it said."""
    listener = Listener()
    return compile.compile_model(options(place, out, **more), listener), listener.said
