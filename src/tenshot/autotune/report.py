"""What was tried and chosen, as a page that explains itself: report.html, report.json and pictures beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tenshot.autotune import timing
from tenshot.autotune.search import PLAIN, SectionSearch
from tenshot.autotune.timing import Spread, Turns
from tenshot.autotune.trial import TrialResult
from tenshot.core.html import Html, el, page
from tenshot.io.tensors import write_json, write_text

PAGE, RECORD, PICTURES = "report.html", "report.json", "pictures"
SPENT = "the budget was spent (--budget)"


@dataclass(frozen=True)
class Proof:
    """The same pictures by torch and by the artifact; psnr and ssim of each pair.

    turns: both draw `timed` of the pictures. swap: seconds to exchange all weights.
    """

    plain: Sequence[Image.Image]
    fast: Sequence[Image.Image]
    prompts: Sequence[str]
    timed: int
    turns: Turns
    swap: float
    psnr: Sequence[float]
    ssim: Sequence[float]

    @property
    def speedup(self) -> float:
        return timing.speedup(*self.turns.seconds)


@dataclass(frozen=True)
class Report:
    title: str
    again: str
    machine: dict[str, object]
    max_error: float
    contests: Sequence[SectionSearch]
    proof: Proof
    notes: Sequence[str] = ()


def write(report: Report, folder: Path) -> None:
    """Write the page, the record and the pictures into `folder`."""
    (folder / PICTURES).mkdir()
    for number, pair in enumerate(zip(report.proof.plain, report.proof.fast, strict=True), 1):
        for kind, image in zip(("plain", "fast"), pair, strict=True):
            image.save(folder / _file(number, kind))
    write_json(folder / RECORD, record(report))
    write_text(folder / PAGE, _page(report))


def _file(number: int, kind: str) -> str:
    return f"{PICTURES}/{number}-{kind}.png"


def record(report: Report) -> dict[str, object]:
    """Everything in figures: seconds, bytes."""
    proof = report.proof
    return {
        "title": report.title,
        "again": report.again,
        "machine": report.machine,
        "max_error": report.max_error,
        "sections": {each.section: [_row(each, outcome) for outcome in each.outcomes] for each in report.contests},
        "pictures": {
            **_timed(proof),
            "psnr": [round(each, 2) if each != float("inf") else None for each in proof.psnr],
            "ssim": [round(each, 4) for each in proof.ssim],
            "swap_seconds": round(proof.swap, 3),
        },
        "notes": list(report.notes),
    }


def _timed(proof: Proof) -> dict[str, object]:
    if proof.turns.spread is None:
        return {"not_measured": SPENT}
    plain, fast = proof.turns.seconds
    return {
        "timed": proof.timed,
        "seconds_torch": round(plain, 3),
        "seconds_compiled": round(fast, 3),
        "speedup": round(proof.speedup, 2),
        "speedup_spread": rounded(proof.turns.spread),
    }


def rounded(spread: Spread | None) -> list[float] | None:
    return None if spread is None else [round(each, 2) for each in spread]


def _row(contest: SectionSearch, outcome: TrialResult) -> dict[str, object]:
    return {
        "candidate": str(outcome.candidate),
        "chosen": _chosen(contest, outcome),
        "failed": outcome.failed,
        "error": outcome.error,
        "seconds": outcome.seconds,
        "seconds_torch": outcome.plain,
        "speedup": round(outcome.speedup, 3),
        "speedup_spread": rounded(outcome.spread),
        "build_seconds": outcome.build,
        "load_seconds": outcome.load,
        "swap_seconds": outcome.swap,
        "peak_memory_bytes": outcome.peak,
    }


def _chosen(contest: SectionSearch, outcome: TrialResult) -> bool:
    return outcome is contest.chosen or (contest.chosen is None and outcome.candidate == PLAIN)


def _page(report: Report) -> str:
    notes = [el("section", el("h2", "Notes"), el("div", *(el("p", note) for note in report.notes)))]
    sections = (_section(each, report) for each in report.contests)
    rest = (*(notes if report.notes else []), _foot(report))
    return page(report.title, _top(report), _pictures(report.proof), *sections, *rest)


def headline(report: Report) -> str:
    """What was gained for whole pictures. Nothing is claimed that the turns leave open."""
    proof = report.proof
    if not any(each.chosen for each in report.contests):
        return "Torch itself is kept: nothing that was tried is faster for certain within the error allowed."
    if proof.turns.spread is None:
        return f"How fast whole pictures are was not measured: {SPENT}."
    low, high = proof.turns.spread
    span = f"{low:.2f} to {high:.2f} in {len(proof.turns.mine)} turns"
    if low <= 1 <= high:
        return f"Whether pictures are faster than with torch in float32 the turns leave open: {span}."
    return f"Pictures {proof.speedup:.2f} times as fast as with torch in float32 ({span})."


def _top(report: Report) -> Html:
    proof = report.proof
    worst = min(proof.psnr)
    like = "are bit for bit the same" if worst == float("inf") else f"are alike to {worst:.1f} dB at least (PSNR)"
    plain, fast = proof.turns.seconds
    gained = any(each.chosen for each in report.contests) and timing.certain(proof.turns.spread)
    lines = [headline(report), f"The pictures {like}."]
    lines += [f"{fast:.2f} s instead of {plain:.2f} s for {proof.timed} of them."] if gained else []
    lines += [f"Another fine-tune takes its place in {proof.swap:.2f} s, with nothing compiled again."]
    verdict = el("div", *(el("p", line) for line in lines), class_=f"verdict {'good' if gained else 'open'}")
    machine = f"{report.machine['device']}, {report.machine['cores']} cores"
    return el(
        "header",
        el(
            "div",
            el("p", "tenshot compile", class_="eyebrow"),
            el("h1", report.title),
            verdict,
            el("p", machine, class_="dim"),
        ),
    )


def _pictures(proof: Proof) -> Html:
    articles = []
    for number, prompt in enumerate(proof.prompts[: len(proof.fast)], 1):
        psnr = proof.psnr[number - 1]
        told = "equal" if psnr == float("inf") else f"{psnr:.1f} dB"
        lines = [
            el("figure", el("img", src=_file(number, kind), alt=f"{prompt}, {name}"), el("figcaption", name))
            for kind, name in (("plain", "torch, float32"), ("fast", f"compiled ({told})"))
        ]
        articles.append(el("article", el("h3", prompt), el("div", *lines, class_="strip", style="--n:2")))
    lead = el("p", "The same prompts and seeds.")
    return el("section", el("div", el("h2", "Side by side"), lead, class_="side"), el("div", *articles))


_HEADS = ("how", "seconds", "times as fast", "error", "build", "load", "swap", "memory")


def _section(contest: SectionSearch, report: Report) -> Html:
    best_first = sorted(contest.outcomes, key=lambda each: (bool(each.failed), -each.speedup))
    rows = [el("tr", *_cells(contest, outcome, report.max_error)) for outcome in best_first]
    table = el(
        "table", el("thead", el("tr", *(el("th", name) for name in _HEADS))), el("tbody", *rows), class_="trials"
    )
    lead = (
        f"In turns with torch in float32; in brackets from turn to turn. Allowed is an error of {report.max_error:g}."
    )
    side = el("div", el("h2", contest.section), el("p", lead), class_="side")
    return el("section", side, el("div", table, class_="scroll"))


def _cells(contest: SectionSearch, each: TrialResult, max_error: float) -> list[Html]:
    mark = [el("span", "chosen", class_="best")] if _chosen(contest, each) else []
    name = el("th", str(each.candidate), *mark)
    if each.failed:
        return [name, el("td", each.failed, colspan=len(_HEADS) - 1, class_="dim")]
    error = f"{each.error:.1e}" + (" too much" if each.error > max_error else "")
    span = f" ({each.spread[0]:.2f} to {each.spread[1]:.2f})" if each.spread else ""
    figures = (
        f"{each.seconds:.4f} s",
        f"{each.speedup:.2f}{span}",
        error,
        *(f"{t:.1f} s" for t in (each.build, each.load, each.swap)),
    )
    return [name, *(el("td", figure) for figure in figures), el("td", f"{each.peak / 1e9:.1f} GB")]


def _foot(report: Report) -> Html:
    machine = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    return el(
        "section",
        el("div", el("h2", "Again"), class_="side"),
        el("div", el("p", el("code", report.again)), el("p", machine, class_="dim")),
    )
