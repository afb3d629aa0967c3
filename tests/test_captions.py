"""What lies beside pictures: it says what they show, or is refused, or one line tells that it is not used."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.io import dataset
from tenshot.train import checks
from tests import tiny
from tests.dreambooth_runs import Bench


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A folder with one picture."""
    return tiny.pictures(tmp_path / "pictures", 1)


def read(folder: Path, **more: Any) -> tuple[dict[str, str | None], list[str]]:
    """What is said of each picture, and what was told aloud."""
    told: list[str] = []
    found = dataset.read(folder, option="--train_data_dir", say=told.append, **more)
    return {str(each.path.relative_to(folder)): each.caption for each in found}, told


def refused(folder: Path, **more: Any) -> str:
    with pytest.raises(Refusal) as caught:
        read(folder, **more)
    return str(caught.value)


UMLAUT = "Kätzchen"


@pytest.mark.parametrize(("picture", "caption"), [
    ("0.png", "0.txt"),
    ("0.png", "0.png.txt"),
    ("0.png", "0.caption"),
    ("0.png", "0.png.caption"),
    ("0.png", "0.TXT"),
    ("Cat.png", "cat.txt"),
    ("cat.PNG", "CAT.png.txt"),
    (f"{unicodedata.normalize('NFD', UMLAUT)}.png", f"{unicodedata.normalize('NFC', UMLAUT)}.txt"),
    (f"{unicodedata.normalize('NFC', UMLAUT)}.png", f"{unicodedata.normalize('NFD', UMLAUT).upper()}.txt"),
    ("a.b.png", "a.b.txt"),
])  # fmt: skip
def test_a_caption_is_found_by_its_picture_s_name(one: Path, picture: str, caption: str):
    (one / "picture-0.png").rename(one / picture)
    (one / caption).write_text("said")
    assert read(one) == ({picture: "said"}, [])


def test_names_that_differ_in_case_alone_keep_their_own(tmp_path: Path):
    for name in ("cat", "Cat"):
        Image.new("RGB", (64, 64)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(name)
    assert read(tmp_path) == ({"cat.png": "cat", "Cat.png": "Cat"}, [])


@pytest.mark.parametrize("other", ["picture-0.png.txt", "picture-0.caption", "PICTURE-0.txt"])
def test_two_captions_of_one_picture_are_refused(one: Path, other: str):
    (one / "picture-0.txt").write_text("one")
    (one / other).write_text("another")
    assert "has 2 captions" in refused(one)


@pytest.mark.parametrize("name", ["picture-7.txt", "readme.txt", "picture-0.jpg.txt", "picture-0.json"])
def test_what_belongs_to_no_picture_is_told(one: Path, name: str):
    (one / name).write_text("{}")
    assert [name in line for line in read(one)[1]] == [True]


def test_an_empty_caption_is_none_and_told(one: Path):
    (one / "picture-0.txt").write_text(" \n")
    assert read(one) == ({"picture-0.png": None}, ["empty, as if there were no caption: picture-0.txt"])


def test_masks_in_onetrainer_s_manner_are_not_learned_as_pictures(one: Path):
    Image.new("L", (64, 64)).save(one / "picture-0-masklabel.png")
    assert "--mask_dir" in refused(one)


# --- kohya's tables: {picture: {"caption": ..., "tags": ..., "train_resolution": [w, h]}}


@pytest.mark.parametrize("key", ["picture-0", "picture-0.png", "/their/place/picture-0.png", "C:\\x\\Picture-0.PNG"])
@pytest.mark.parametrize(("said", "wanted"), [
    ({"caption": "a cat"}, "a cat"),
    ({"tags": "cat, red"}, "cat, red"),
    ({"caption": "a cat", "tags": "cat, red", "train_resolution": [64, 64]}, "a cat, cat, red"),
])  # fmt: skip
def test_kohya_s_metadata_says_what_of_which(one: Path, key: str, said: dict[str, Any], wanted: str):
    (one / "meta_lat.json").write_text(json.dumps({key: said}))
    assert read(one) == ({"picture-0.png": wanted}, [])


def test_a_table_speaks_for_all_and_says_so(one: Path):
    (one / "meta_cap.json").write_text(json.dumps({"picture-0": {"caption": "a cat"}}))
    (one / "picture-0.caption").write_text("another")
    assert read(one) == (
        {"picture-0.png": "a cat"},
        ["not read, meta_cap.json speaks for all pictures: picture-0.caption"],
    )


def test_tables_that_contradict_or_do_not_fit_are_refused(one: Path):
    table = {"picture-0": {"caption": "a cat"}, "picture-9": {"tags": "x"}, "picture-8": {"caption": ["x"]}}
    (one / "meta_cap.json").write_text(json.dumps(table))
    assert "picture-9" in refused(one) and "picture-8" in refused(one)
    (one / "metadata.csv").write_text("file_name,text\npicture-0.png,a cat\n")
    assert "several tables" in refused(one)


def test_a_picture_in_no_table_is_refused(one: Path):
    (one / "meta_cap.json").write_text(json.dumps({"picture-0": {"caption": "a cat"}}))
    tiny.pictures(one, 2)
    assert "picture-1.png" in refused(one)


@pytest.mark.parametrize("content", ["[1]", "{}", '{"a": 1}', '{"a": {"b": 1}}', "\x00", "[" * 9999, "9" * 9999])
def test_other_json_is_told(one: Path, content: str):
    (one / "metadata.json").write_text(content)
    assert read(one) == ({"picture-0.png": None}, ["not read for captions: metadata.json"])


# --- tables with columns


def test_lines_for_pictures_in_folders_with_repeats(tmp_path: Path):
    tiny.pictures(tmp_path / "10_az cat", 1)
    (tmp_path / "metadata.csv").write_text("file_name,text\n10_az cat/picture-0.png,a cat\n")
    captions, told = read(tmp_path)
    assert captions == {"10_az cat/picture-0.png": "a cat"}
    assert told == ["no repeats by name, metadata.csv speaks for all: 10_az cat"]


@pytest.mark.parametrize("name", ["metadata.csv", "Metadata.CSV"])
def test_a_table_is_known_by_its_name_in_any_case(one: Path, name: str):
    (one / name).write_text("file_name,text\npicture-0.png,a cat\n")
    assert read(one) == ({"picture-0.png": "a cat"}, [])


def test_a_picture_may_stand_in_several_lines(one: Path, sd1: Path, tmp_path: Path):
    """Each is learned, and a run knows all of them as its own."""
    bench = Bench(sd1, one, tmp_path, "full")
    for said in ("a cat", "a small cat"):
        (one / "metadata.csv").write_text(f"file_name,text\npicture-0.png,{said}\npicture-0.png,a pet\n")
        examples = dataset.read(one, option="")
        assert [each.caption for each in examples] == [said, "a pet"]
        claim = checks._inputs(bench.options("out"), one, sd1, examples, [], Events())
        assert claim["captions"] == {"picture-0.png": [said, "a pet"]}


def test_captions_in_a_folder_of_their_own_are_told(one: Path):
    (one / "captions").mkdir()
    (one / "captions" / "picture-0.txt").write_text("a cat")
    assert read(one)[1] == ["folders of captions, not read: they belong beside the pictures: captions"]


def test_a_column_without_a_table_is_told(one: Path):
    assert "--caption_column said" in read(one, column="said")[1][0]


def test_splits_beside_train_are_told(tmp_path: Path):
    for split in ("train", "validation"):
        tiny.pictures(tmp_path / split, 1)
    assert read(tmp_path)[1] == ["beside train, not learned from: validation"]


def test_a_caption_cut_at_a_comma_is_refused(one: Path):
    (one / "metadata.csv").write_text("file_name,text\npicture-0.png,a cat, on a mat\n")
    assert "more fields" in refused(one) and "line 2" in refused(one)


def test_an_animation_is_told(tmp_path: Path):
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    for suffix in ("gif", "png", "webp", "tiff"):
        frames[0].save(tmp_path / f"{suffix}.{suffix}", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "still.png")
    told = "animated, of which the first picture is learned: gif.gif, png.png, tiff.tiff, webp.webp"
    assert read(tmp_path)[1] == [told]


# --- folders with repeats


@pytest.mark.parametrize("name", ["99999999999999999999_az", f"{'9' * 200}_az", "0_az", "000_az", "1000000_az"])
def test_repeats_that_make_no_sense_are_refused(tmp_path: Path, name: str):
    tiny.pictures(tmp_path / name, 1)
    assert "repeats" in refused(tmp_path)


@pytest.mark.parametrize(("layout", "advice"), [
    (["img/10_az cat"], "img"),
    (["img/10_az cat", "img/2_cat"], "img"),
    (["set/pictures"], "set/pictures"),
    (["a/b/c"], "a/b/c"),
])  # fmt: skip
def test_pictures_deeper_are_pointed_at(tmp_path: Path, layout: list[str], advice: str):
    for place in layout:
        tiny.pictures(tmp_path / place, 1)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert f"do: give --train_data_dir {tmp_path / advice}\n" in refused(tmp_path) + "\n"


def test_what_a_training_drew_is_no_picture_to_learn(one: Path):
    tiny.pictures(one / "out" / "validation", 1)
    (one / "out" / "run.json").write_text("{}")
    assert list(read(one)[0]) == ["picture-0.png"]


def test_pictures_far_below_others_would_be_lost(one: Path):
    tiny.pictures(one / "more" / "still", 1)
    assert "they would not be used" in refused(one)
