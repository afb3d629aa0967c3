"""Pictures as JPEG and WebP: what they say stands where WebUI puts it, and is read back."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.options import gather, resolve
from tenshot.generate import generate
from tenshot.generate.options import GenerateOptions
from tenshot.io.png import read_infotext, write_picture

TEXT = "a \u732b and a caf\u00e9\nNegative prompt: dogs\nSteps: 2, Seed: 3, Version: tenshot 1"


def user_comment(content: bytes) -> bytes:
    """EXIF's UserComment of a JPEG or WebP, found by TIFF's own structure."""
    tiff = content[content.index(b"MM\0*") if b"MM\0*" in content else content.index(b"II*\0") :]
    order = ">" if tiff[:2] == b"MM" else "<"

    def entries(at: int) -> dict[int, tuple[int, int]]:
        (count,) = struct.unpack_from(f"{order}H", tiff, at)
        found = (struct.unpack_from(f"{order}HHII", tiff, at + 2 + 12 * number) for number in range(count))
        return {tag: (length, value) for tag, _, length, value in found}

    length, at = entries(entries(struct.unpack_from(f"{order}I", tiff, 4)[0])[0x8769][1])[0x9286]
    return tiff[at : at + length]


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "webp"])
def test_infotext_stands_where_webui_puts_it(tmp_path: Path, suffix: str):
    image = Image.effect_noise((24, 16), 40)
    image.info["exif"] = b"Exif\0\0where it was taken"
    file = tmp_path / f"a.{suffix}"
    write_picture(file, image, TEXT, 90)
    assert user_comment(file.read_bytes()) == b"UNICODE\0" + TEXT.encode("utf-16-be")
    assert read_infotext(file) == TEXT
    assert b"where it was taken" not in file.read_bytes()
    with Image.open(file) as opened:
        assert (opened.format, opened.size) == ("WEBP" if suffix == "webp" else "JPEG", (24, 16))
    write_picture(file, image, "")
    assert read_infotext(file) is None


def options(sd1: Path, **given: object) -> GenerateOptions:
    return resolve(GenerateOptions, {"model": str(sd1), "prompt": ["a bear"], "steps": 1, "seed": 3, **given})


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_pictures_of_other_formats_are_those_of_png(sd1: Path, tmp_path: Path, kind: str):
    (plain,) = generate.generate(options(sd1, out=tmp_path / "png"), Events())["pictures"]
    (made,) = generate.generate(options(sd1, out=tmp_path / "other", format=kind, quality=100), Events())["pictures"]
    assert Path(made["file"]).suffix == {"jpeg": ".jpg", "webp": ".webp"}[kind]
    assert read_infotext(Path(made["file"])) == read_infotext(Path(plain["file"]))
    Image.open(plain["file"]).save(tmp_path / f"by-pillow.{kind}", quality=100)
    one, other = (np.asarray(Image.open(each)) for each in (tmp_path / f"by-pillow.{kind}", made["file"]))
    assert np.array_equal(one, other)
    again = gather(GenerateOptions, ["--from", made["file"], f"--model={sd1}", f"--out={tmp_path / 'again.png'}"])
    generate.generate(again, Events())
    assert np.array_equal(np.asarray(Image.open(tmp_path / "again.png")), np.asarray(Image.open(plain["file"])))


def test_only_what_tenshot_drew_is_overwritten(sd1: Path, tmp_path: Path):
    for name in ("mine.jpg", "mine.webp"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
        before = (tmp_path / name).read_bytes()
        with pytest.raises(Refusal, match="not one of Tenshot's pictures"):
            generate.generate(options(sd1, out=tmp_path / name), Events())
        assert (tmp_path / name).read_bytes() == before
        for seed in (1, 2):
            generate.generate(options(sd1, out=tmp_path / f"new-{name}", seed=seed), Events())
        assert "Seed: 2" in (read_infotext(tmp_path / f"new-{name}") or "")


def test_formats_that_do_not_go_together_are_refused(sd1: Path, tmp_path: Path):
    wrong = {
        "--format": {"out": tmp_path / "a.jpg", "format": "webp"},
        "--quality": {"out": tmp_path, "quality": 50},
        "16,383": {"out": tmp_path / "a.webp", "width": 16384},
        "cannot hold a text of": {"out": tmp_path / "a.jpg", "prompt": ["a" * 30_000]},
        ".gif is not written": {"out": tmp_path / "a.gif"},
        "one file for 2": {"out": tmp_path / "a.webp", "num_images": 2},
    }
    for told, given in wrong.items():
        with pytest.raises(Refusal, match=told):
            generate.generate(options(sd1, **given), Events())
    assert not [*tmp_path.iterdir()]
    write_picture(tmp_path / "a.jpg", Image.new("RGB", (8, 8)), "a" * 25_000 + "b" * 4_000)  # there is room beside it
