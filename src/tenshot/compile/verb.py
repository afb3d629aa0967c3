"""`tenshot compile`: a model for the machine at hand, chosen by measuring, whose weights stay exchangeable."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tenshot import __version__, device, measures, model, sampling
from tenshot.checkpoints import opening
from tenshot.compile import choose, report, trajectories
from tenshot.compile.options import CompileOptions
from tenshot.compile.report import Proof, Report
from tenshot.compile.trajectories import Calls
from tenshot.compile.trial import Outcome
from tenshot.errors import Fault, Refusal, all_or_refuse, refuse_if
from tenshot.events import Events
from tenshot.families import layout
from tenshot.families.family import Family
from tenshot.fast import artifact, fingerprint
from tenshot.fast import model as fast
from tenshot.fast.artifact import CONTROLNET, MODEL, Manifest, Section
from tenshot.fast.backend import backend
from tenshot.fast.parts import SECTIONS
from tenshot.files import targets, tensors
from tenshot.model import Model
from tenshot.options import as_words
from tenshot.sampling import Request, Settings


def compile(options: CompileOptions, events: Events) -> dict[str, Any]:
    """Raises Refusal before anything is tried; Cancelled. Either way nothing is written."""
    refuse_if(options.faults())
    where, family, *_ = all_or_refuse(
        lambda: device.pick(options.device),
        lambda: _family(options.model),
        lambda: refuse_if(_faults(options)),
        *((lambda name=name: backend(name)) for name in options.backend),
    )
    refuse_if(_part_faults(options, family))
    with tensors.replacing_folder(options.out) as folder:
        return _compiled(options, folder, family, where, events)


def _family(name: str) -> Family:
    if artifact.is_one(Path(name)):
        do = f"to compile it anew, name the model in it: {Path(name) / MODEL}"
        raise Refusal(Fault(name, "is compiled already", "a model that is not compiled", do))
    return layout.examine(opening.find(name))


def _faults(options: CompileOptions) -> Iterator[Fault]:
    read = (Path(options.model), options.controlnet)
    yield from targets.faults("--out", options.out, options.overwrite, read, targets.ARTIFACTS)
    if options.controlnet is not None and not (options.controlnet / "config.json").is_file():
        found, do = f"{options.controlnet} has no config.json", "tenshot convert FILE FOLDER makes one of a single file"
        yield Fault("--controlnet", found, "a folder as diffusers writes it", do)


def _part_faults(options: CompileOptions, family: Family) -> Iterator[Fault]:
    for part in options.parts:
        if SECTIONS[part] not in family.parts and (part != "controlnet" or options.controlnet is None):
            do = "add --controlnet FOLDER" if part == "controlnet" else "leave it out"
            yield Fault("--parts", f"{part}: there is none in {family.title}", "a part of the model", do)


def _compiled(
    options: CompileOptions, folder: Path, family: Family, where: torch.device, events: Events
) -> dict[str, Any]:
    shutil.copytree(opening.find(options.model), folder / MODEL)
    if options.controlnet is not None:
        shutil.copytree(options.controlnet, folder / CONTROLNET)
    opened = _opened(folder, where)
    size = options.height or opened.resolution, options.width or opened.resolution
    settings = Settings(steps=options.steps, size=size, batch=options.batch)
    begun = time.perf_counter()
    recorded, _ = trajectories.record(opened, options.prompt, settings, events)
    recorded = {name: calls for name, calls in recorded.items() if _wanted(name, options)}
    plain = _timed(opened, options.prompt, settings)
    other = {each: _other(opened, options, settings, each, events) for each in options.sizes if each != size}
    del opened
    sections, contests, notes = {}, [], []
    for contest in choose.contests(options, folder, recorded, where, events):
        contests.append(contest)
        if kept := choose.kept(folder, contest, recorded[contest.section]):
            programs, failed = _further(options, folder, contest.section, kept, other, where)
            sections[contest.section] = replace(kept, programs=programs)
            notes += failed
    _tidy(folder)
    again = command(options)
    prints = fingerprint.here(artifact.backends(sections), where)
    artifact.write(folder, Manifest(family.name, again, prints, sections, version=__version__))
    proof = _proof(folder, where, options, settings, plain)
    title = f"{Path(options.model).name} for {device.describe()['device']}"
    told = Report(title, again, device.describe(), options.max_error, contests, proof, notes)
    report.write(told, folder)
    events.say(f"{options.out / report.PAGE} shows everything; {time.perf_counter() - begun:.0f} s in all")
    return _result(options, sections, told)


def _opened(folder: Path, where: torch.device) -> Model:
    opened = model.load(str(folder / MODEL), device=where)
    if (folder / CONTROLNET).is_dir():
        opened = opened.with_parts(controlnet=model.controlnet(folder / CONTROLNET, where))
    return opened


def _wanted(section: str, options: CompileOptions) -> bool:
    """The UNet comes with and without a ControlNet's answers."""
    return not options.parts or section in options.parts or section.removesuffix("_controlled") in options.parts


def _timed(opened: Model, prompts: Sequence[str], settings: Settings) -> tuple[float, list[Image.Image]]:
    """For the pictures of all prompts, one batch after the other, after one step to warm up."""
    _draw(opened, prompts[:1], replace(settings, steps=1))
    start = time.perf_counter()
    drawn = _draw(opened, prompts, settings)
    return time.perf_counter() - start, drawn


def _draw(opened: Model, prompts: Sequence[str], settings: Settings) -> list[Image.Image]:
    return sampling.pictures(opened, [Request(prompt, seed) for seed, prompt in enumerate(prompts)], settings)


def _other(
    opened: Model, options: CompileOptions, settings: Settings, size: tuple[int, int], events: Events
) -> dict[str, Calls]:
    """What happens at another size, in few steps."""
    few = replace(settings, size=size, steps=min(4, settings.steps))
    recorded, _ = trajectories.record(opened, options.prompt[:1], few, events)
    return {name: calls for name, calls in recorded.items() if not name.startswith("text")}


def _further(
    options: CompileOptions,
    folder: Path,
    name: str,
    section: Section,
    other: Mapping[tuple[int, int], Mapping[str, Calls]],
    where: torch.device,
) -> tuple[tuple[artifact.Program, ...], list[str]]:
    """The programs of all sizes, and what is to be said of those that failed."""
    programs, notes = list(section.programs), []
    for (height, width), recorded in other.items():
        if name not in recorded:
            continue
        found = choose.further(options, folder, section, name, recorded[name], where)
        if isinstance(found, Outcome):
            reason = found.failed or f"error {found.error:.1e}"
            notes.append(f"{name} at {width}x{height}: {reason}. torch runs this size.")
        else:
            programs.append(found)
    return tuple(programs), notes


def _tidy(folder: Path) -> None:
    shutil.rmtree(folder / "trials", ignore_errors=True)
    for path in (*folder.glob("*.calls"), *(folder / artifact.PARTS).glob("*.log")):
        path.unlink()


def _proof(
    folder: Path,
    where: torch.device,
    options: CompileOptions,
    settings: Settings,
    plain: tuple[float, list[Image.Image]],
) -> Proof:
    """The pictures again, by what was just written; all its weights exchanged once for themselves."""
    opened = fast.load(folder, device=where)
    assert isinstance(opened, fast.FastModel)
    start = time.perf_counter()
    opened.load_weights(folder / MODEL)
    swap = time.perf_counter() - start
    (seconds_plain, wanted), (seconds, drawn) = plain, _timed(opened, options.prompt, settings)
    pairs = list(zip(wanted, drawn, strict=True))
    psnr, ssim = ([measure(*pair) for pair in pairs] for measure in (measures.psnr, measures.ssim))
    return Proof(wanted, drawn, options.prompt, seconds_plain, seconds, swap, psnr, ssim)


def command(options: CompileOptions) -> str:
    """The command line that does the same."""
    return shlex.join(["tenshot", "compile", *as_words(options, leave=["overwrite"]), "--overwrite"])


def _result(options: CompileOptions, sections: Mapping[str, Section], told: Report) -> dict[str, Any]:
    pictures = report.record(told)["pictures"]
    chosen = {each.section: str(each.chosen.candidate if each.chosen else choose.PLAIN) for each in told.contests}
    faster = {name: round(each.faster, 2) for name, each in sections.items()}
    return {"written": str(options.out), "chosen": chosen, "times as fast": faster, "pictures": pictures}
