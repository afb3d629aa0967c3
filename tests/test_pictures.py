"""Folders of pictures: what is read is right, what is not right is refused, all at once."""

import hashlib
import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from tenshot.errors import Refusal
from tenshot.files.pictures import as_image, as_rgb, as_tensor, fit_picture, load, open_picture, read_folder

FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "bmp": "BMP", "gif": "GIF", "tiff": "TIFF"}
if features.check("avif"):
    FORMATS["avif"] = "AVIF"


def noise(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, transparent: bytes = b"") -> bytes:
    """A PNG made by hand, so that its header can say what it likes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    palette = chunk(b"PLTE", bytes([255, 0, 0, 0, 0, 255])) if colour == 3 else b""
    clear = chunk(b"tRNS", transparent) if transparent else b""
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + palette + clear + body


def pixels(image: Image.Image) -> list[object]:
    return np.asarray(image).tolist()


def faults(folder: Path, **options: object) -> dict[str, str]:
    with pytest.raises(Refusal) as refusal:
        read_folder(folder, **options)
    return {Path(fault.where).name: f"{fault.found}. {fault.do}" for fault in refusal.value.faults}


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


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
        "",
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
    assert [example.path.name for example in read_folder(tmp_path)] == ["a.PNG"]


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
        "i.HEIC": "save it as JPEG",
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


def test_a_folder_of_heic_pictures_is_told_what_to_do(tmp_path):
    (tmp_path / "IMG_0001.HEIC").touch()
    assert "save them as JPEG or PNG" in faults(tmp_path)["--instance_data_dir"]


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


def test_damaged_exif_costs_the_orientation_only(tmp_path):
    for number, exif in enumerate((b"Exif\0\0garbage!", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")):
        for suffix in ("png", "webp", "jpg"):
            path = tmp_path / f"{number}.{suffix}"
            path.write_bytes(encoded(noise(), FORMATS[suffix], exif=exif))
            assert open_picture(path).size == (40, 30)


# --- one picture

#: What each EXIF orientation means, by the standard's words: which side of the picture its 0th row and 0th column are.
ORIENTATIONS = {
    1: lambda upright: upright,  # row 0 top, column 0 left
    2: lambda upright: upright[:, ::-1],  # top, right
    3: lambda upright: upright[::-1, ::-1],  # bottom, right
    4: lambda upright: upright[::-1],  # bottom, left
    5: lambda upright: upright.transpose(1, 0, 2),  # left, top
    6: lambda upright: upright[:, ::-1].transpose(1, 0, 2),  # right, top
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),  # right, bottom
    8: lambda upright: upright[::-1].transpose(1, 0, 2),  # left, bottom
}


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_pictures_stand_upright_whatever_way_they_are_stored(tmp_path, orientation, suffix):
    upright = np.asarray(noise())
    stored = Image.fromarray(np.ascontiguousarray(ORIENTATIONS[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True, "exact": True} if suffix == "webp" else {}
    (tmp_path / f"a.{suffix}").write_bytes(encoded(stored, FORMATS[suffix], exif=exif, **lossless))
    assert np.array_equal(np.asarray(open_picture(tmp_path / f"a.{suffix}")), upright)


def test_orientation_6_as_a_phone_writes_it(tmp_path):
    """By hand: a JPEG stored lying, 16 wide and 8 high, red on its left; to be shown upright with the red on top."""
    lying = Image.new("RGB", (16, 8), "blue")
    lying.paste("red", (0, 0, 8, 8))
    tag = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0) + b"\0\0\0\0"
    (tmp_path / "a.jpg").write_bytes(encoded(lying, "JPEG", exif=tag, quality=100))
    seen = np.asarray(open_picture(tmp_path / "a.jpg")).astype(int)
    assert seen.shape == (16, 8, 3)
    assert abs(seen[2, 4] - [255, 0, 0]).max() < 12 and abs(seen[13, 4] - [0, 0, 255]).max() < 12


def test_transparency_shows_white(tmp_path):
    colour = np.random.default_rng(1).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    alpha = colour[..., 3:] / 255
    expected = colour[..., :3] * alpha + 255 * (1 - alpha)
    Image.fromarray(colour).save(tmp_path / "a.png")
    assert abs(np.asarray(open_picture(tmp_path / "a.png")) - expected).max() <= 1
    Image.merge("LA", [Image.fromarray(colour[..., channel]) for channel in (0, 3)]).save(tmp_path / "b.png")
    grey = colour[..., :1] * alpha + 255 * (1 - alpha)
    assert abs(np.asarray(open_picture(tmp_path / "b.png")) - grey).max() <= 1


@pytest.mark.parametrize(
    "file, expected",
    [
        (png(2, 1, 8, 3, b"\0\0\1", b"\xff\x00"), [[[255, 0, 0], [255, 255, 255]]]),  # palette, second colour clear
        (png(2, 1, 8, 3, b"\0\0\1", b"\x00"), [[[255, 255, 255], [0, 0, 255]]]),
        (png(2, 1, 8, 3, b"\0\0\1"), [[[255, 0, 0], [0, 0, 255]]]),
        (png(2, 1, 8, 0, b"\0\5\6", b"\0\5"), [[[255, 255, 255], [6, 6, 6]]]),  # grey, 5 is clear
        (png(2, 1, 8, 2, b"\0\1\2\3\4\5\6", b"\0\1\0\2\0\3"), [[[255, 255, 255], [4, 5, 6]]]),
        (png(2, 1, 1, 0, b"\0\x40"), [[[0, 0, 0], [255, 255, 255]]]),  # one bit
        (png(2, 1, 2, 0, b"\0\x60"), [[[85, 85, 85], [170, 170, 170]]]),  # two bits
        (
            png(2, 1, 16, 4, b"\0\x12\x00\x00\x00\x12\x00\xff\xff"),
            [[[255, 255, 255], [18, 18, 18]]],
        ),  # 16-bit grey, alpha
    ],
)
def test_pngs_made_by_hand(tmp_path, file, expected):
    (tmp_path / "a.png").write_bytes(file)
    assert pixels(open_picture(tmp_path / "a.png")) == expected


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_keeps_its_scale(tmp_path, suffix):
    """Also where the picture is dark: 16 bits declare what white is."""
    for values in (np.arange(65536), np.arange(65536) // 300):
        stored = values.astype(np.uint16).reshape(256, 256)
        Image.fromarray(stored).save(tmp_path / f"a.{suffix}")
        expected = np.rint(stored / 65535 * 255)
        seen = np.asarray(open_picture(tmp_path / f"a.{suffix}"))
        assert all(np.array_equal(seen[..., channel], expected) for channel in range(3))


@pytest.mark.parametrize(
    "dtype, values, expected",
    [
        (np.int32, [0, 100, 255], [0, 100, 255]),
        (np.int32, [0, 257, 65535], [0, 1, 255]),
        (np.int32, [-7, 2**30, 2**31 - 1], [0, 128, 255]),
        (np.float32, [0, 0.5, 1], [0, 128, 255]),
        (np.float32, [-0.5, 0.25, 1.25], [0, 64, 255]),
        (np.float32, [0, 99.6, 255], [0, 100, 255]),
        (np.float32, [np.nan, 0.2, np.inf], [0, 51, 255]),
        (np.float32, [0, 0, 0], [0, 0, 0]),
    ],
)
def test_integers_and_floats_become_8_bits(tmp_path, dtype, values, expected):
    Image.fromarray(np.array([values], dtype)).save(tmp_path / "a.tiff")
    assert np.asarray(open_picture(tmp_path / "a.tiff"))[0, :, 0].tolist() == expected


def test_cmyk_and_grey_jpegs(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=100)
    Image.new("L", (16, 16), 77).save(tmp_path / "grey.jpg", quality=100)
    assert abs(np.asarray(open_picture(tmp_path / "red.jpg"))[8, 8].astype(int) - [255, 0, 0]).max() <= 3
    assert abs(np.asarray(open_picture(tmp_path / "grey.jpg"))[8, 8].astype(int) - 77).max() <= 1


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path, suffix):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    lossless = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **lossless)
    assert pixels(open_picture(tmp_path / f"a.{suffix}"))[5][5] == [255, 0, 0]
    assert len(read_folder(tmp_path)) == 1


def test_of_a_phone_s_double_picture_the_first_is_taken(tmp_path):
    first, second = Image.new("RGB", (16, 16), (200, 0, 0)), Image.new("RGB", (16, 16), (0, 0, 200))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    assert abs(np.asarray(open_picture(tmp_path / "a.jpg"))[8, 8].astype(int) - [200, 0, 0]).max() <= 3


# --- fitting


@pytest.mark.parametrize("given", [(40, 30), (30, 40), (16, 16), (5, 300), (641, 480)])
@pytest.mark.parametrize("size", [16, (24, 16), (16, 24), 64])
@pytest.mark.parametrize("at", [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (0.3, 0.8)])
def test_fitting_is_scaling_the_whole_and_cutting_out(given, size, at):
    """The greys are soft: between its two passes Pillow clips at 0 and 255, and which pass comes first is up to it."""
    image = noise(*given).point(lambda value: 96 + value // 4)
    width, height = (size, size) if isinstance(size, int) else size
    scale = max(width / given[0], height / given[1])
    whole = image.resize(
        (max(width, round(given[0] * scale)), max(height, round(given[1] * scale))), Image.Resampling.LANCZOS
    )
    left, top = round((whole.width - width) * at[0]), round((whole.height - height) * at[1])
    expected = np.asarray(whole.crop((left, top, left + width, top + height))).astype(int)
    fitted = fit_picture(image, size, center_crop=False, at=at)
    assert fitted.size == (width, height)
    assert abs(np.asarray(fitted) - expected).max() <= 2


def test_a_crop_without_scaling_changes_no_pixel():
    image = noise(37, 24)
    assert np.array_equal(np.asarray(fit_picture(image, 24)), np.asarray(image)[:, 6:30])
    assert np.array_equal(np.asarray(fit_picture(image, 24, center_crop=False, at=(1, 0))), np.asarray(image)[:, 13:])
    assert np.array_equal(np.asarray(fit_picture(image, (37, 24))), np.asarray(image))


def test_the_centre_wins_over_a_place_and_places_outside_are_errors():
    image = noise(60, 20)
    assert np.array_equal(np.asarray(fit_picture(image, 20, at=(0, 0))), np.asarray(image)[:, 20:40])
    with pytest.raises(ValueError, match="must lie in"):
        fit_picture(image, 20, center_crop=False, at=(1.2, 0))


def test_a_thread_of_pixels_is_fitted_without_enlarging_all_of_it():
    """Enlarged as a whole it would have 26 gigapixels."""
    assert fit_picture(Image.new("RGB", (1, 100_000), "red"), 512).getpixel((500, 500)) == (255, 0, 0)


# --- tensors


def test_a_tensor_is_the_picture_scaled_to_minus_one_and_one():
    image = noise(7, 5)
    tensor = as_tensor(image)
    assert tensor.shape == (3, 5, 7) and tensor.dtype == torch.float32 and tensor.is_contiguous()
    assert np.allclose(tensor.numpy(), np.asarray(image).transpose(2, 0, 1) / 255 * 2 - 1, atol=1e-6)


def test_every_value_comes_back():
    every = Image.fromarray(np.arange(256 * 3, dtype=np.int64).astype(np.uint8).reshape(16, 16, 3))
    assert np.array_equal(np.asarray(as_image(as_tensor(every))), np.asarray(every))


def test_out_of_range_is_clamped_and_between_is_rounded():
    row = torch.tensor([-9.0, 9.0, 0.6 / 127.5 - 1, 0.4 / 127.5 - 1, float("nan"), float("inf")])
    image = as_image(row.expand(3, 1, 6).double().requires_grad_())
    assert [pixel[0] for pixel in pixels(image)[0]] == [0, 255, 1, 0, 0, 255]
    assert as_image(torch.zeros(3, 2, 4, dtype=torch.bfloat16)).size == (4, 2)


def test_any_mode_becomes_rgb():
    for mode in (
        "1",
        "L",
        "LA",
        "P",
        "PA",
        "RGB",
        "RGBA",
        "RGBa",
        "CMYK",
        "YCbCr",
        "LAB",
        "HSV",
        "I",
        "F",
        "I;16",
        "I;16B",
    ):
        assert as_rgb(Image.new(mode, (2, 2))).mode == "RGB"
