"""Every method on the same pictures: what is kept, what is said, and what follows from the figures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tenshot.compare import cells, few_steps, page, table
from tenshot.compare import compare as compare_module
from tenshot.compare.cells import Cell, Outcome
from tenshot.compare.compare import compare
from tenshot.compare.options import CompareOptions
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.options import resolve
from tenshot.evaluate import pocket_judge
from tenshot.evaluate.measures import Subject
from tenshot.evaluate.subject import SUBJECTS, UNSEEN
from tenshot.io.images import open_picture
from tenshot.model import model
from tenshot.report import chart
from tenshot.report.record import UNTUNED
from tenshot.train.engine import validation
from tenshot.train.options import TextualInversionOptions
from tenshot.train.subject_options import METHODS
from tenshot.train.ways import WAYS
from tests.dreambooth_runs import Ear

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

    def train(cell: Cell, folder: Path, events: Events, hopeless: Any) -> dict[str, float]:
        done.append(cell.name)
        return COSTS | {"file_bytes": 1e6} if cell.method else {}

    def images(model: object, wanted: Sequence[Any], *_: object) -> list[Image.Image]:
        return [Image.new("RGB", (128, 128), (each.seed * 40 % 256, 90, len(each.prompt))) for each in wanted]

    def shown(folder: Path) -> dict[int, list[Path]]:
        told = {60: "sloth/sloth-1", 120: "koala/koala-2"} if "none" not in folder.parts else {}
        return {step: [SUBJECTS / f"{name}.png"] * 2 for step, name in told.items()}

    monkeypatch.setattr(cells, "_train", train)
    monkeypatch.setattr(cells.validation, "drawn", shown)
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


def test_each_method_learns_at_the_rate_that_is_usual_for_the_model(tmp_path: Path):
    """A recipe holds every option: none is left to be settled by what reads it."""
    pocket, asked = model.find("pocket"), options(tmp_path / "out")
    rates = {cell.method: cell.training.learning_rate for cell in compare_module._cells(asked, pocket) if cell.training}
    assert rates == {
        "dreambooth": 3e-4, "dreambooth-no-prior": 3e-4, "lora": 2e-3, "textual-inversion": 1e-3, "full": 3e-4,
    }  # fmt: skip


def test_likeness_over_the_steps_is_the_judge_s_of_what_was_drawn_while_training(trained: list[str], tmp_path: Path):
    found = compare(options(tmp_path / "out", methods=["lora", "full"]), Events())["likeness_by_step"]
    assert found["lora"] == found["full"] and [*found["lora"]] == ["0", "60", "120"]
    eye, unseen = pocket_judge.load(), [open_picture(path) for path in sorted((UNSEEN / "koala").glob("*.png"))]
    for step, name in (("60", "sloth/sloth-1"), ("120", "koala/koala-2")):
        assert found["lora"][step] == pytest.approx(
            eye.likeness([open_picture(SUBJECTS / f"{name}.png")], unseen), abs=1e-5
        )
    assert found["lora"]["120"] > found["lora"]["60"] + 0.2
    record = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert record["likeness_by_step"] == found
    written = (tmp_path / "out" / "index.html").read_text()
    assert written.count('class="mean') == 2 and "2 full fine-tuning" in written
    again = compare(options(tmp_path / "out", methods=["lora", "full"]), Events())["likeness_by_step"]
    assert again == found and trained == ["untuned", "lora-0", "full-0"]
    none = compare(options(tmp_path / "none", methods=["lora"], num_validation_images=0), Events())
    assert none["likeness_by_step"] == {} and "<polyline" not in (tmp_path / "none" / "index.html").read_text()


def test_what_was_drawn_while_training_is_found_by_its_step(tmp_path: Path):
    for name in ("step-000060-0", "step-000060-1", "step-001200-0"):
        (tmp_path / "validation").mkdir(exist_ok=True)
        (tmp_path / "validation" / f"{name}.png").touch()
    found = validation.drawn(tmp_path)
    assert {step: [path.stem[-1] for path in paths] for step, paths in found.items()} == {60: ["0", "1"], 1200: ["0"]}
    training = TextualInversionOptions.model_construct(output_dir=tmp_path, num_validation_images=2)
    nobody: Any = None
    examination = cells.Examination(nobody, nobody, nobody)
    assert [*examination._drawn(Cell("w", "textual-inversion", training))] == [60]  # the second of 1200 is yet to come


def test_lines_lie_where_their_numbers_say_and_labels_do_not_cover_each_other():
    drawn = chart.lines({"a": [(0, 0.0), (100, 0.5)], "b": [(0, -0.1), (50, 0.2), (100, 0.49)]}, "likeness")
    points = [
        [tuple(map(float, each.split(","))) for each in line.split()] for line in re.findall(r'points="([^"]+)"', drawn)
    ]
    (a0, a1), (b0, b1, b2) = points
    assert a0[0] == b0[0] and a1[0] == b2[0] and b1[0] == pytest.approx((b0[0] + b2[0]) / 2, abs=0.1)
    scale = (a0[1] - a1[1]) / 0.5  # pixels of 1, upwards
    assert b0[1] - a0[1] == pytest.approx(0.1 * scale, abs=0.2) and b2[1] - a1[1] == pytest.approx(
        0.01 * scale, abs=0.2
    )
    first, second = (float(re.search(rf'y="([\d.]+)" dy="0.35em">{n}<', drawn)[1]) for n in (1, 2))  # type: ignore[index]
    assert second - first >= 18


@pytest.mark.parametrize(("method", "teacher"), [("dreambooth-no-prior", "-0"), ("lora", "-0-merged")])
def test_the_recommended_result_is_made_fast_and_measured_as_it_wants_to_be_drawn(
    trained: list[str], method: Any, teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its own teacher is the whole model: a LoRA goes into one first. Drawn with 8 steps and without guidance."""
    asked = options(tmp_path / "out", methods=[method], few_steps=True)
    place = model.find("pocket")
    monkeypatch.setattr(few_steps, "merge", lambda given, events: given.save_to.mkdir(parents=True))
    drawn: list[Any] = []
    images = cells.pipeline.images
    monkeypatch.setattr(cells.pipeline, "images", lambda *given: drawn.append(given[2]) or images(*given))
    monkeypatch.setattr(table, "_learned", lambda *_: True)
    found = compare(asked, Events())
    assert trained == ["untuned", f"{method}-0", "few-steps"] and found["recommended"] == method
    assert found["costs"]["few-steps"]["file_bytes"] == 1e6 and "few-steps" in found["measures"]
    assert [(each.steps, each.guidance) for each in drawn] == [(20, 7.5), (20, 7.5), (8, 1)]
    assert "in 8 steps" in (tmp_path / "out" / "index.html").read_text()
    (best,) = [each for each in compare_module._cells(asked, place) if each.method == method]
    of = Subject("animal", [], [])
    made = few_steps.cell(asked, [best], method, cells.Examination(asked, pocket_judge.load(), of), place, Events())
    assert made and made.few_steps and "a photo of an animal" in made.few_steps.prompt
    assert made.few_steps.learning_rate == 1e-3
    assert any("az animal" in each for each in made.few_steps.prompt)
    assert Path(made.few_steps.pretrained_model_name_or_path).name == method + teacher


def test_a_word_alone_is_not_made_fast(tmp_path: Path):
    said = Ear()
    word = Cell("w", "textual-inversion", TextualInversionOptions.model_construct(placeholder_token=["<az>"]))
    nobody: Any = None
    assert few_steps.cell(nobody, [word], "textual-inversion", nobody, tmp_path, said) is None
    assert few_steps.cell(nobody, [word], None, nobody, tmp_path, said) is None
    assert "a learned word makes no model" in said.said[0] and "no method is recommended" in said.said[1]


@pytest.mark.slow
def test_every_method_is_trained_in_a_process_of_its_own_and_measured(tmp_path: Path):
    given = {"max_train_steps": 2, "num_class_images": 2, "num_validation_images": 1, "seeds": 1}
    found = compare(options(tmp_path / "out", **given), Events())
    assert set(found["costs"]) == set(METHODS)
    assert all([*steps] == ["0", "1", "2"] for steps in found["likeness_by_step"].values())
    for costs in found["costs"].values():
        assert costs["peak_bytes"] > 1e8 and costs["seconds"] > 0 and costs["file_bytes"] > 500
    assert found["costs"]["textual-inversion"]["file_bytes"] < found["costs"]["lora"]["file_bytes"] < 1e7
    assert found["recommended"] is None  # two steps teach nothing
