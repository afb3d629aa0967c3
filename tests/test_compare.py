"""Every method on the same pictures: what is kept, what is said, and what follows from the figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tenshot.compare import cells, page, table
from tenshot.compare.cells import Cell, Outcome
from tenshot.compare.compare import compare
from tenshot.compare.options import CompareOptions
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.options import resolve
from tenshot.evaluate import pocket_judge
from tenshot.evaluate.subject import SUBJECTS, UNSEEN
from tenshot.report.record import UNTUNED
from tenshot.train.subject_options import METHODS
from tenshot.train.ways import WAYS

KOALA = SUBJECTS / "koala"
COSTS = {"seconds": 60.0, "seconds_per_step": 0.5, "peak_bytes": 1e9}
SIZES = {"dreambooth": 70e6, "dreambooth-no-prior": 70e6, "lora": 2e6, "textual-inversion": 4e3, "full": 70e6}


def outcome(method: Any, likeness: float, recognised: float, prompt: float = 0.5, margin: float = 0.2) -> Outcome:
    figures = {"subject likeness": likeness, "prompt likeness": prompt, "margin": margin, "recognised": recognised}
    costs = COSTS | {"file_bytes": SIZES[method]} if method else {}
    return Outcome(Cell(method or UNTUNED, method), figures, costs, {})


def advised(*learned: Outcome) -> table.Table:
    real = {"subject likeness": 0.8, "prompt likeness": 0.5, "margin": 0.4, "recognised": 1.0}
    return table.tabulated([outcome(None, 0.1, 0.0), *learned], real, pocket_judge.load())


def test_the_most_alike_is_recommended_and_a_lighter_one_that_is_nearly_as_like():
    assert advised(outcome("dreambooth", 0.7, 0.9), outcome("lora", 0.5, 0.9)).recommended == "dreambooth"
    light = advised(outcome("dreambooth", 0.7, 0.9), outcome("lora", 0.68, 0.9))
    assert light.recommended == "lora"
    assert "97%" in light.advice and "2 MB instead of 70" in light.advice


def test_what_is_taken_for_another_or_forgets_prompts_is_not():
    other = outcome("dreambooth", 0.7, 0.5)
    assert advised(other, outcome("lora", 0.4, 0.9)).recommended == "lora"
    assert advised(outcome("dreambooth", 0.7, 0.9, prompt=0.3), outcome("lora", 0.4, 0.9)).recommended == "lora"
    grey = outcome("dreambooth", 0.7, 0.9, prompt=0.3)
    grey.figures.update(background=0.9, style=0.9)  # it is counted: less like its prompt, but as asked
    plain = outcome("lora", 0.4, 0.9)
    plain.figures.update(background=0.5, style=0.9)
    before = outcome(None, 0.1, 0.0)
    before.figures.update(background=1.0, style=1.0)
    real = {"subject likeness": 0.8, "prompt likeness": 0.2, "margin": 0.4, "recognised": 1.0}
    assert table.tabulated([before, grey, plain], real, pocket_judge.load()).recommended == "dreambooth"
    none = advised(other, outcome("lora", 0.4, 0.9, margin=-0.1))
    assert none.recommended is None and "DreamBooth came nearest" in none.advice and "--max_train_steps" in none.advice


def test_one_picture_alone_says_nothing_of_real_ones():
    nothing = dict.fromkeys(("subject likeness", "margin", "recognised"), None) | {"prompt likeness": 0.5}
    found = table.tabulated([outcome(None, 0.1, 0.0), outcome("lora", 0.4, 0.9)], nothing, pocket_judge.load())
    assert found.recommended == "lora" and "real" not in found.advice


def test_several_trainings_are_means_with_their_spread():
    found = advised(outcome("lora", 0.4, 0.9), outcome("lora", 0.6, 1.0))
    assert found.measures["lora"]["subject likeness"] == pytest.approx(0.5)
    assert found.spread["lora"]["subject likeness"] == pytest.approx(0.02**0.5)
    assert found.spread.keys() == {"lora"}


def test_methods_that_may_be_named_are_those_that_there_are():
    assert tuple(WAYS) == METHODS


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Nothing is trained or drawn; what would have been is named."""
    done: list[str] = []

    def train(cell: Cell, folder: Path, events: Events) -> dict[str, float]:
        done.append(cell.name)
        return COSTS | {"file_bytes": 1e6} if cell.method else {}

    def images(model: object, wanted: Sequence[Any], *_: object) -> list[Image.Image]:
        return [Image.new("RGB", (128, 128), (each.seed * 40 % 256, 90, len(each.prompt))) for each in wanted]

    monkeypatch.setattr(cells, "_train", train)
    monkeypatch.setattr(cells, "_opened", lambda *_: None)
    monkeypatch.setattr(cells.pipeline, "images", images)
    yield done


def options(out: Path, **given: object) -> CompareOptions:
    told = {"pictures": KOALA, "unseen": UNSEEN / "koala", "subject": "animal", "seeds": 2, "out": out}
    return resolve(CompareOptions, told | given)


def test_what_is_there_is_not_done_again(trained: list[str], tmp_path: Path):
    found = compare(options(tmp_path / "out", methods=["lora", "full"]), Events())
    assert trained == ["untuned", "lora-0", "full-0"]
    assert set(found["measures"]) == {"real", "untuned", "lora", "full"}
    again = compare(options(tmp_path / "out", methods=["lora", "full"]), Events())
    assert trained == ["untuned", "lora-0", "full-0"] and again == found
    compare(options(tmp_path / "out", methods=["lora"], trainings=2), Events())
    assert trained == ["untuned", "lora-0", "full-0", "lora-1"]
    compare(options(tmp_path / "out", methods=["lora"], seeds=3), Events())  # drawn otherwise
    assert trained[-2:] == ["untuned", "lora-0"]


def test_the_page_needs_nothing_beside_it_and_says_what_the_record_says(trained: list[str], tmp_path: Path):
    found = compare(options(tmp_path / "out", methods=["lora", "textual-inversion"]), Events())
    written = Path(found["page"]).read_text()
    record = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert 'src="data:image/jpeg' in written and "http" not in written
    assert "<script" not in written and page.SHOWN == 2
    assert record["why"] == found["why"] and found["why"] in written.replace("&#x27;", "'")
    assert "textual inversion" in written and "recognised" in written and "peak memory, GB" in written


def test_all_is_refused_in_its_own_options_before_anything_is_trained(trained: list[str], tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(Refusal) as caught:
        compare(options(tmp_path / "out", pictures=tmp_path / "mine"), Events())
    told = "\n".join(map(str, caught.value.faults))
    assert "--pictures" in told and "thesis.txt" in told and "--instance_data_dir" not in told
    assert trained == [] and [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_every_method_is_trained_in_a_process_of_its_own_and_measured(tmp_path: Path):
    found = compare(options(tmp_path / "out", max_train_steps=2, num_class_images=2, seeds=1), Events())
    assert set(found["costs"]) == set(METHODS)
    for costs in found["costs"].values():
        assert costs["peak_bytes"] > 1e8 and costs["seconds"] > 0 and costs["file_bytes"] > 500
    assert found["costs"]["textual-inversion"]["file_bytes"] < found["costs"]["lora"]["file_bytes"] < 1e7
    assert found["recommended"] is None  # two steps teach nothing
