"""Class pictures: drawn once by the untuned model, or your own; never passed over in silence."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tenshot.io import tensors
from tenshot.train.data import prior_images
from tests import dreambooth_runs, tiny
from tests.dreambooth_runs import Bench, Ear, files, same_weights

PRIOR = dreambooth_runs.PRIOR | {"max_train_steps": "1"}


def test_they_are_drawn_once(bench: Bench):
    given = PRIOR | {"class_data_dir": bench.folder / "class"}
    first, second = Ear(), Ear()
    bench.run("first", first, **given)
    before = files(bench.folder / "class")
    bench.run("second", second, **given)
    assert "drawing class pictures" in first.jobs
    assert "drawing class pictures" not in second.jobs
    assert files(bench.folder / "class") == before
    assert len(list((bench.folder / "class").glob("*.png"))) == 4
    assert same_weights(bench.folder / "first", bench.folder / "second")


def test_without_a_folder_they_are_kept_and_found_again(bench: Bench):
    second, third = Ear(), Ear()
    bench.run("first", **PRIOR)
    bench.run("second", second, **PRIOR)
    bench.run("third", third, **PRIOR | {"class_prompt": "a baby"})
    assert "drawing class pictures" not in second.jobs
    assert "drawing class pictures" in third.jobs


def test_more_are_drawn_when_more_are_wanted(bench: Bench):
    given = PRIOR | {"class_data_dir": bench.folder / "class"}
    bench.run("few", **given)
    before = files(bench.folder / "class")
    bench.run("many", **given | {"num_class_images": "6"})
    after = files(bench.folder / "class")
    assert len(list((bench.folder / "class").glob("*.png"))) == 6
    assert all(after[name] == content for name, content in before.items() if name.endswith(".png"))


@pytest.mark.parametrize("other", [{"class_prompt": "a photo of a cat"}, {"resolution": "128"}])
def test_those_of_another_recipe_are_refused(bench: Bench, other: dict[str, str]):
    given = PRIOR | {"class_data_dir": bench.folder / "class"}
    bench.run("first", **given)
    assert bench.refused("second", **given | other) == ["--class_data_dir"]
    assert not (bench.folder / "second").exists()


def test_those_of_a_tuned_model_are_refused(bench: Bench):
    given = PRIOR | {"class_data_dir": bench.folder / "class"}
    tuned = bench.run("first", **given)
    assert bench.refused("second", **given, pretrained_model_name_or_path=str(tuned)) == ["--class_data_dir"]


def test_your_own_are_all_used(bench: Bench):
    own = tiny.pictures(bench.folder / "own", 6, seed=3)
    ear = Ear()
    bench.run("out", ear, **PRIOR, class_data_dir=own)
    assert "drawing class pictures" not in ear.jobs
    assert any("6 class pictures" in text for text in ear.said)
    assert len(list(own.iterdir())) == 6


def test_drawn_ones_join_your_own(bench: Bench):
    own = tiny.pictures(bench.folder / "own", 3, seed=3)
    ear = Ear()
    bench.run("out", ear, **PRIOR, class_data_dir=own)
    assert any("4 class pictures" in text for text in ear.said)
    assert len(list(own.glob("*.png"))) == 4


def test_drawing_that_was_killed_ends_as_if_it_had_not(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    given = PRIOR | {"num_class_images": "5", "sample_batch_size": "2"}
    whole = bench.run("whole", **given, class_data_dir=bench.folder / "whole class")
    real = tensors.write_json
    for survived in (0, 1):  # ledgers written before the kill
        ledgers = iter(range(survived))

        def dying(path: Path, value: object, ledgers=ledgers) -> None:
            if path.name == prior_images.LEDGER and next(ledgers, None) is None:
                raise KeyboardInterrupt
            real(path, value)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(tensors, "write_json", dying)
            bench.run("cut", **given, class_data_dir=bench.folder / "cut class")
    cut = bench.run("cut", **given, class_data_dir=bench.folder / "cut class")
    assert files(bench.folder / "cut class") == files(bench.folder / "whole class")
    assert same_weights(cut, whole)


def test_pictures_all_alike_are_refused(bench: Bench):
    folder = tiny.pictures(bench.folder / "class", 1)
    for number in range(3):
        shutil.copy(folder / "picture-0.png", folder / f"copy-{number}.png")
    assert bench.refused("out", **PRIOR, class_data_dir=folder) == ["--class_data_dir"]


def test_those_that_are_the_subject_are_refused(bench: Bench, pictures: Path):
    assert bench.refused("out", **PRIOR, class_data_dir=pictures) == ["--class_data_dir"]
    shutil.copytree(pictures, bench.folder / "copy")
    assert bench.refused("out", **PRIOR, class_data_dir=bench.folder / "copy") == ["--class_data_dir"]
    assert bench.refused("out", **PRIOR | {"class_prompt": "A photo of  AZ baby"}) == ["--class_prompt"]
    assert bench.refused("out", mask_dir=pictures) == ["--mask_dir"]
    assert not (bench.folder / "out").exists()


def test_other_files_are_refused(bench: Bench):
    folder = tiny.pictures(bench.folder / "class", 5)
    (folder / "picture-9.png").write_bytes(b"no picture")
    (folder / "list.csv").write_text("a,b")
    assert len(bench.refused("out", **PRIOR, class_data_dir=folder)) == 2


def test_no_pictures_at_all_are_refused(bench: Bench):
    assert bench.refused("out", **PRIOR | {"num_class_images": "0"}) == ["--num_class_images"]
    empty = bench.folder / "empty"
    empty.mkdir()
    assert bench.refused("out", **PRIOR | {"num_class_images": "0"}, class_data_dir=empty) == ["--class_data_dir"]
    assert not (bench.folder / "out").exists()
