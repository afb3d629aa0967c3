"""Pictures as phones and cameras make them: HEIC, AVIF, MPO, wide colours; seen upright, and nothing else travels."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms

from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.size import Size
from tenshot.io import dataset
from tenshot.io.image_folder import read_folder
from tenshot.io.images import open_mask, open_picture
from tenshot.io.png import write_picture
from tenshot.model import model
from tenshot.train.data import image_latents
from tests.picture_files import encoded

pytestmark = pytest.mark.filterwarnings("error", "ignore:__array__ implementation:DeprecationWarning")  # diffusers'
RED, BLUE = (255, 0, 0), (0, 0, 255)
EXACT: dict[str, Any] = {"quality": -1, "chroma": 444}  # as little loss as HEIC has
PLACE = 0x8825  # EXIF's folder of where it was


def two(first: Any = RED, second: Any = BLUE, mode: str = "RGB") -> Image.Image:
    """160 x 80: the left half of one colour, the right one of another."""
    image = Image.new(mode, (160, 80), second)
    image.paste(first, (0, 0, 80, 80))
    return image


def heic(image: Image.Image, **more: Any) -> bytes:
    pillow_heif.register_heif_opener()
    return encoded(image, "HEIF", **EXACT, **more)


def seen(path: Path, content: bytes) -> np.ndarray:
    path.write_bytes(content)
    return np.asarray(open_picture(path)).astype(int)


def close(found: np.ndarray, wanted: Any) -> bool:
    return bool(abs(found - np.array(wanted)).max() <= 3)


@pytest.mark.parametrize("name", ["IMG_0001.HEIC", "a.heif", "a.hif", "sent.jpg"])
def test_a_phone_s_heic_is_seen_upright(name: str, tmp_path: Path):
    lying = two()
    lying.getexif()[0x0112] = 6  # as a phone held upright: it is to be turned clockwise
    found = seen(tmp_path / name, heic(lying))
    assert found.shape == (160, 80, 3)
    assert close(found[40, 40], RED) and close(found[120, 40], BLUE)
    (example,) = read_folder(tmp_path)
    assert example.size == Size(160, 80) and not example.animated


def test_ten_bits_are_seen_as_eight(tmp_path: Path):
    pixels = np.zeros((80, 160, 3), np.uint16)
    pixels[:, :80, 0], pixels[..., 1] = 65535, 32768
    file = io.BytesIO()
    pillow_heif.encode("RGB;16", (160, 80), pixels.tobytes(), file, **EXACT)
    assert pillow_heif.open_heif(file, convert_hdr_to_8bit=False).info["bit_depth"] == 10
    found = seen(tmp_path / "a.heic", file.getvalue())
    assert close(found[40, 40], (255, 128, 0)) and close(found[40, 120], (0, 128, 0))


def test_of_several_the_main_one_is_seen_and_alpha_shows_white(tmp_path: Path):
    other = Image.new("RGB", (64, 64), "lime")
    several = heic(two(), save_all=True, append_images=[other], primary_index=1)
    assert close(seen(tmp_path / "a.heic", several), (0, 255, 0))
    assert not read_folder(tmp_path)[0].animated
    clear = heic(two((255, 0, 0, 128), (0, 0, 0, 0), "RGBA"))
    found = seen(tmp_path / "b.heic", clear)
    assert close(found[40, 40], (255, 127, 127)) and close(found[40, 120], (255, 255, 255))
    assert abs(np.asarray(open_mask(tmp_path / "b.heic"))[40, [40, 120]].astype(int) - [128, 0]).max() <= 2


BESIDE = b"urn:mpeg:hevc:2015:auxid:1"  # transparency, as HEIC names it


@pytest.mark.parametrize(("kind", "name"), [("depth_images", b"urn:mpeg:hevc:2015:auxid:2"),
                                            ("aux", b"urn:com:apple:photo:2020:a")])  # fmt: skip
def test_what_phones_keep_beside_a_picture_is_not_seen(kind: str, name: bytes, tmp_path: Path):
    """A portrait's depth, the map of an iPhone's HDR: made here of transparency, by its name; and a thumbnail."""
    clear = heic(two((255, 0, 0, 255), (0, 0, 255, 0), "RGBA"), thumbnails=[40])
    assert clear.count(BESIDE) == 1 and len(BESIDE) == len(name)
    known = pillow_heif.open_heif(io.BytesIO(clear.replace(BESIDE, name))).info
    assert len(known[kind]) == 1 and known["thumbnails"] == [40]
    found = seen(tmp_path / "a.heic", clear.replace(BESIDE, name))
    assert found.shape == (80, 160, 3) and close(found[40, 40], RED) and close(found[40, 120], BLUE)
    assert not read_folder(tmp_path)[0].animated


@pytest.mark.parametrize("brand", [b"avif", b"mif1"])
@pytest.mark.parametrize("name", ["a.avif", "a.AVIF", "a.heic"])
def test_avif_under_any_name(name: str, brand: bytes, tmp_path: Path):
    content = bytearray(encoded(two(), "AVIF", quality=100))
    content[8:12] = brand
    found = seen(tmp_path / name, bytes(content))
    assert close(found[40, 40], RED) and close(found[40, 120], BLUE)


@pytest.mark.parametrize(("name", "kind"), [
    ("a.JFIF", "JPEG"), ("a.JPE", "JPEG"), ("a.MPO", "MPO"), ("a.WEBP", "WEBP"), ("a.TIF", "TIFF"), ("a.Png", "PNG"),
])  # fmt: skip
def test_suffixes_of_phones_and_cameras(name: str, kind: str, tmp_path: Path):
    more = {"save_all": True, "append_images": [Image.new("RGB", (16, 16), "lime")]} if kind == "MPO" else {}
    found = seen(tmp_path / name, encoded(two(), kind, **more))
    assert found.shape == (80, 160, 3) and abs(found[40, 40] - RED).max() < 8
    assert not read_folder(tmp_path)[0].animated


def test_a_heic_is_learned_and_is_a_mask(sd1: Path, tmp_path: Path):
    """Its latents are those of the same pixels in a PNG."""
    for place, image in (("own", two()), ("masks", two(255, 0, "L"))):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a.HEIC").write_bytes(heic(image))
    base, views = model.load(str(sd1)), image_latents.squares(64, center_crop=False)
    shown = dataset.read(tmp_path / "own", option="", masks=tmp_path / "masks")
    latents, _ = image_latents.encode(base, shown, views, Events())
    assert [round(float(mask.mean())) for mask in latents.masks] == [1, 0, 0] or latents.masks[0].mean() > 0.9
    (tmp_path / "png").mkdir()
    open_picture(tmp_path / "own" / "a.HEIC").save(tmp_path / "png" / "a.png")
    plain, _ = image_latents.encode(base, read_folder(tmp_path / "png"), views, Events())
    assert all((a[0] == b[0]).all() for a, b in zip(latents.each, plain.each, strict=True))


def test_a_damaged_heic_is_refused_by_name(tmp_path: Path):
    whole, path = heic(two()), tmp_path / "a.heic"
    for length in (0, 1, 11, 16, 40, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        with pytest.raises(Refusal, match=r"a\.heic"):
            open_picture(path)
    dice = random.Random(0)
    for _ in range(60):
        spoiled = bytearray(whole)
        for _ in range(3):
            spoiled[dice.randrange(len(spoiled))] = dice.randrange(256)
        path.write_bytes(spoiled)
        try:
            open_picture(path)
        except Refusal as refusal:
            assert [fault.where for fault in refusal.faults] == [str(path)]


# --- colours: a phone's numbers mean wider ones than a screen's


P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))  # Apple's, at D50
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))


def profile(primaries: Any) -> bytes:
    """sRGB's, with other primaries."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for number in range(int.from_bytes(content[128:132])):
        entry = 132 + 12 * number
        name, offset = bytes(content[entry : entry + 4]), int.from_bytes(content[entry + 4 : entry + 8])
        if name in (b"rXYZ", b"gXYZ", b"bXYZ"):
            numbers = [round(value * 65536) for value in primaries[b"rgb".index(name[:1])]]
            content[offset + 8 : offset + 20] = struct.pack(">3i", *numbers)
    return bytes(content)


def linear(value: np.ndarray) -> np.ndarray:
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def bent(value: np.ndarray) -> np.ndarray:
    return np.where(value <= 0.0031308, value * 12.92, 1.055 * np.maximum(value, 0) ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "HEIF"])
def test_wide_colours_are_seen_as_they_are_meant(kind: str, tmp_path: Path):
    """By hand: through the colours of light that the primaries' numbers stand for, and back through sRGB's."""
    numbers = np.array([180, 110, 90])
    light = linear(numbers / 255) @ np.array(P3)
    wanted = bent(light @ np.linalg.inv(np.array(SRGB))) * 255
    assert abs(wanted - numbers).max() > 8  # what would be seen without the profile is something else
    more: dict[str, Any] = {"PNG": {}, "JPEG": {"quality": 100}, "WEBP": {"lossless": True}, "HEIF": EXACT}[kind]
    pillow_heif.register_heif_opener()
    image = Image.new("RGB", (32, 32), tuple(numbers.tolist()))
    found = seen(tmp_path / "a.png", encoded(image, kind, icc_profile=profile(P3), **more))
    assert abs(found[16, 16] - wanted).max() < 3
    plain = seen(tmp_path / "b.png", encoded(image, kind, icc_profile=profile(SRGB), **more))
    assert close(plain[16, 16], numbers)


@pytest.mark.parametrize("wrong", [b"", b"x" * 200, profile(P3)[:-100], b"\0" * 3000])
def test_a_profile_that_is_none_changes_nothing(wrong: bytes, tmp_path: Path):
    assert close(seen(tmp_path / "a.png", encoded(two(), icc_profile=wrong))[40, 40], RED)


# --- where it was taken, and by whom


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "HEIF", "AVIF"])
def test_nothing_but_pixels_travels(kind: str, tmp_path: Path):
    pillow_heif.register_heif_opener()
    image = two()
    exif = image.getexif()
    exif[0x010F] = "CANARY"
    exif.get_ifd(PLACE)[1] = "N"
    more: dict[str, Any] = {"comment": b"CANARY"} if kind == "JPEG" else {}
    (tmp_path / "a.bin").write_bytes(encoded(image, kind, exif=exif, icc_profile=profile(P3), **more))
    assert b"CANARY" in (tmp_path / "a.bin").read_bytes()
    found = open_picture(tmp_path / "a.bin")
    for other in ("PNG", "JPEG", "WEBP", "TIFF"):
        assert b"CANARY" not in encoded(found, other)
        with Image.open(io.BytesIO(encoded(found, other))) as again:
            assert not again.getexif().get_ifd(PLACE) and "icc_profile" not in again.info
    with Image.open(tmp_path / "a.bin") as unread:
        write_picture(tmp_path / "b.png", unread, "a cat")
    assert b"CANARY" not in (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "b.png") as written:
        assert set(written.info) == {"parameters"}
