"""`tenshot compile`: a model for the machine at hand, chosen by measuring, whose weights stay exchangeable."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from tenshot import __version__, pipeline
from tenshot.autotune import asked, calibration, report, search, timing, tune
from tenshot.autotune.calibration import Calls
from tenshot.autotune.options import CompileOptions
from tenshot.autotune.report import Proof, Report
from tenshot.autotune.trial import TrialResult
from tenshot.core import device, hub_names
from tenshot.core.errors import Fault, Refusal, all_or_refuse, refuse_if
from tenshot.core.events import Events
from tenshot.core.options import as_words
from tenshot.core.results import Compiled
from tenshot.core.size import Size
from tenshot.evaluate import metrics
from tenshot.families import registry, validate
from tenshot.families.base import Family
from tenshot.io import destinations, tensors
from tenshot.model import hub, model, resolve
from tenshot.model.model import Model
from tenshot.pipeline import SamplingSettings
from tenshot.runtime import artifact, compiled_model, fingerprint, weights
from tenshot.runtime.artifact import CONTROLNET, MODEL, Manifest, Section
from tenshot.runtime.backend import backend
from tenshot.runtime.flat_modules import SECTIONS

RECORDING, FINISHING = 0.25, 0.3  # shares of the budget: no further picture is begun after, and kept for the end


def compile_model(options: CompileOptions, events: Events) -> Compiled:
    """Raises Refusal before anything is tried; Cancelled, where nothing is written but what is compiled already."""
    options = hub.fetched(options, events)
    where, family, *_ = all_or_refuse(
        lambda: device.pick(options.device),
        lambda: _family(options),
        lambda: refuse_if(_faults(options)),
        lambda: _check_tuning(options),
        *((lambda name=name: backend(name)) for name in options.backend),
    )
    refuse_if(_part_faults(options, family))
    with tensors.replacing_folder(options.out) as folder:
        compiled = _compiled(options, folder, family, where, events)
    if options.tuning:
        compiled["tuned"] = tune.tuned(options.tuning, options.told, events)
    return compiled


def _family(options: CompileOptions) -> Family:
    name = options.model
    if artifact.is_one(Path(name)):
        do = f"to compile it anew, name the model in it: {Path(name) / MODEL}"
        raise Refusal(Fault(name, "is compiled already", "a model that is not compiled", do))
    return validate.examine(resolve.find(name, vae=options.vae))


def _check_tuning(options: CompileOptions) -> None:
    if options.tuning:
        place = resolve.find(options.model, vae=options.vae)
        asked.settled(options.tuning, options.told, place)
        refuse_if(options.tuning.obstacles())


def _faults(options: CompileOptions) -> Iterator[Fault]:
    yield from destinations.faults("--out", options.out, options.overwrite, options.sources, destinations.ARTIFACTS)
    if options.controlnet is not None and not (options.controlnet / "config.json").is_file():
        found, do = f"{options.controlnet} has no config.json", "tenshot convert FILE FOLDER makes one of a single file"
        yield Fault("--controlnet", found, "a folder as diffusers writes it", do)


def _part_faults(options: CompileOptions, family: Family) -> Iterator[Fault]:
    if options.controlnet is not None and not family.takes_controlnet:
        fits = ", ".join(each.title for each in registry.FAMILIES if each.takes_controlnet)
        yield Fault("--controlnet", f"ControlNets for {family.title} are not known here", fits, "leave it out")
    for part in options.parts:
        if SECTIONS[part] not in family.parts and (part != "controlnet" or options.controlnet is None):
            do = "add --controlnet FOLDER" if part == "controlnet" else "leave it out"
            yield Fault("--parts", f"{part}: there is none in {family.title}", "a part of the model", do)


def _compiled(options: CompileOptions, folder: Path, family: Family, where: torch.device, events: Events) -> Compiled:
    begun = time.monotonic()
    _copy(resolve.find(options.model, vae=options.vae), folder / MODEL)
    if options.controlnet is not None:
        _copy(options.controlnet, folder / CONTROLNET)
    opened = _opened(folder, where, events)
    size = Size(options.height or opened.resolution, options.width or opened.resolution)
    settings = SamplingSettings(steps=options.steps, size=size, batch=options.batch)
    budget = 60 * options.budget
    drawing = time.monotonic()
    recorded, plain = calibration.record(opened, options.prompt, settings, events, begun + RECORDING * budget)
    prompts = options.prompt[: len(plain)]
    recorded = {name: calls for name, calls in recorded.items() if _wanted(name, options)}
    # As many pictures as recorded, and two in every turn, each as slow as these were.
    finishing = (time.monotonic() - drawing) * (1 + 2 * options.turns * options.batch / len(plain))
    end = begun + budget - min(finishing, FINISHING * budget)
    sizes = [each for each in options.sizes if each != size]
    other = {each: _other(opened, options, settings, each, events) for each in sizes if time.monotonic() < end}
    del opened
    sections, contests = {}, []
    notes = [f"{width}x{height}: {search.SPENT}. torch runs this size." for height, width in sizes[len(other) :]]
    for contest in search.search(options, folder, recorded, where, events, end):
        contests.append(contest)
        if kept := search.kept(folder, contest, recorded[contest.section]):
            programs, failed = _further(options, folder, contest.section, kept, other, where, end)
            sections[contest.section] = replace(kept, programs=programs)
            notes += failed
    shutil.rmtree(folder / "trials", ignore_errors=True)
    for path in (*folder.glob("*.calls"), *(folder / artifact.PARTS).glob("*.log")):
        path.unlink()
    again = command(options)
    prints = fingerprint.here(artifact.backends(sections), where)
    artifact.write(folder, Manifest(family.name, again, prints, sections, version=__version__))
    proof = _proof(folder, where, prompts, plain, settings, options.turns, begun + budget)
    title = f"{hub_names.called(Path(options.model))} for {device.describe()['device']}"
    told = Report(title, again, device.describe(), options.max_error, contests, proof, notes)
    report.write(told, folder)
    events.say(report.headline(told))
    events.say(f"{options.out / report.PAGE} shows everything; {time.monotonic() - begun:.0f} s in all")
    return _result(options, told, time.monotonic() - begun)


def _copy(source: Path, target: Path) -> None:
    with weights.steady(source):
        shutil.copytree(source, target)


def _opened(folder: Path, where: torch.device, events: Events) -> Model:
    opened = model.load(str(folder / MODEL), device=where, events=events)
    if (folder / CONTROLNET).is_dir():
        opened = opened.with_parts(controlnet=model.load_controlnet(folder / CONTROLNET, where))
    return opened


def _wanted(section: str, options: CompileOptions) -> bool:
    """The denoiser comes with and without a ControlNet's answers."""
    return not options.parts or section in options.parts or section.removesuffix("_controlled") in options.parts


def _other(
    opened: Model, options: CompileOptions, settings: SamplingSettings, size: Size, events: Events
) -> dict[str, Calls]:
    """What happens at another size, in few steps."""
    few = replace(settings, size=size, steps=min(4, settings.steps))
    recorded, _ = calibration.record(opened, options.prompt[:1], few, events)
    return {name: calls for name, calls in recorded.items() if not name.startswith("text")}


def _further(
    options: CompileOptions,
    folder: Path,
    name: str,
    section: Section,
    other: Mapping[Size, Mapping[str, Calls]],
    where: torch.device,
    end: float,
) -> tuple[tuple[artifact.Program, ...], list[str]]:
    """The programs of all sizes, and what is to be said of those that failed."""
    programs, notes = list(section.programs), []
    for (height, width), recorded in other.items():
        if name not in recorded:
            continue
        found = search.further(options, folder, section, name, recorded[name], where, end)
        if isinstance(found, TrialResult):
            reason = found.failed or f"error {found.error:.1e}"
            notes.append(f"{name} at {width}x{height}: {reason}. torch runs this size.")
        else:
            programs.append(found)
    return tuple(programs), notes


def _proof(
    folder: Path,
    where: torch.device,
    prompts: Sequence[str],
    wanted: Sequence[Image.Image],
    settings: SamplingSettings,
    turns: int,
    until: float,
) -> Proof:
    """The pictures again, by what was just written; a batch of them timed in turns with torch, which has its weights.

    wanted: as torch drew them. All weights are exchanged once for themselves.
    """
    opened = compiled_model.load(folder, device=where)
    start = time.monotonic()
    opened.load_weights(folder / MODEL)
    swap = time.monotonic() - start
    requests = calibration.asked(prompts, settings.batch)
    drawn = pipeline.images(opened, requests, settings)
    some = requests[: settings.batch]
    timed = timing.in_turns(
        lambda: pipeline.images(opened.plain(), some, settings),
        lambda: pipeline.images(opened, some, settings),
        turns,
        until,
    )
    pairs = list(zip(wanted[: len(prompts)], drawn, strict=False))
    psnr, ssim = ([measure(*pair) for pair in pairs] for measure in (metrics.psnr, metrics.ssim))
    return Proof(wanted[: len(prompts)], drawn[: len(prompts)], prompts, len(some), timed, swap, psnr, ssim)


def command(options: CompileOptions) -> str:
    """The command line that does the same."""
    return shlex.join(["tenshot", "compile", *as_words(options, leave=["overwrite"]), "--overwrite"])


def _result(options: CompileOptions, told: Report, seconds: float) -> Compiled:
    chosen = {each.section: each.chosen for each in told.contests}
    return {
        "written": str(options.out),
        "chosen": {name: str(each.candidate if each else search.PLAIN) for name, each in chosen.items()},
        "speedup": {name: round(each.speedup, 2) for name, each in chosen.items() if each},
        "speedup_spread": {name: report.rounded(each.spread) for name, each in chosen.items() if each},
        "pictures": report.record(told)["pictures"],
        "seconds": round(seconds, 1),
    }
