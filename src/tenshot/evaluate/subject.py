"""Did it learn the subject, and only the subject? Drawn pictures held against those of the subject and of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean

import torch
from PIL import Image

from tenshot.core.shipped import ASSETS
from tenshot.evaluate.judge import Judge
from tenshot.evaluate.metrics import colour_likeness, edge_likeness
from tenshot.io.images import open_picture

SUBJECTS, UNSEEN = ASSETS / "subjects", ASSETS / "unseen"

Images = Sequence[Image.Image]


@dataclass(frozen=True)
class SubjectScores:
    """Of drawn pictures. All cosines are means over pairs of pictures.

    likeness: to the subject's pictures. nearest_other: to the most alike of the other subjects, `other`.
    margin: likeness - nearest_other. identified: share of pictures to which, of all subjects' pictures, one of this
    subject is nearest. These three are None where there are no others.
    colours, edges: likeness of histograms, without any net. copying: how much more alike the drawn pictures are to the
    nearest picture that was shown than to the nearest that was not, of equally many; None where none was kept back.
    """

    likeness: float
    nearest_other: float | None
    other: str
    margin: float | None
    identified: float | None
    colours: float
    edges: float
    copying: float | None


def scores(
    judge: Judge, drawn: Images, shown: Images, others: Mapping[str, Images], unseen: Images = ()
) -> SubjectScores:
    """shown: what was learned from. unseen: further pictures of the subject; likeness is to these where there are any.
    others: name -> pictures of subjects that it must not be mistaken for."""
    own = unseen or shown
    features = judge.see(drawn)
    likeness = (features @ judge.see(own).T).mean(1)
    nearest = (features @ judge.see([*shown, *unseen]).T).amax(1)
    pairs = [(a, b) for a in drawn for b in own]
    copied = copying(drawn, shown, unseen) if unseen else None
    return _scores(judge, features, likeness, nearest, others, pairs, copied)


def ceiling(judge: Judge, images: Images, others: Mapping[str, Images]) -> SubjectScores:
    """The scores of the subject's own pictures, each held against the rest of them: what drawn pictures can reach."""
    features = judge.see(images)
    cosines = features @ features.T
    likeness = (cosines.sum(1) - 1) / (len(images) - 1)
    nearest = cosines.fill_diagonal_(-1).amax(1)
    return _scores(judge, features, likeness, nearest, others, list(combinations(images, 2)), None)


def _scores(
    judge: Judge,
    features: torch.Tensor,
    likeness: torch.Tensor,
    nearest: torch.Tensor,
    others: Mapping[str, Images],
    pairs: Sequence[tuple[Image.Image, Image.Image]],
    copied: float | None,
) -> SubjectScores:
    """features: of the pictures, [n, width]. likeness: of each to the subject. nearest: of each to the nearest of the
    subject's pictures. pairs: of the pictures and the subject's."""
    cosines = {name: features @ judge.see(images).T for name, images in others.items()}
    means = {name: of.mean().item() for name, of in cosines.items()}
    other = max(means, key=lambda name: means[name], default="")
    alike = means.get(other)
    return SubjectScores(
        likeness.mean().item(),
        alike,
        other,
        None if alike is None else likeness.mean().item() - alike,
        (nearest > torch.cat([*cosines.values()], 1).amax(1)).float().mean().item() if cosines else None,
        mean(colour_likeness(*pair) for pair in pairs),
        mean(edge_likeness(*pair) for pair in pairs),
        copied,
    )


def copying(drawn: Images, shown: Images, unseen: Images) -> float:
    """Mean over drawn pictures of: likeness of edges to the nearest shown picture - to the nearest unseen one. The
    nearest of as many shown ones as there are unseen ones, in the mean over all choices; about 0 without copying."""
    differences = []
    for image in drawn:
        to_shown = [edge_likeness(image, other) for other in shown]
        nearest = mean(max(chosen) for chosen in combinations(to_shown, min(len(shown), len(unseen))))
        differences.append(nearest - max(edge_likeness(image, other) for other in unseen))
    return mean(differences)


def shipped_besides(folder: Path) -> dict[str, list[Image.Image]]:
    """The subjects that ship, without the one whose pictures lie in `folder`, if it is one of them."""
    given = folder.resolve()
    return gallery(without=given.name if given.parent in (SUBJECTS.resolve(), UNSEEN.resolve()) else "")


def gallery(without: str = "") -> dict[str, list[Image.Image]]:
    """The subjects that ship, name -> all pictures, without the one of that name."""
    names = sorted(path.name for path in SUBJECTS.iterdir() if path.name != without)
    return {name: [*pictures(SUBJECTS / name), *pictures(UNSEEN / name)] for name in names}


def pictures(folder: Path) -> list[Image.Image]:
    return [open_picture(path) for path in sorted(folder.glob("*.png"))]
