"""What was tried and chosen, as a page that explains itself: report.html, report.json and pictures beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tenshot.compile.choose import PLAIN, Contest
from tenshot.compile.trial import Outcome
from tenshot.files.tensors import write_json, write_text
from tenshot.html import Html, el, page

PAGE, RECORD, PICTURES = "report.html", "report.json", "pictures"


@dataclass(frozen=True)
class Proof:
    """The same pictures by torch and by the artifact; seconds for all of them; psnr and ssim of each pair."""

    plain: Sequence[Image.Image]
    fast: Sequence[Image.Image]
    prompts: Sequence[str]
    seconds_plain: float
    seconds_fast: float
    swap: float
    psnr: Sequence[float]
    ssim: Sequence[float]

    @property
    def faster(self) -> float:
        return self.seconds_plain / self.seconds_fast


@dataclass(frozen=True)
class Report:
    title: str
    again: str
    machine: dict[str, Any]
    max_error: float
    contests: Sequence[Contest]
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


def record(report: Report) -> dict[str, Any]:
    """Everything in figures."""
    proof = report.proof
    return {
        "title": report.title,
        "again": report.again,
        "machine": report.machine,
        "max_error": report.max_error,
        "sections": {each.section: [_row(each, outcome) for outcome in each.outcomes] for each in report.contests},
        "pictures": {
            "seconds by torch": round(proof.seconds_plain, 3),
            "seconds compiled": round(proof.seconds_fast, 3),
            "times as fast": round(proof.faster, 2),
            "psnr": [round(each, 2) if each != float("inf") else None for each in proof.psnr],
            "ssim": [round(each, 4) for each in proof.ssim],
            "seconds to swap all weights": round(proof.swap, 3),
        },
        "notes": list(report.notes),
    }


def _row(contest: Contest, outcome: Outcome) -> dict[str, Any]:
    found = asdict(outcome) | {"candidate": str(outcome.candidate), "chosen": _chosen(contest, outcome)}
    del found["folder"]
    return found | {"times as fast": round(outcome.faster, 3)}


def _chosen(contest: Contest, outcome: Outcome) -> bool:
    return outcome is contest.chosen or (contest.chosen is None and outcome.candidate == PLAIN)


def _page(report: Report) -> str:
    notes = [el("section", el("h2", "Notes"), el("div", *(el("p", note) for note in report.notes)))]
    sections = (_section(each, report) for each in report.contests)
    rest = (*(notes if report.notes else []), _foot(report))
    return page(report.title, _top(report), _pictures(report.proof), *sections, *rest)


def _top(report: Report) -> Html:
    proof = report.proof
    worst = min(proof.psnr)
    like = "bit for bit the same" if worst == float("inf") else f"alike to {worst:.1f} dB at least (PSNR)"
    verdict = el(
        "div",
        el("p", f"Pictures {proof.faster:.2f} times as fast as with torch in float32, and {like}."),
        el("p", f"{proof.seconds_fast:.2f} s instead of {proof.seconds_plain:.2f} s for {len(proof.fast)} of them."),
        el("p", f"Another fine-tune takes its place in {proof.swap:.2f} s, with nothing compiled again."),
        class_=f"verdict {'good' if proof.faster > 1 else 'open'}",
    )
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


def _section(contest: Contest, report: Report) -> Html:
    rows = [el("tr", *_cells(contest, outcome, report.max_error)) for outcome in _sorted(contest)]
    table = el(
        "table", el("thead", el("tr", *(el("th", name) for name in _HEADS))), el("tbody", *rows), class_="trials"
    )
    lead = f"In turns with torch in float32. Allowed is an error of {report.max_error:g}."
    side = el("div", el("h2", contest.section), el("p", lead), class_="side")
    return el("section", side, el("div", table, class_="scroll"))


def _sorted(contest: Contest) -> list[Outcome]:
    return sorted(contest.outcomes, key=lambda each: (bool(each.failed), -each.faster))


def _cells(contest: Contest, each: Outcome, max_error: float) -> list[Html]:
    mark = [el("span", "chosen", class_="best")] if _chosen(contest, each) else []
    name = el("th", str(each.candidate), *mark)
    if each.failed:
        return [name, el("td", each.failed, colspan=len(_HEADS) - 1, class_="dim")]
    error = f"{each.error:.1e}" + (" too much" if each.error > max_error else "")
    figures = (f"{each.seconds:.4f} s", f"{each.faster:.2f}", error, *(f"{t:.1f} s" for t in _times(each)))
    return [name, *(el("td", figure) for figure in figures), el("td", f"{each.peak / 1e9:.1f} GB")]


def _times(each: Outcome) -> tuple[float, float, float]:
    return each.build, each.load, each.swap


def _foot(report: Report) -> Html:
    machine = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    return el(
        "section",
        el("div", el("h2", "Again"), class_="side"),
        el("div", el("p", el("code", report.again)), el("p", machine, class_="dim")),
    )
