"""Single pictures: whatever way they are stored, the right pixels come out; they are fitted, and become tensors."""

import struct

import numpy as np
import pytest
import torch
from PIL import Image

from tenshot.core.size import Size
from tenshot.io.image_folder import read_folder
from tenshot.io.images import as_image, as_rgb, as_tensor, fit_picture, open_picture
from tests.picture_files import FORMATS, encoded, noise, pixels, png

pytestmark = pytest.mark.filterwarnings("error")

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
@pytest.mark.parametrize("size", [16, Size(16, 24), Size(24, 16), 64])
@pytest.mark.parametrize("at", [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (0.3, 0.8)])
def test_fitting_is_scaling_the_whole_and_cutting_out(given, size, at):
    """The greys are soft: between its two passes Pillow clips at 0 and 255, and which pass comes first is up to it."""
    image = noise(*given).point(lambda value: 96 + value // 4)
    width, height = (size, size) if isinstance(size, int) else size.pillow
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
    assert np.array_equal(np.asarray(fit_picture(image, Size(24, 37))), np.asarray(image))


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
