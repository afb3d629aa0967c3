"""How fast pictures are here: usual ways to run a model, and ours, the same work in turns, in one run."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from diffusers import ControlNetModel
from PIL import Image

from tenshot.adapters import lora
from tenshot.autotune.compile import compile_model
from tenshot.autotune.options import CompileOptions
from tenshot.autotune.report import RECORD
from tenshot.bench import sizes, tables
from tenshot.bench.contenders import CONTROLNET, LORA, MODEL, TUNED, Contender, Round, Turn, contenders, run
from tenshot.bench.options import BenchInferenceOptions
from tenshot.bench.tables import Figures, Row
from tenshot.cli.output import in_one_line
from tenshot.core import device, hub_names
from tenshot.core.alone import alone
from tenshot.core.errors import Refusal, refuse_if
from tenshot.core.events import Events, track
from tenshot.core.options import as_words
from tenshot.core.size import Size
from tenshot.evaluate import metrics
from tenshot.families import validate
from tenshot.io.text_files import read_json
from tenshot.model import hub, model, resolve
from tenshot.model.model import Model
from tenshot.pipeline import SamplingSettings
from tenshot.runtime import artifact
from tenshot.runtime.backend import backend
from tenshot.runtime.registry import BACKENDS

QUANTISED = 0.5  # the error allowed where everything may be quantised: the bench tells what it was


@dataclass
class Line:
    """What one contender reached in one task; rounds: as its turns told. failed: why it took no part."""

    contender: Contender
    task: str
    rounds: list[Round] = field(default_factory=list)
    failed: str = ""

    @property
    def seconds(self) -> float:
        return median(each["seconds"] for each in self.rounds)

    def picture(self) -> Image.Image:
        return Image.frombytes("RGB", self.rounds[0]["size"].pillow, self.rounds[0]["pixels"])


def bench(options: BenchInferenceOptions, events: Events) -> Figures:
    """Make what is missing, let everybody have their turns, write the tables."""
    options = hub.fetched(options, events)
    where = device.pick(options.device)
    refuse_if(options.faults())
    refuse_if(tables.strangers(options.out) if options.out else ())
    place = options.work / hub_names.called(Path(options.model))
    _prepare(options, place, where)
    half = "fp16" if where.type == "cuda" else "bf16" if device.bf16_is_native() else ""
    taking = [each for each in contenders(half) if not options.only or any(part in each.name for part in options.only)]
    away = {each.name: reason for each in taking if (reason := _built(options, each, place, where, events))}
    lines = [Line(each, task, failed=away.get(each.name, "")) for task in options.task for each in taking]
    _take_turns(options, lines, place, events)
    told = _told(options, lines, place, taking)
    if options.out is not None:
        tables.write(options.out, told)
    for row in told["pictures"]:
        events.say(in_one_line(row))
    return told


def _prepare(options: BenchInferenceOptions, place: Path, where: torch.device) -> None:
    """The model, a ControlNet, a LoRA and another fine-tune, each random where there is none."""
    if not (place / MODEL).is_dir():
        if options.model in ("sd15", "sdxl"):
            model.save(sizes.random_model(options.model, torch.device("cpu")), place / MODEL)
        else:
            shutil.copytree(resolve.find(options.model), place / MODEL)
    if all((place / name).exists() for name in (CONTROLNET, LORA, TUNED)):
        return
    opened = model.load(str(place / MODEL))
    torch.manual_seed(0)
    ControlNetModel.from_unet(opened.denoiser).save_pretrained(place / CONTROLNET)
    _random_lora(opened, place / LORA)
    opened = model.load(str(place / MODEL))
    with torch.no_grad():
        for tensor in opened.denoiser.parameters():
            tensor.mul_(1.01)
    model.save(opened, place / TUNED)


def _random_lora(opened: Model, file: Path) -> None:
    part = opened.family.denoiser
    settings = {part: {"r": 16, "lora_alpha": 16, "target_modules": opened.family.targets(part, "attention")}}
    lora.attach(opened, lora.new(settings))
    with torch.no_grad():
        for name, tensor in opened.denoiser.named_parameters():
            if "lora_B" in name:
                tensor.normal_(std=0.01)
    lora.write(file, lora.current(opened, settings), opened.parts)


def _built(options: BenchInferenceOptions, who: Contender, place: Path, where: torch.device, events: Events) -> str:
    """Make a contender's artifact where there is none. Why it cannot take part; empty where it can."""
    if who.way != "compiled" or artifact.is_one(place / who.folder):
        return ""
    if who.backend and who.backend not in BACKENDS:
        return "no such backend"
    if who.backend and (reason := backend(who.backend).missing(where)):
        return reason
    with_control, denoiser = "control" in options.task, validate.family_of(place / MODEL).denoiser
    told = {
        "model": str(place / MODEL),
        "out": place / who.folder,
        "backend": [who.backend] if who.backend else options.backend if who.lossless else _quantising(where),
        "controlnet": place / CONTROLNET if with_control else None,
        "lossless": who.lossless,
        "precision": options.precision,
        "rewrites": not who.backend,
        "max_error": 0.05 if who.lossless else QUANTISED,
        "budget": options.budget,
        "steps": options.trial_steps,
        "prompt": ["a 3d emoji of a cat on a blue background"],
        "height": options.height,
        "width": options.width,
        "parts": [*(["controlnet"] if with_control else []), denoiser, "decoder", "text_encoder"],
        "device": options.device,
    }
    compile_model(CompileOptions.model_validate(told), events)
    return ""


def _quantising(where: torch.device) -> list[str]:
    """The backends that have something to quantise with here; none: all."""
    here = (name for name in BACKENDS if not backend(name).missing(where))
    return [name for name in here if any(not each.lossless for each in backend(name).candidates(where))]


def _take_turns(options: BenchInferenceOptions, lines: Sequence[Line], place: Path, events: Events) -> None:
    size = Size(options.height, options.width) if options.height and options.width else None
    settings = SamplingSettings(steps=options.steps, size=size, batch=1)
    taking = [line for line in lines if not line.failed]
    order = [line for _ in range(options.rounds) for line in taking]
    for line in track(order, "drawing in turns", len(order), events):
        if line.failed:
            continue
        turn = Turn(line.contender, line.task, place, settings, options.device)
        try:
            line.rounds.append(alone(run, turn, what=line.contender.name))
        except (Refusal, RuntimeError, MemoryError, ValueError) as error:
            line.failed = str(error).strip().partition("\n")[0][:200]


def _told(options: BenchInferenceOptions, lines: Sequence[Line], place: Path, taking: Sequence[Contender]) -> Figures:
    return {
        "model": options.model,
        "steps": options.steps,
        "command": shlex.join(["tenshot", "bench", "inference", *as_words(options, leave=["work", "out"])]),
        "machine": device.describe(),
        "pictures": [row for task in options.task for row in _rows([each for each in lines if each.task == task])],
        "parts": list(_parts(place, taking)),
    }


def _rows(lines: Sequence[Line]) -> Iterator[Row]:
    """What each reached in a task; ratios and likeness to torch in float32."""
    first = next((each for each in lines if each.contender.name == "torch fp32" and each.rounds), None)
    for line in lines:
        about: Row = {"task": line.task, "contender": line.contender.name}
        if line.failed or not line.rounds:
            yield about | {"failed": line.failed}
            continue
        found: Row = about | {"seconds": round(line.seconds, 3)}
        if first:
            psnr = metrics.psnr(first.picture(), line.picture())
            found |= {
                "speedup": round(first.seconds / line.seconds, 2),
                "psnr": psnr if psnr == float("inf") else round(psnr, 1),
                "ssim": round(metrics.ssim(first.picture(), line.picture()), 4),
            }
        yield found | {
            "load_seconds": round(median(each["load"] for each in line.rounds), 2),
            "first_seconds": round(median(each["first"] for each in line.rounds), 2),
            "swap_seconds": round(median(each["swap"] for each in line.rounds), 2),
            "peak_memory_bytes": max(each["peak"] for each in line.rounds),
        }


def _parts(place: Path, taking: Sequence[Contender]) -> Iterator[Row]:
    """What the trials found: every section, every candidate, in turns with torch in float32."""
    seen = set()
    for who in taking:
        record = place / who.folder / RECORD
        if who.way != "compiled" or not record.is_file():
            continue
        for section, rows in read_json(record)["sections"].items():
            for row in rows:
                key = section, row["candidate"], row["failed"]
                if key not in seen:
                    seen.add(key)
                    yield _trial(section, row)


def _trial(section: str, row: Mapping[str, Any]) -> Row:
    if row["failed"]:
        return {"section": section, "candidate": row["candidate"], "failed": row["failed"]}
    return {
        "section": section,
        "candidate": row["candidate"],
        "seconds": round(row["seconds"], 4),
        "speedup": round(row["speedup"], 2),
        "error": row["error"],
        "build_seconds": round(row["build_seconds"], 1),
        "load_seconds": round(row["load_seconds"], 2),
        "swap_seconds": round(row["swap_seconds"], 2),
        "peak_memory_bytes": row["peak_memory_bytes"],
    }
