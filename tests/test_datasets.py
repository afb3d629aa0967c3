"""Every layout of pictures with captions that people have, and what is refused in each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tenshot.core.errors import Refusal
from tenshot.io import dataset
from tenshot.io.images import open_mask
from tests import tiny


def read(folder: Path, **more) -> list[tuple[str, str | None, int]]:
    found = dataset.read(folder, option="--train_data_dir", **more)
    return [(str(each.path.relative_to(folder)), each.caption, each.repeats) for each in found]


def refused(folder: Path, **more) -> list[str]:
    with pytest.raises(Refusal) as caught:
        read(folder, **more)
    return [fault.where for fault in caught.value.faults]


def test_text_files_beside(tmp_path: Path):
    tiny.pictures(tmp_path, 2)
    (tmp_path / "picture-1.txt").write_text("one more\n")
    assert read(tmp_path) == [("picture-0.png", None, 1), ("picture-1.png", "one more", 1)]


def test_folders_with_repeats(tmp_path: Path):
    tiny.pictures(tmp_path / "10_az baby", 1)
    tiny.pictures(tmp_path / "2_baby", 1)
    (tmp_path / "2_baby" / "picture-0.txt").write_text("some baby")
    wanted = [("10_az baby/picture-0.png", "az baby", 10), ("2_baby/picture-0.png", "some baby", 2)]
    assert read(tmp_path) == wanted


def test_pictures_beside_folders_with_repeats_would_be_lost(tmp_path: Path):
    tiny.pictures(tmp_path / "10_az baby", 1)
    tiny.pictures(tmp_path / "0_never", 1)
    tiny.pictures(tmp_path / "more", 1)
    tiny.pictures(tmp_path, 1)
    wanted = {tmp_path / "more", tmp_path / "picture-0.png", tmp_path / "0_never"}
    assert set(refused(tmp_path)) == {str(each) for each in wanted}


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("split", ["", "train"])
def test_metadata(kind: str, split: str, tmp_path: Path):
    place = tiny.pictures(tmp_path / split, 2) if split else tiny.pictures(tmp_path, 2)
    rows = [("picture-0.png", 'a "first", one'), ("picture-1.png", "the second")]
    if kind == "jsonl":
        text = "".join(json.dumps({"file_name": name, "said": said}) + "\n" for name, said in rows)
    else:
        text = 'file_name,said\npicture-0.png,"a ""first"", one"\npicture-1.png,the second\n'
    (place / f"metadata.{kind}").write_text(text)
    assert [(Path(name).name, said) for name, said, _ in read(tmp_path, column="said")] == rows
    assert refused(tmp_path) == [
        f"{place / f'metadata.{kind}'}, line {n}" for n in ((1, 2) if kind == "jsonl" else (2, 3))
    ]


def test_metadata_is_read_as_the_datasets_library_would(tmp_path: Path):
    library = pytest.importorskip("datasets")
    tiny.pictures(tmp_path, 3)
    lines = [json.dumps({"file_name": f"picture-{n}.png", "text": f"number {n}"}) for n in (2, 0, 1)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    theirs = library.load_dataset("imagefolder", data_dir=str(tmp_path), split="train")
    assert sorted(theirs["text"]) == sorted(said for _, said, _ in read(tmp_path))


def test_all_faults_of_metadata_at_once(tmp_path: Path):
    tiny.pictures(tmp_path, 1)
    rows = [{"file_name": "../secret.png", "text": "x"}, {"text": "x"}, {"file_name": "gone.png", "text": "x"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = tmp_path / "metadata.jsonl"
    assert refused(tmp_path) == [f"{table}, line 1", f"{table}, line 2", str(tmp_path / "gone.png")]
    table.write_text(json.dumps({"file_name": "picture-0.png", "text": "x"}) + "\n")
    tiny.pictures(tmp_path / "more", 1)
    assert refused(tmp_path) == [str(tmp_path / "more" / "picture-0.png")]


def test_masks_by_name(tmp_path: Path):
    tiny.pictures(tmp_path / "own", 2)
    masks = tiny.pictures(tmp_path / "masks", 1)
    found = dataset.read(tmp_path / "own", option="--train_data_dir", masks=masks)
    assert [each.mask for each in found] == [masks / "picture-0.png", None]
    (masks / "picture-0.png").rename(masks / "other.png")
    assert refused(tmp_path / "own", masks=masks) == [str(masks / "other.png")]


@pytest.mark.parametrize(
    ("picture", "mask"),
    [
        ("Cat.png", "cat.png"),
        ("K\u00e4tzchen.png", "Ka\u0308tzchen.png"),
        ("cat.png", "cat_mask.png"),
        ("cat.png", "CAT-mask.png"),
        ("cat.png", "cat-masklabel.png"),
        ("cat.png", "cat.png.png"),
    ],
)
def test_a_mask_s_name_is_written_in_many_ways(tmp_path: Path, picture: str, mask: str):
    own, masks = tiny.pictures(tmp_path / "own", 2), tiny.pictures(tmp_path / "masks", 1)
    (own / "picture-0.png").rename(own / picture)
    (masks / "picture-0.png").rename(masks / mask)
    found = {each.path: each.mask for each in dataset.read(own, option="--train_data_dir", masks=masks)}
    assert found == {own / picture: masks / mask, own / "picture-1.png": None}


def test_a_picture_has_one_mask_and_none_is_passed_over(tmp_path: Path):
    own, masks = tiny.pictures(tmp_path / "own", 1), tiny.pictures(tmp_path / "masks", 2)
    (masks / "picture-1.png").rename(masks / "picture-0-masklabel.JPG")
    assert refused(own, masks=masks)  # of the mask beside its picture's namesake
    (masks / "picture-0.png").rename(masks / "picture-0_mask.png")
    assert refused(own, masks=masks) == [str(masks / "picture-0_mask.png")]
    (masks / "picture-0-masklabel.JPG").rename(masks / "picture-0-condlabel.png")
    assert refused(own, masks=masks) == [str(masks / "picture-0-condlabel.png")]
    (masks / "picture-0_mask.png").rename(own / "picture-0_mask.png")
    assert refused(own) == [str(own / "picture-0_mask.png")]


def test_a_mask_s_picture_counts_unless_some_of_it_is_clear(tmp_path: Path):
    opaque = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    opaque.paste((255, 255, 255, 255), (0, 0, 32, 64))
    opaque.save(tmp_path / "a.png")
    assert open_mask(tmp_path / "a.png").getextrema() == (0, 255)
    opaque.putalpha(Image.new("L", (64, 64), 128))
    opaque.save(tmp_path / "a.png")
    assert open_mask(tmp_path / "a.png").getextrema() == (128, 128)


@pytest.mark.parametrize("colour", [(0, 0, 0, 255), (255, 255, 255, 0)])
def test_a_mask_that_lets_nothing_through_is_refused(colour: tuple[int, ...], tmp_path: Path):
    tiny.pictures(tmp_path / "own", 1)
    (tmp_path / "masks").mkdir()
    Image.new("RGBA", (64, 64), colour).save(tmp_path / "masks" / "picture-0.png")
    assert refused(tmp_path / "own", masks=tmp_path / "masks") == [str(tmp_path / "masks" / "picture-0.png")]


def test_masks_that_fit_two_pictures_or_none_in_shape(tmp_path: Path):
    for name in ("1_az baby", "2_baby"):
        tiny.pictures(tmp_path / "own" / name, 1)
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.new("L", (64, 32), 255).save(masks / "picture-0.png")
    twice, wrong = refused(tmp_path / "own", masks=masks)
    assert twice == str(tmp_path / "own" / "2_baby" / "picture-0.png")
    assert wrong == str(masks / "picture-0.png")


def test_metadata_beside_the_split_and_with_any_character(tmp_path: Path):
    tiny.pictures(tmp_path / "train", 1)
    said = "one\u2028two"
    line = json.dumps({"file_name": "train/picture-0.png", "text": said}, ensure_ascii=False)
    (tmp_path / "metadata.jsonl").write_text(line, encoding="utf-8")
    assert read(tmp_path) == [("train/picture-0.png", said, 1)]
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "metadata.csv").write_text('file_name,text\ntrain/picture-0.png,"one\ntwo"\n')
    assert read(tmp_path) == [("train/picture-0.png", "one\ntwo", 1)]
