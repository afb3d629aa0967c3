"""A picture of what is being drawn, beside the results while they are drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tenshot.core.errors import Cancelled, Refusal
from tenshot.core.events import Events
from tenshot.core.options import gather
from tenshot.generate import generate
from tenshot.generate.options import GenerateOptions
from tenshot.io.png import read_infotext


class Looking(Events):
    """Looks at the folder after every step, and may stop."""

    def __init__(self, file: Path, most: int = 10**6) -> None:
        self.file, self.most, self.seen = file, most, []
        self.job = ""

    def begin(self, job: str, total: int, done: int = 0) -> None:
        self.job = job

    def advance(self, done: int, **figures: float) -> None:
        if self.job == "drawing":
            self.seen.append(np.asarray(Image.open(self.file)) if self.file.exists() else None)

    def cancelled(self) -> bool:
        return len(self.seen) >= self.most


Draw = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def draw(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Draw:
    monkeypatch.chdir(tmp_path)

    def made(*words: str, events: Events | None = None) -> list[dict[str, Any]]:
        given = ["--model", str(sd1), "--prompt", "a bear", "--steps", "4", "--seed", "1", *words]
        return generate.generate(gather(GenerateOptions, given), events or Events())["pictures"]

    return made


def test_it_is_there_while_drawing_and_changes_and_goes(draw: Draw):
    looking = Looking(Path("out/preview.png"))
    words = ["--num_images", "4", "--batch_size", "3", "--hires_scale", "2", "--hires_steps", "4", "--out", "out"]
    pictures = draw("--preview_every", "2", *words, events=looking)
    shapes = [None if each is None else each.shape for each in looking.seen]
    assert shapes == [
        *(None, (88, 88, 3), (88, 88, 3), (88, 88, 3), (88, 88, 3), (152, 152, 3), (152, 152, 3), (152, 152, 3)),
        *((152, 152, 3), (32, 32, 3), (32, 32, 3), (32, 32, 3), (32, 32, 3), (64, 64, 3), (64, 64, 3), (64, 64, 3)),
    ]
    assert (looking.seen[1] != looking.seen[3]).any() and (
        looking.seen[1][9:41, 9:41] != looking.seen[1][47:79, 9:41]
    ).any()
    assert {each.name for each in Path("out").iterdir()} == {Path(each["file"]).name for each in pictures}
    plain = draw(*words)
    for one, other in zip(pictures, plain, strict=True):
        assert (np.asarray(Image.open(one["file"])) == np.asarray(Image.open(other["file"]))).all()


def test_beside_a_picture_of_a_name_and_gone_when_stopped(draw: Draw):
    looking = Looking(Path("deep/bear.preview.png"), most=3)
    with pytest.raises(Cancelled):
        draw("--preview_every", "1", "--out", "deep/bear.png", events=looking)
    assert all(each is not None for each in looking.seen) and len(looking.seen) == 3
    assert not Path("deep").exists()


def test_none_is_written_unless_asked_for(draw: Draw):
    looking = Looking(Path("out/preview.png"))
    draw("--out", "out", events=looking)
    assert looking.seen == [None] * 4


def test_only_a_preview_is_replaced(draw: Draw):
    draw("--out", "out/preview.png")
    before = Path("out/preview.png").read_bytes()
    with pytest.raises(Refusal, match=r"preview\.png is there"):
        draw("--out", "out", "--preview_every", "1")
    assert Path("out/preview.png").read_bytes() == before
    Path("out/preview.png").unlink()

    class Left(Looking):
        """What is there when the run is ended at once."""

        def advance(self, done: int, **figures: float) -> None:
            super().advance(done, **figures)
            if self.file.exists():
                Path("left.png").write_bytes(self.file.read_bytes())

    draw("--out", "out", "--preview_every", "1", events=Left(Path("out/preview.png")))
    Path("left.png").rename("out/preview.png")
    assert "Steps: 4 of 4" in (read_infotext(Path("out/preview.png")) or "")
    draw("--out", "out", "--preview_every", "1")
    assert not Path("out/preview.png").exists()
