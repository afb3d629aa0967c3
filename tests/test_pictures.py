"""Folders of pictures: what is read is right, what is not right is refused, all at once."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tenshot.core.errors import Refusal
from tenshot.io.image_folder import read_folder
from tenshot.io.images import load, open_picture
from tests.picture_files import FORMATS, encoded, noise, png

pytestmark = pytest.mark.filterwarnings("error")


def faults(folder: Path, **options: object) -> dict[str, str]:
    with pytest.raises(Refusal) as refusal:
        read_folder(folder, **options)
    return {Path(fault.where).name: f"{fault.found}. {fault.do}" for fault in refusal.value.faults}


# --- a folder


def test_a_folder_is_read_in_order_of_names_with_captions_and_digests(tmp_path):
    for number, (suffix, kind) in enumerate(FORMATS.items()):
        (tmp_path / f"{9 - number}.{suffix}").write_bytes(encoded(noise(seed=number), kind))
    (tmp_path / "9.txt").write_bytes(b"\xef\xbb\xbf  a photo of az caf\xc3\xa9 \r\n")
    (tmp_path / "8.TXT").write_text("two\nlines\n")
    (tmp_path / "7.txt").write_text("  \n")
    examples = read_folder(tmp_path)
    assert [example.path.stem for example in examples] == sorted(str(9 - number) for number in range(len(FORMATS)))
    captions = {example.path.stem: example.caption for example in examples}
    assert (captions["9"], captions["8"], captions["7"], captions["6"]) == (
        "a photo of az café",
        "two\nlines",
        None,
        None,
    )
    for example in examples:
        assert example.digest == hashlib.sha256(example.path.read_bytes()).hexdigest()


def test_what_lies_beside_pictures_everywhere_is_passed_over(tmp_path):
    noise().save(tmp_path / "a.PNG")
    for name in (".hidden", "._a.png", ".DS_Store", "Thumbs.db", "desktop.ini", "metadata.json", "a.npz", "readme.txt"):
        (tmp_path / name).write_bytes(b"\xff")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "empty").mkdir()
    noise().save(tmp_path / ".ipynb_checkpoints" / "a.png")
    said: list[str] = []
    assert [example.path.name for example in read_folder(tmp_path, say=said.append)] == ["a.PNG"]
    assert sorted(said) == [
        "captions that fit no picture by name, not used: readme.txt",
        "not read for captions: metadata.json",
    ]


def test_the_content_tells_the_format_not_the_suffix(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(noise(), "JPEG"))
    assert len(read_folder(tmp_path)) == 1


def test_every_fault_is_told_at_once(tmp_path):
    whole = encoded(noise())
    contents = {
        "a-good.png": whole,
        "b-cut.png": whole[: len(whole) // 2],
        "c-text.png": b"version https://git-lfs.github.com/spec/v1",
        "d-empty.jpg": b"",
        "e-huge.png": png(20_000, 10_000, 8, 2, b""),
        "f-good.png": whole,
        "f-good.txt": "Größe".encode("utf-16"),
        "g.pdf": b"%PDF",
        "h": b"",
        "i.HEIC": b"",
        "j-zero.png": png(0, 10, 8, 2, b""),
        "k-both.png": whole[:60],
        "k-both.txt": b"\xff",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "l-link.png").symlink_to("nowhere")
    (tmp_path / "m-deeper").mkdir()
    (tmp_path / "m-deeper" / "a.png").write_bytes(whole)
    found = faults(tmp_path)
    assert sorted(found) == sorted({*contents, "l-link.png", "m-deeper"} - {"a-good.png", "f-good.png"})
    expected = {
        "b-cut.png": "cut off",
        "c-text.png": "git-lfs",
        "d-empty.jpg": "0 bytes",
        "e-huge.png": "200000000 pixels",
        "f-good.txt": "UTF-8",
        "g.pdf": "not a picture",
        "i.HEIC": "0 bytes",
        "l-link.png": "no such file",
        "m-deeper": "1 pictures",
    }
    assert {name: words for name, words in expected.items() if words not in found[name]} == {}


def test_a_folder_that_is_none(tmp_path):
    noise().save(tmp_path / "a.png")
    assert "no such folder" in faults(tmp_path / "b", option="--class_data_dir")["--class_data_dir"]
    assert "is a file" in faults(tmp_path / "a.png")["--instance_data_dir"]


def test_a_folder_without_pictures_says_what_it_holds(tmp_path):
    assert "it is empty" in faults(tmp_path)["--instance_data_dir"]
    (tmp_path / "notes.pdf").touch()
    (tmp_path / "a.txt").touch()
    found = faults(tmp_path)
    assert list(found) == ["--instance_data_dir"]
    assert "put the pictures there" in found["--instance_data_dir"]
    assert "1 .pdf" in found["--instance_data_dir"] and "notes.pdf" in found["--instance_data_dir"]


def test_pictures_one_folder_deeper_are_pointed_at(tmp_path):
    inner = tmp_path / "10_az baby"
    inner.mkdir()
    noise().save(inner / "a.png")
    noise().save(inner / "b.png")
    found = faults(tmp_path)["--instance_data_dir"]
    assert "2 in 10_az baby/" in found and f"give --instance_data_dir {inner}" in found


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert "not a file" in faults(tmp_path)["a.png"]


def test_distinct_refuses_one_picture_many_times_over(tmp_path):
    noise().save(tmp_path / "a.png")
    assert len(read_folder(tmp_path, distinct=True)) == 1
    noise().save(tmp_path / "b.png")
    noise().save(tmp_path / "c.bmp")  # other bytes, the same pixels
    assert len(read_folder(tmp_path)) == 3
    assert "3 files" in faults(tmp_path, distinct=True)["--instance_data_dir"]
    Image.fromarray(np.asarray(noise()).reshape(40, 30, 3)).save(tmp_path / "d.png")  # the same bytes, another shape
    assert len(read_folder(tmp_path, distinct=True)) == 4


# --- damage


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_picture_cut_off_anywhere_is_refused(tmp_path, suffix):
    whole = encoded(noise(80, 60), FORMATS[suffix])
    path = tmp_path / f"a.{suffix}"
    cuts = [1, 7, 16, 33, 64, 200, len(whole) // 4, len(whole) // 2, len(whole) * 9 // 10, len(whole) - 40]
    for length in cuts:
        path.write_bytes(whole[:length])
        with pytest.raises(Refusal):
            open_picture(path)
    path.write_bytes(whole)
    assert open_picture(path).size == (80, 60)


def test_a_png_cut_off_between_two_chunks_is_refused(tmp_path):
    whole = encoded(noise(200, 200))
    boundary = whole.index(b"IDAT", whole.index(b"IDAT") + 4) - 4
    (tmp_path / "a.png").write_bytes(whole[:boundary])
    with pytest.raises(Refusal, match="cut off"):
        open_picture(tmp_path / "a.png")


def test_a_flipped_bit_in_a_png_is_refused(tmp_path):
    whole = encoded(noise())
    for position in range(50, len(whole) - 40, 500):
        (tmp_path / "a.png").write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        with pytest.raises(Refusal):
            open_picture(tmp_path / "a.png")


@pytest.mark.parametrize(
    "size", [(9_600, 10_000), (10_001, 10_000), (14_000, 14_000), (60_000, 60_000), (2**31 - 1, 1)]
)
def test_a_bomb_is_known_by_its_header(tmp_path, monkeypatch, size):
    """Of these only the first is small enough to be decoded; its body is missing, so the refusal tells."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 89_478_485)
    (tmp_path / "a.png").write_bytes(png(*size, 8, 0, b""))
    with pytest.raises(Refusal) as refusal:
        load(tmp_path / "a.png")
    fault = refusal.value.faults[0]
    assert "cut off" in fault.found if size == (9_600, 10_000) else "scale it down" in fault.do
    assert Image.MAX_IMAGE_PIXELS == 89_478_485


def test_pillow_says_nothing_of_its_own(tmp_path, caplog):
    content = bytearray(encoded(noise(), "TIFF"))
    samples = content.index(b"\x15\x01\x03\x00")  # the tag SamplesPerPixel
    content[samples + 8 : samples + 10] = b"\xff\x07"
    (tmp_path / "a.tiff").write_bytes(content)
    with pytest.raises(Refusal):
        open_picture(tmp_path / "a.tiff")
    assert not caplog.records


def test_a_jpeg_that_would_take_minutes_is_refused(tmp_path):
    """By hand: the last scan of a progressive one, a thousand times over."""
    whole = encoded(noise(), "JPEG", progressive=True)
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    (tmp_path / "a.jpg").write_bytes(whole[:-2] + scan * 1000 + whole[-2:])
    with pytest.raises(Refusal, match=r"10\d\d scans"):
        open_picture(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(whole)
    assert open_picture(tmp_path / "a.jpg").size == (40, 30)


def test_damaged_exif_costs_the_orientation_only(tmp_path):
    for number, exif in enumerate((b"Exif\0\0garbage!", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")):
        for suffix in ("png", "webp", "jpg"):
            path = tmp_path / f"{number}.{suffix}"
            path.write_bytes(encoded(noise(), FORMATS[suffix], exif=exif))
            assert open_picture(path).size == (40, 30)
