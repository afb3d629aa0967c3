"""The one door for pictures, and what they go through on their way to a tensor."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageCms, UnidentifiedImageError

from tenshot.core.errors import Fault, Refusal, refuse_if
from tenshot.core.size import Size
from tenshot.io import text_files

#: Suffixes that claim a picture. What is inside is told by the content, not by the suffix.
SUFFIXES = frozenset(
    (
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".heic", ".heif", ".hif", ".avif"),
        *(".bmp", ".dib", ".gif", ".tif", ".tiff"),
    )
)

#: More pixels than any camera's picture is a decompression bomb.
MOST_PIXELS = 100_000_000
MOST_BYTES = 1 << 30
MOST_SCANS = 200  # of a JPEG; a progressive one has ten, and a phone's holds two or three pictures

FITS = "a whole PNG, JPEG, WebP, HEIC, AVIF, BMP, GIF or TIFF picture"
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF")
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1"}  # brands
_ANIMATED = ("PNG", "WEBP", "GIF", "TIFF", "AVIF")  # in others, further pictures are depths, previews and the like

#: EXIF orientation -> the step that undoes it.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_picture(path: Path) -> Image.Image:
    """The picture at `path` as people see it: upright, RGB, 8 bits a channel, on white; an animation's first frame.

    Raises Refusal where the file is no picture, is cut off, or has more than MOST_PIXELS.
    """
    with pillow_silent():
        seen = as_rgb(_in_srgb(_upright(load(path))))
    seen.info = {}  # where and when it was taken is nobody's business
    return seen


def open_mask(path: Path) -> Image.Image:
    """The picture at `path` as a mask, grey: its transparency, where some of it is transparent, else its brightness."""
    with pillow_silent():
        image = _upright(load(path))
        clear = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
        return clear if clear and clear.getextrema() != (255, 255) else as_rgb(image).convert("L")


def load(path: Path) -> Image.Image:
    """The picture at `path` decoded, otherwise as stored, with `info` and EXIF. Raises Refusal as `open_picture`."""
    formats = _formats(_beginning(path))
    with text_files.opened(path, FITS, MOST_BYTES) as file, pillow_silent():
        try:
            if (scans := _scans(file)) > MOST_SCANS:
                found = f"a JPEG of {scans} scans: it would take minutes to decode"
                raise Refusal(Fault(str(path), found, f"{MOST_SCANS} scans at most", "save it again, or remove it"))
            with Image.open(file, formats=formats) as image:
                refuse_if(_wrong_size(path, Size.from_pillow(image.size)))
                image.load()
                return image
        except Refusal:
            raise
        except Exception as error:  # on damaged bytes Pillow raises anything from OSError to SyntaxError
            raise Refusal(_undecodable(path, error)) from None


def _scans(file: BinaryIO) -> int:
    """How often a JPEG goes over all of its pixels; 0 for others."""
    found, last = 0, b""
    if file.read(2) == b"\xff\xd8":
        while chunk := file.read(1 << 20):
            found += (last + chunk).count(b"\xff\xda")
            last = chunk[-1:]
    file.seek(0)
    return found


def _formats(start: bytes) -> tuple[str, ...]:
    """What a file may be that begins so. HEIC needs a decoder of its own; AVIF has brands of the same box."""
    brands = {start[place : place + 4] for place in range(8, min(len(start), int.from_bytes(start[:4])), 4)}
    if start[4:8] != b"ftyp" or not brands & _HEIC or brands & {b"avif", b"avis"}:
        return _FORMATS
    import pillow_heif

    pillow_heif.register_heif_opener()
    return ("HEIF",)


def is_animated(path: Path) -> bool:
    """Are there pictures after the first, which is the one that is seen?"""
    with text_files.opened(path, FITS, MOST_BYTES) as file, pillow_silent():
        try:
            with Image.open(file, formats=_ANIMATED) as image:
                image.seek(1)
                return True
        except Exception:  # there is no other, or none that is whole
            return False


def as_rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB with 8 bits a channel; what is transparent shows white."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _as_grey(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    seen = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")


def fit_picture(
    image: Image.Image,
    size: int | Size,
    *,
    center_crop: bool = True,
    at: tuple[float, float] = (0.5, 0.5),
) -> Image.Image:
    """Scale `image` until it just covers `size` (a square's side, or both, in pixels) and crop the rest.

    at: where the crop lies, (0, 0) left and top to (1, 1) right and bottom; not asked with `center_crop`.
    """
    size = Size.square(size) if isinstance(size, int) else size
    whole, (top, left) = covering(Size.from_pillow(image.size), size, (0.5, 0.5) if center_crop else at)
    # In one step, so that a very long and thin picture is never enlarged as a whole.
    box = (
        left * image.width / whole.width,
        top * image.height / whole.height,
        (left + size.width) * image.width / whole.width,
        (top + size.height) * image.height / whole.height,
    )
    return image.resize(size.pillow, Image.Resampling.LANCZOS, box)


def covering(own: Size, size: Size, at: tuple[float, float]) -> tuple[Size, tuple[int, int]]:
    """The size that a picture of size `own` is scaled to so that it just covers `size`, and where the crop begins.

    Top and left of the crop. at: across and down. Raises ValueError where `at` is outside the picture.
    """
    if not all(0 <= each <= 1 for each in at):
        raise ValueError(f"at={at}: both must lie in 0..1")
    across, down = at
    scale = max(size.width / own.width, size.height / own.height)
    whole = Size(max(size.height, round(own.height * scale)), max(size.width, round(own.width * scale)))
    return whole, (round((whole.height - size.height) * down), round((whole.width - size.width) * across))


def as_tensor(image: Image.Image) -> torch.Tensor:
    """[3, height, width] float32 in [-1, 1]."""
    pixels = torch.from_numpy(np.array(as_rgb(image)))
    return (pixels.permute(2, 0, 1).float() / 127.5 - 1).contiguous()


def as_image(tensor: torch.Tensor) -> Image.Image:
    """The inverse of `as_tensor`, for [3, height, width] of any float dtype: clamped and rounded; NaN is black."""
    pixels = ((tensor.detach().float() + 1) * 127.5).nan_to_num(0).clamp(0, 255).round()
    return Image.fromarray(pixels.byte().permute(1, 2, 0).cpu().contiguous().numpy())


def _wrong_size(path: Path, size: Size) -> Iterator[Fault]:
    height, width = size
    if width * height > MOST_PIXELS:
        yield _huge(path, f"{width} x {height} pixels, {width * height / 1e6:.0f} megapixels")
    if width * height == 0:
        yield Fault(str(path), f"no pixels: {width} x {height}", FITS, "remove it, or copy it again")


def _huge(path: Path, found: str) -> Fault:
    return Fault(str(path), found, f"up to {MOST_PIXELS / 1e6:.0f} megapixels", "scale it down or remove it")


def _undecodable(path: Path, error: Exception) -> Fault:
    if isinstance(error, Image.DecompressionBombError):
        # Only Pillow's message knows how many pixels.
        return _huge(path, f"more pixels than any camera takes ({error})")
    if isinstance(error, OSError) and error.strerror:
        return Fault(str(path), f"cannot be read: {error.strerror}", FITS, "change its permissions, or remove it")
    if path.stat().st_size == 0:
        return Fault(str(path), "empty: 0 bytes", FITS, "copy it again, or remove it")
    if isinstance(error, UnidentifiedImageError) and _formats(_beginning(path)) == _FORMATS:
        return Fault(str(path), f"no picture inside; it begins with {_beginning(path)[:24]!r}", FITS, "remove it")
    told = "" if isinstance(error, UnidentifiedImageError) else f": {error or type(error).__name__}"
    found = f"damaged or cut off{told}"
    return Fault(str(path), found, FITS, "copy it again, or remove it")


def _beginning(path: Path) -> bytes:
    with text_files.opened(path, FITS, MOST_BYTES) as file:
        return file.read(64)


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # unreadable EXIF: the pixels are whole, and nothing says which way they lie
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _in_srgb(image: Image.Image) -> Image.Image:
    """The colours that its profile means: a phone's are wider than those that a screen takes bare numbers for."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = "RGB" if image.mode == "CMYK" else image.mode
        seen = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=mode)
    except Exception:  # damaged, or of another kind of colours than the picture: the numbers stay
        return image
    return seen or image


def _as_grey(image: Image.Image) -> Image.Image:
    """More than 8 bits of grey as 8: black is 0, white is what `_white` says."""
    pixels = np.nan_to_num(np.asarray(image, dtype=np.float32), nan=0.0, posinf=np.inf, neginf=0.0)
    return Image.fromarray(np.rint(np.clip(pixels / _white(image.mode, pixels), 0, 1) * 255).astype(np.uint8))


def _white(mode: str, pixels: np.ndarray) -> float:
    """The value that means white. Modes I and F do not declare it: the least usual one that holds all values.

    Floats scaled to 1 may overshoot it a little (sharpening, highlights).
    """
    if mode.startswith("I;16"):
        return 65535
    top = float(pixels.max(where=np.isfinite(pixels), initial=0))
    if mode == "F" and top <= 2:
        return 1
    return next((white for white in (255, 65535) if top <= white), 2**31 - 1)


@contextmanager
def pillow_silent() -> Iterator[None]:
    """Pillow's warnings say less than our faults do, and none that it gives changes what is read."""
    logger = logging.getLogger("PIL")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\b")
            yield
    finally:
        logger.setLevel(level)
