"""Pictures out: with the text that UIs read back, and labelled sheets to compare by eye."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo

from tenshot.io.images import as_rgb, load, pillow_silent
from tenshot.io.picture_formats import FORMATS
from tenshot.io.tensors import replacing

_EXIF, _USER_COMMENT, _UTF16 = 0x8769, 0x9286, b"UNICODE\0"
_INK, _FAINT, _EMPTY = "#222222", "#d8d8d8", "#f3f3f3"


def write_picture(path: Path, image: Image.Image, text: str, quality: int = 90) -> None:
    """Write a picture atomically, with `text` where UIs look for it. Its suffix says the format: one of FORMATS.

    quality: of JPEG and WebP. Raises ValueError where the text is longer than JPEG's EXIF can hold.
    """
    content = picture_bytes(image, text, FORMATS[path.suffix.lower()], quality)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def picture_bytes(image: Image.Image, text: str, kind: str, quality: int = 90) -> bytes:
    """What `write_picture` writes. kind: png, jpeg or webp."""
    return png_bytes(image, text) if kind == "png" else _exif_bytes(image, text, kind, quality)


def png_bytes(image: Image.Image, text: str) -> bytes:
    """A PNG with `text` in the text chunk `parameters`."""
    chunk = PngInfo()
    if text:
        chunk.add_text("parameters", text.encode("utf-8", "replace").decode("utf-8"))
    with io.BytesIO() as written:
        _bare(image).save(written, "PNG", pnginfo=chunk)
        return written.getvalue()


def _exif_bytes(image: Image.Image, text: str, kind: str, quality: int) -> bytes:
    """A JPEG or WebP with `text` in EXIF's UserComment."""
    exif = Image.Exif()
    if text:
        exif.get_ifd(_EXIF)[_USER_COMMENT] = _UTF16 + text.encode("utf-16-be", "replace")
    with io.BytesIO() as written:
        _bare(as_rgb(image)).save(written, kind, quality=quality, exif=exif.tobytes() if text else b"")
        return written.getvalue()


def _bare(image: Image.Image) -> Image.Image:
    """Without what a picture was made from says of itself: it may say where it was taken."""
    bare = image.copy()
    bare.info = {}
    return bare


def read_infotext(path: Path) -> str | None:
    """What `infotext_of` says of a file. Raises Refusal where that is not a whole picture."""
    return infotext_of(load(path))


def infotext_of(image: Image.Image) -> str | None:
    """The infotext in a PNG (text chunk) or a JPEG or WebP (EXIF UserComment); None where there is none."""
    if "parameters" in image.info:
        return str(image.info["parameters"])
    with pillow_silent():
        try:
            comment = image.getexif().get_ifd(_EXIF).get(_USER_COMMENT)
        except Exception:  # unreadable EXIF says nothing
            return None
    return _user_comment(comment) if isinstance(comment, bytes) else None


def contact_sheet(
    rows: Sequence[Sequence[Image.Image | None]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    cell: int = 160,
    title: str = "",
) -> Image.Image:
    """A labelled grid on white; a row of pictures for each row label, each within `cell` pixels; None stays empty."""
    if len(rows) != len(row_labels) or any(len(row) != len(column_labels) for row in rows):
        raise ValueError("as many rows as row labels, and in each as many pictures as column labels, are needed")
    gap = max(6, cell // 16)
    margin = gap * 3 // 2
    font, large = _font(max(11, cell / 11)), _font(max(14, cell / 8))
    side = _label_width(row_labels, font, cell * 1.5)
    left = margin + (side + margin if side else 0)
    width = max(left + len(column_labels) * (cell + gap) - gap + margin, cell + margin * 2)
    heading = _wrapped(title, large, width - margin * 2, 3)
    heads = [_wrapped(label, font, cell, 5) for label in column_labels]
    head_bottom = margin + _height(heading, large, gap) + max([0, *(_height(head, font) for head in heads)])
    top = head_bottom + (gap if head_bottom > margin else 0)
    sheet = Image.new("RGB", (width, top + len(rows) * (cell + gap) - gap + margin), "white")
    draw = ImageDraw.Draw(sheet)
    draw.multiline_text((margin, margin), heading, _INK, large)
    for column, head in enumerate(heads):
        middle = left + column * (cell + gap) + cell / 2
        draw.multiline_text((middle, head_bottom), head, _INK, font, anchor="md", align="center")
    for number, (row, label) in enumerate(zip(rows, row_labels, strict=True)):
        y = top + number * (cell + gap)
        beside = _wrapped(label, font, side, max(1, cell // _height("x", font)))
        draw.multiline_text((left - margin, y + cell / 2), beside, _INK, font, anchor="rm", align="right")
        for column, image in enumerate(row):
            _put(sheet, draw, image, left + column * (cell + gap), y, cell)
    return sheet


def square_sheet(images: Sequence[Image.Image], cell: int, count: int = 0) -> Image.Image:
    """A grid as square as may be, each within `cell` pixels. count: of them all, where not all are there."""
    columns = math.isqrt(max(count, len(images)) - 1) + 1
    starts = range(0, len(images), columns)
    rows = [[*images[start : start + columns], *[None] * columns][:columns] for start in starts]
    return contact_sheet(rows, [""] * len(rows), [""] * columns, cell)


def _put(sheet: Image.Image, draw: ImageDraw.ImageDraw, image: Image.Image | None, x: int, y: int, cell: int) -> None:
    """Place a picture in the middle of its cell, or mark the cell as empty."""
    if image is None:
        draw.rectangle((x, y, x + cell - 1, y + cell - 1), _EMPTY, _FAINT)
        return
    fitted = ImageOps.contain(as_rgb(image), (cell, cell), Image.Resampling.LANCZOS)
    sheet.paste(fitted, (x + (cell - fitted.width) // 2, y + (cell - fitted.height) // 2))


def _font(size: float) -> ImageFont.FreeTypeFont:
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))


def _label_width(labels: Sequence[str], font: ImageFont.FreeTypeFont, most: float) -> int:
    """As wide as the longest line asks for, up to `most` pixels."""
    lengths = [font.getlength(line) + 1 for label in labels for line in label.split("\n") if line]
    return round(min(most, max(lengths, default=0)))


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float, most: int) -> str:
    """`text` in lines of at most `width` pixels, at most `most` of them; what is left out shows as an ellipsis."""
    lines = [part for line in text.split("\n") for part in _broken(line, font, width)]
    if len(lines) <= most:
        return "\n".join(lines)
    last = lines[most - 1]
    while last and font.getlength(last + "...") > width:
        last = last[:-1]
    return "\n".join([*lines[: most - 1], last.rstrip() + "..."])


def _broken(line: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Break at spaces; within a word only where the word alone is too wide."""
    lines = [""]
    for word in line.split():
        joined = f"{lines[-1]} {word}".lstrip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        lines += [""] if lines[-1] else []
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines


def _height(text: str, font: ImageFont.FreeTypeFont, below: int = 0) -> int:
    """Pixels that `text` takes, descenders and `below` included; 0 where there is none."""
    return (text.count("\n") + 1) * (sum(font.getmetrics()) + 4) + below if text else 0


def _user_comment(comment: bytes) -> str | None:
    """EXIF UserComment: eight bytes name the encoding. Writers disagree on UTF-16's byte order; more ASCII wins."""
    code, body = comment[:8], comment[8:]
    if code == _UTF16:
        texts = [body.decode(name, "replace") for name in ("utf-16-be", "utf-16-le")]
        text = max(texts, key=lambda text: sum(character.isascii() for character in text))
    else:
        text = body.decode("utf-8", "replace")
    return text.strip("\0\ufeff") or None
