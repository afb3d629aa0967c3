"""`tenshot tune`: the cheapest way to draw with a model that proves itself on its pictures."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from tenshot import pipeline, preset
from tenshot.autotune import asked, ladder, report, timing
from tenshot.autotune.examination import Examination, Spent
from tenshot.autotune.ladder import Rung
from tenshot.autotune.timing import Turns
from tenshot.autotune.trials import Trial, Trials
from tenshot.autotune.tune_options import TuneOptions
from tenshot.core import device
from tenshot.core.errors import all_or_refuse, refuse_if
from tenshot.core.events import Events, track
from tenshot.core.options import as_words
from tenshot.core.results import Tuned
from tenshot.core.size import Size
from tenshot.evaluate.judge import Judge
from tenshot.io import hashes, png, tensors
from tenshot.model import hub
from tenshot.preset import Certified
from tenshot.runtime import compiled_model

RECORD, PICTURES = "tune.json", "pictures.png"
SHOWN = 4  # pictures on the sheet
TIMED = 2  # pictures of a turn at most


def tune(options: TuneOptions, events: Events) -> Tuned:
    """Climb until a way holds; generate takes it from then on. Raises Refusal before anything is drawn; Cancelled."""
    return tuned(hub.fetched(options, events), [], events)


def tuned(options: TuneOptions, given: Sequence[str], events: Events) -> Tuned:
    """Likewise, for these prompts where there are any."""
    begun = time.monotonic()
    where, place, *_ = all_or_refuse(
        lambda: device.pick(options.device),
        lambda: _place(options, events),
        lambda: refuse_if(options.faults()),
        lambda: refuse_if(options.obstacles()),
    )
    prompts, judge, shots = asked.settled(options, given, compiled_model.folder(place))
    opened = compiled_model.load(place, device=where, events=events)
    size = Size(options.height or opened.resolution, options.width or opened.resolution)
    search, proof = asked.requests(prompts, options.count, options.seed)
    told = _told(options, place, prompts, size, judge)
    examination = Examination(
        options.certificate,
        opened,
        opened.plain(),
        search,
        proof,
        size,
        options.batch_size,
        options.guidance_scale,
        options.min_psnr,
        judge if options.certificate == "good" else None,
        shots,
        options.out / hashes.of_json(told)[:12],
        begun + 60 * options.budget,
    )
    trials = Trials(examination.folder / "trials.json")
    found = climb(examination, options.turns, trials, events)
    result: Tuned = {
        "certificate": options.certificate,
        "written": None,
        "preset": None,
        "tried": {str(each.preset): each.row() for each in sorted(trials.made, key=lambda each: each.cost)},
        "seconds": round(time.monotonic() - begun, 1),
    }
    if found:
        turns = _timed(examination, found, options.turns)
        file = preset.write(place, options.certificate, _certified(options, found, size))
        result |= {"written": str(file), "preset": str(found.preset), "proof": found.proof, **_told_of(turns)}
        result["pictures"] = str(_sheet(options.out / PICTURES, examination, found, events))
        result["seconds"] = round(time.monotonic() - begun, 1)
    tensors.write_json(options.out / RECORD, result)
    events.say(_verdict(examination, found, trials, result))
    return result


def _place(options: TuneOptions, events: Events) -> Path:
    place = compiled_model.find(options.model, events)
    compiled_model.examine(place)
    return place


def _told(
    options: TuneOptions, place: Path, prompts: Sequence[str], size: Size, judge: Judge | None
) -> dict[str, object]:
    """What the outcome of a trial follows from."""
    of = ("certificate", "min_psnr", "guidance_scale", "seed", "count")
    return {
        "weights": {name: seen["sha256"] for name, seen in preset.weights(place).items()},
        "prompts": list(prompts),
        "size": list(size),
        "judge": judge.name if judge else None,
        "pictures": str(options.pictures),
        **{name: getattr(options, name) for name in of},
    }


def climb(examination: Examination, rounds: int, trials: Trials, events: Events) -> Trial | None:
    """The cheapest way that holds; None where none does, or the budget is spent before."""
    model, some = examination.opened, examination.search[: examination.batch]
    rate = trials.unguided or ladder.unguided(model, some, examination.guidance, examination.size, rounds)
    trials.unguided = rate
    rungs = ladder.rungs(model, examination.kind, examination.guidance, examination.size, rate)
    try:
        for rung in track(rungs, "trying ways, the cheapest first", len(rungs), events):
            trial = trials.of(rung) or trials.add(_tried(examination, rung, events))
            if trial.proved:
                events.say(str(trial))
            if trial.held:
                return trial
    except Spent:
        events.say("the budget is spent (--budget); the same command goes on")
    return None


def _tried(examination: Examination, rung: Rung, events: Events) -> Trial:
    """First on the pictures to search by; what is likely there has to hold on others."""
    found, count = examination.sat(rung.preset, examination.search, events)
    if not found.likely or count < len(examination.search):
        return Trial.of(rung, found, count, proved=False)
    events.say(f"to be proved: {rung.preset}")
    found, count = examination.sat(rung.preset, examination.proof, events)
    whole = count == len(examination.proof)
    return Trial.of(rung, found, count, proved=True, held=found.holds and whole)


def _timed(examination: Examination, found: Trial, rounds: int) -> Turns:
    """Whole pictures, in turns with the usual way as torch draws it in float32."""
    some = examination.search[: min(TIMED, examination.batch)]
    size, batch = examination.size, len(some)
    before = ladder.usual(examination.plain, examination.guidance).settings(size, batch)
    after = found.preset.settings(size, batch)
    return timing.in_turns(
        lambda: pipeline.images(examination.plain, some, before),
        lambda: pipeline.images(examination.opened, some, after),
        rounds,
    )


def _told_of(turns: Turns) -> Tuned:
    usual, mine = turns.seconds
    return {
        "speedup": round(timing.speedup(usual, mine), 2),
        "speedup_spread": report.rounded(turns.spread),
        "usual_seconds": round(usual, 3),
        "preset_seconds": round(mine, 3),
    }


def _certified(options: TuneOptions, found: Trial, size: Size) -> Certified:
    return Certified(found.preset, (size.height, size.width), found.proof, command(options))


def command(options: TuneOptions) -> str:
    """The command line that does the same."""
    return shlex.join(["tenshot", "tune", *as_words(options)])


def _sheet(file: Path, examination: Examination, found: Trial, events: Events) -> Path:
    """The reference's pictures, and those of the way that was found, of the same prompts and seeds."""
    requests = examination.proof[:SHOWN]
    settings = found.preset.settings(examination.size, examination.batch)
    rows: list[Sequence[Image.Image]] = [
        examination.wanted(examination.proof, events)[:SHOWN],
        pipeline.images(examination.opened, requests, settings, events, "drawing the sheet"),
    ]
    labels = [f"torch, float32: {examination.reference}", str(found.preset)]
    png.write_picture(file, png.contact_sheet(rows, labels, [each.prompt[:40] for each in requests]), "")
    return file


def _verdict(examination: Examination, found: Trial | None, trials: Trials, result: Tuned) -> str:
    if found is None:
        told = f"none of the {len(trials.made)} ways that were tried holds; nothing is written"
        nearest = max(trials.made, key=lambda each: each.short, default=None)
        return f"{told}. What came nearest: {nearest.preset}, {nearest.proof}" if nearest else told
    speed = timing.told(result["speedup"], _pair(result["speedup_spread"]))
    usual = ladder.usual(examination.plain, examination.guidance)
    return f"{found.preset}: {found.proof}. {speed} as {usual}, torch in float32"


def _pair(spread: list[float] | None) -> timing.Spread | None:
    return (spread[0], spread[1]) if spread else None
