"""Pictures out: what is written beside them is read back, by us and by the rules of others."""

import random
import re

import numpy as np
import pytest
from PIL import Image

from tenshot.core.errors import Refusal
from tenshot.io.infotext import written as infotext
from tenshot.io.png import contact_sheet, read_infotext, write_picture
from tests.infotext import parse_infotext

FACTS = {
    "Steps": "20",
    "Sampler": "DPM++ 2M Karras",
    "CFG scale": "7.5",
    "Seed": "42",
    "Size": "512x768",
    "Model": "az-baby",
    "Version": "tenshot 0.1",
}
LINE = (
    "Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 42, Size: 512x768, Model: az-baby, Version: tenshot 0.1"
)


def picture(seed: int = 0, width: int = 20, height: int = 10) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


# --- the text


def test_the_text_looks_as_uis_write_it():
    assert infotext("a cat", "blurry", FACTS) == f"a cat\nNegative prompt: blurry\n{LINE}"
    assert infotext("a cat", "", FACTS) == f"a cat\n{LINE}"
    assert infotext("a cat", "", {"Steps": 20, "CFG scale": 7.0, "Face": None}) == "a cat\nSteps: 20, CFG scale: 7.0"


def test_only_values_that_need_it_are_quoted():
    line = infotext("", "", {"Steps": 1, "a": "x, y", "b": "x: y", "c": "x\ny", "d": 'é "q"'})
    assert line == 'Steps: 1, a: "x, y", b: "x: y", c: "x\\ny", d: é "q"'


@pytest.mark.parametrize("name", ["", "a:b", "a,b", 'a"b', "a\nb", " a", "a "])
def test_a_name_that_could_not_be_read_back_is_an_error(name):
    with pytest.raises(ValueError, match="read back"):
        infotext("a cat", "", {name: 1})


PROMPTS = [
    "",
    "a cat",
    "a cat,\n(very: detailed:1.2), <lora:az:0.8>\n\nBREAK a dog",
    "Steps: 20",
    "Steps: 20, Sampler: Euler, Seed: 1",
    "climbing\nSteps: 9, CFG scale: 7, Seed: 3",
    "ends with a line break\n",
    "\nbegins with one",
    "  spaces  ",
    'she said "a, b: c"',
    "日本 café 🐱\u2028next",
    "one\r\ntwo",
    "a photo. Negative prompt: not at the start of a line",
]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    "negative", ["", "blurry", "blurry\nlow quality, Steps: 3", " led by a space", "Steps: 1, a: b, c: d"]
)
def test_prompts_come_back(prompt, negative):
    assert parse_infotext(infotext(prompt, negative, FACTS)) == (prompt, negative, FACTS)


def test_facts_of_any_kind_come_back():
    rng = random.Random(0)
    letters = 'ab ,:"\\\n\r\t\0é🐱{}[]\u2028'
    for _ in range(500):
        facts = {"Steps": "20"}
        for number in range(rng.randrange(6)):
            facts[f"Fact {number} (x/y)"] = "".join(rng.choices(letters, k=rng.randrange(8)))
        assert parse_infotext(infotext("a", "b", facts)) == ("a", "b", facts)


def test_a_prompt_alone_is_no_fact():
    for prompt in (
        "a cat",
        "style: oil, a cat",
        "(cat:1.2), (dog:1.3), (red:1.1)",
        "Steps: many, of them",
        "climbing: 1, b: 2",
        "a cat, style: oil, light: soft, mood: calm",
    ):
        assert parse_infotext(prompt) == (prompt, "", {})
    assert parse_infotext("a cat\nNegative prompt: bad\nworse") == ("a cat", "bad\nworse", {})
    assert parse_infotext("") == ("", "", {})


def test_texts_of_others_are_read():
    text = (
        "masterpiece, 1girl\nNegative prompt: lowres,\nbad hands\n"
        "Steps: 28, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7, Seed: 1234567890, Size: 512x512, "
        'Model hash: 6ce0161689, Model: v1-5, Lora hashes: "az: 1234abcd, b: 5678", '
        "Broken, ENSD: 31337, Version: v1.9.4"
    )
    prompt, negative, facts = parse_infotext(text)
    assert (prompt, negative) == ("masterpiece, 1girl", "lowres,\nbad hands")
    assert facts["Lora hashes"] == "az: 1234abcd, b: 5678"
    assert (facts["Sampler"], facts["ENSD"], facts["Version"]) == ("Euler a", "31337", "v1.9.4")


def test_others_read_our_line():
    """As UIs do: a name of letters, spaces, dashes and slashes, a colon, a JSON string or anything up to a comma."""
    line = infotext("", "", FACTS | {"Lora hashes": "az: 12, b: 34"})
    found = re.findall(r'([A-Za-z][A-Za-z /-]*): ("[^"]*"|[^,]*)', line)
    assert dict(found) == FACTS | {"Lora hashes": '"az: 12, b: 34"'}


# --- files


@pytest.mark.parametrize("text", ["", infotext("a cat", "bad", FACTS), infotext("日本 🐱", "", FACTS), "\nx\r\n"])
def test_a_png_carries_its_text_and_its_pixels(tmp_path, text):
    path = tmp_path / "deep" / "a.png"
    write_picture(path, picture(), text)
    assert read_infotext(path) == (text or None)
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(picture()))
    assert Image.open(path).info.get("parameters") == (text or None)
    assert [each.name for each in path.parent.iterdir()] == ["a.png"]


def test_a_lone_surrogate_does_not_stop_the_picture(tmp_path):
    write_picture(tmp_path / "a.png", picture(), "a \ud83d cat")
    assert read_infotext(tmp_path / "a.png") == "a ? cat"


def test_a_failed_write_leaves_what_was_there(tmp_path):
    write_picture(tmp_path / "a.png", picture(), "old")
    with pytest.raises(OSError, match="cannot write mode"):
        write_picture(tmp_path / "a.png", Image.new("F", (2, 2)), "new")
    assert read_infotext(tmp_path / "a.png") == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
@pytest.mark.parametrize("text", [f"a cat\n{LINE}", f"日本の猫\n{LINE}"])
def test_user_comments_are_read_in_the_encodings_in_use(tmp_path, suffix, text):
    bodies = [
        b"UNICODE\0" + text.encode("utf-16-be"),
        b"UNICODE\0" + text.encode("utf-16-le"),
        b"UNICODE\0" + text.encode("utf-16"),
        b"\0" * 8 + text.encode(),
        b"ASCII\0\0\0" + text.encode(),
    ]
    for body in bodies:
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9286] = body
        picture().save(tmp_path / f"a.{suffix}", exif=exif)
        assert read_infotext(tmp_path / f"a.{suffix}") == text


def test_pictures_without_text_and_files_without_pictures(tmp_path):
    picture().save(tmp_path / "a.jpg")
    assert read_infotext(tmp_path / "a.jpg") is None
    picture().save(tmp_path / "b.webp", exif=b"Exif\0\0garbage!")
    assert read_infotext(tmp_path / "b.webp") is None
    (tmp_path / "c.png").write_text("no picture")
    for name in ("c.png", "d.png"):
        with pytest.raises(Refusal, match=name):
            read_infotext(tmp_path / name)


# --- the sheet


def blocks(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) around all pixels of exactly this colour."""
    ys, xs = np.nonzero((np.asarray(sheet) == colour).all(axis=2))
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def test_pictures_lie_in_rows_and_columns_and_keep_their_shape():
    red, lime, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    rows = [
        [Image.new("RGB", (64, 64), red), Image.new("RGB", (200, 100), lime)],
        [None, Image.new("RGBA", (50, 100), (*blue, 255))],
    ]
    sheet = contact_sheet(rows, ["first", "second"], ["a", "b"], cell=80)
    red_box, lime_box, blue_box = (blocks(sheet, colour) for colour in (red, lime, blue))
    assert (red_box[2] - red_box[0], red_box[3] - red_box[1]) == (80, 80)
    assert (lime_box[2] - lime_box[0], lime_box[3] - lime_box[1]) == (80, 40)
    assert (blue_box[2] - blue_box[0], blue_box[3] - blue_box[1]) == (40, 80)
    assert lime_box[0] > red_box[2] and lime_box[1] == red_box[1] + 20
    assert sheet.getpixel((lime_box[0] + 40, lime_box[1] - 10)) == (255, 255, 255)
    assert blue_box[0] == lime_box[0] + 20 and blue_box[1] > red_box[3]
    assert sheet.getpixel((red_box[0] + 40, blue_box[1] + 40)) == (0xF3, 0xF3, 0xF3)
    assert sheet.getpixel((0, 0)) == sheet.getpixel((sheet.width - 1, sheet.height - 1)) == (255, 255, 255)


def dark(sheet: Image.Image) -> np.ndarray:
    return np.asarray(sheet.convert("L")) < 128


def test_labels_stay_in_their_places_however_long():
    """Labels change nothing of the pictures and never reach the sheet's rim, each other's column, or the pictures."""
    white = Image.new("RGB", (8, 8), "white")
    long = "a photo of az baby on the beach at sunset " * 20
    word = "x" * 300
    for row_label, column_labels, title in (
        (long, [word, long], long),
        (word, [long, word], word),
        ("a\nb", ["c", "d\ne"], "t"),
    ):
        sheet = contact_sheet([[white, white]], [row_label], column_labels, cell=96, title=title)
        ink = dark(sheet)
        assert ink.any()
        assert not (ink[:2].any() or ink[-2:].any() or ink[:, :2].any() or ink[:, -2:].any())
        left, top = sheet.width - 9 - 96 * 2 - 6, sheet.height - 9 - 96
        assert not ink[top - 2 :, left - 4 :].any()  # nothing on the pictures
    sheet = contact_sheet([[white, white]], [""], [word, word], cell=96)
    middle = 9 + 96
    assert not dark(sheet)[:, middle : middle + 6].any()  # the gap between two columns


def test_every_label_is_drawn():
    white = [[Image.new("RGB", (8, 8), "white")]]
    bare = contact_sheet(white, [""], [""], cell=96)
    assert bare.size == (114, 114) and not dark(bare).any()
    for labels in (["row"], [""], ""), ([""], ["column"], ""), ([""], [""], "title"):
        assert dark(contact_sheet(white, labels[0], labels[1], cell=96, title=labels[2])).sum() > 20


def test_labels_and_pictures_must_match():
    with pytest.raises(ValueError, match="row labels"):
        contact_sheet([[None]], [], ["a"])
    with pytest.raises(ValueError, match="column labels"):
        contact_sheet([[None, None]], ["a"], ["a"])
