"""A folder of pictures: read whole or refused whole. And what a picture goes through on its way to a tensor."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from tenshot.errors import Fault, Refusal, refuse_if

#: Suffixes that claim a picture. What is inside is told by the content, not by the suffix.
SUFFIXES = frozenset(
    (".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".avif")
)

#: What may lie beside pictures: captions, metadata, other trainers' latents.
COMPANIONS = frozenset((".txt", ".json", ".npz"))

#: What systems leave in every folder (hidden files are passed over anyway).
LITTER = frozenset(("thumbs.db", "desktop.ini"))

#: More pixels than any camera's picture is a decompression bomb.
MOST_PIXELS = 100_000_000

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF")
_HEIC = {".heic", ".heif"}
_FITS = "a whole PNG, JPEG, WebP, BMP, GIF, TIFF or AVIF picture"

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


@dataclass(frozen=True)
class Example:
    """A picture to learn from.

    caption: what is said of it, None where nothing is. digest: its SHA-256, hex. repeats: how often an epoch shows it.
    mask: a picture of the same proportions, white where it counts.
    """

    path: Path
    caption: str | None
    digest: str
    repeats: int = 1
    mask: Path | None = None


def read_folder(folder: Path, *, option: str = "--instance_data_dir", distinct: bool = False) -> list[Example]:
    """The pictures lying in `folder`, sorted by name, each decoded once to know that it is whole.

    Raises Refusal with every fault: whatever would be skipped in silence elsewhere is named here. With `distinct`
    a folder that holds one picture many times over is a fault too. `option`: what the person typed to name the folder.
    """
    files, folders = _listed(folder, option)
    pictures = [file for file in files if _claims(file)]
    if not pictures:
        raise Refusal(_no_pictures(folder, files, folders, option))
    captions = {file.stem: file for file in files if file.suffix.lower() == ".txt"}
    faults = [_stray(file) for file in files if file.suffix.lower() not in SUFFIXES | COMPANIONS]
    faults += [_passed_over(inner, count) for inner, count in _deeper(folders)]
    examples = []
    for picture in pictures:
        try:
            examples.append(_example(picture, captions.get(picture.stem)))
        except Refusal as refusal:
            faults += refusal.faults
    refuse_if(faults)
    if distinct:
        refuse_if(_all_alike(examples, option))
    return examples


def read_picture(path: Path, caption: str | None) -> Example:
    """The picture at `path`, decoded once to know that it is whole. Raises Refusal as `open_picture`."""
    open_picture(path)
    with path.open("rb") as file:
        return Example(path, caption, hashlib.file_digest(file, "sha256").hexdigest())


def size_of(path: Path) -> tuple[int, int]:
    """Width and height in pixels as people see it; the pixels are not decoded."""
    with pillow_silent(), Image.open(path, formats=_FORMATS) as image:
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        return (image.height, image.width) if turned else image.size


def open_picture(path: Path) -> Image.Image:
    """The picture at `path` as people see it: upright, RGB, 8 bits a channel, on white; an animation's first frame.

    Raises Refusal where the file is no picture, is cut off, or has more than MOST_PIXELS.
    """
    with pillow_silent():
        return as_rgb(_upright(load(path)))


def open_mask(path: Path) -> Image.Image:
    """The picture at `path` as a mask, grey: its transparency, where it has one, else its brightness."""
    with pillow_silent():
        image = _upright(load(path))
        return image.convert("RGBA").getchannel("A") if image.has_transparency_data else as_rgb(image).convert("L")


def load(path: Path) -> Image.Image:
    """The picture at `path` decoded, otherwise as stored, with `info` and EXIF. Raises Refusal as `open_picture`."""
    if not path.is_file():  # opening a pipe would wait forever
        found, do = ("not a file", "move it elsewhere") if path.exists() else ("no such file", "correct the name")
        raise Refusal(Fault(str(path), found, _FITS, do))
    with pillow_silent():
        try:
            with Image.open(path, formats=_FORMATS) as image:
                refuse_if(_wrong_size(path, image.size))
                image.load()
                return image
        except Refusal:
            raise
        except Exception as error:  # on damaged bytes Pillow raises anything from OSError to SyntaxError
            raise Refusal(_undecodable(path, error)) from None


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
    size: int | tuple[int, int],
    *,
    center_crop: bool = True,
    at: tuple[float, float] = (0.5, 0.5),
) -> Image.Image:
    """Scale `image` until it just covers `size` (a square's side, or width and height, in pixels) and crop the rest.

    at: where the crop lies, (0, 0) left and top to (1, 1) right and bottom; not asked with `center_crop`.
    """
    width, height = (size, size) if isinstance(size, int) else size
    (whole_width, whole_height), (left, top) = covering(image.size, (width, height), (0.5, 0.5) if center_crop else at)
    # In one step, so that a very long and thin picture is never enlarged as a whole.
    box = (
        left * image.width / whole_width,
        top * image.height / whole_height,
        (left + width) * image.width / whole_width,
        (top + height) * image.height / whole_height,
    )
    return image.resize((width, height), Image.Resampling.LANCZOS, box)


def covering(
    own: tuple[int, int], size: tuple[int, int], at: tuple[float, float]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The size that a picture of size `own` is scaled to so that it just covers `size`, and where the crop begins.

    Width and left before height and top. Raises ValueError where `at` is outside the picture.
    """
    if not all(0 <= each <= 1 for each in at):
        raise ValueError(f"at={at}: both must lie in 0..1")
    scale = max(size[0] / own[0], size[1] / own[1])
    whole_width, whole_height = max(size[0], round(own[0] * scale)), max(size[1], round(own[1] * scale))
    return (whole_width, whole_height), (
        round((whole_width - size[0]) * at[0]),
        round((whole_height - size[1]) * at[1]),
    )


def as_tensor(image: Image.Image) -> torch.Tensor:
    """[3, height, width] float32 in [-1, 1]."""
    pixels = torch.from_numpy(np.array(as_rgb(image)))
    return (pixels.permute(2, 0, 1).float() / 127.5 - 1).contiguous()


def as_image(tensor: torch.Tensor) -> Image.Image:
    """The inverse of `as_tensor`, for [3, height, width] of any float dtype: clamped and rounded; NaN is black."""
    pixels = ((tensor.detach().float() + 1) * 127.5).nan_to_num(0).clamp(0, 255).round()
    return Image.fromarray(pixels.byte().permute(1, 2, 0).cpu().contiguous().numpy())


def _listed(folder: Path, option: str) -> tuple[list[Path], list[Path]]:
    """Files and folders in `folder` that are not hidden, sorted by name."""
    if not folder.is_dir():
        found = f"{folder} is a file" if folder.exists() else f"{folder}: no such folder"
        raise Refusal(Fault(option, found, "a folder of pictures", "name the folder that the pictures lie in"))
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        found, do = f"{folder} cannot be read: {error.strerror}", "change its permissions, or choose another"
        raise Refusal(Fault(option, found, "a folder of pictures", do)) from None
    seen = [each for each in entries if not each.name.startswith(".") and each.name.lower() not in LITTER]
    return [each for each in seen if not each.is_dir()], [each for each in seen if each.is_dir()]


def _deeper(folders: Sequence[Path]) -> list[tuple[Path, int]]:
    """Which of `folders` hold pictures, and how many."""
    counted = [(folder, len([file for file in _listed(folder, "")[0] if _claims(file)])) for folder in folders]
    return [(folder, count) for folder, count in counted if count]


def _claims(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES


def _example(picture: Path, caption: Path | None) -> Example:
    """Raises Refusal with the faults of both files together."""
    faults: list[Fault] = []
    text = None
    try:
        text = caption.read_text(encoding="utf-8-sig").strip() if caption else None
    except (UnicodeDecodeError, OSError):
        faults.append(Fault(str(caption), "not UTF-8 text", "a caption in UTF-8", "save it again with UTF-8 encoding"))
    try:
        found = read_picture(picture, text)
    except Refusal as refusal:
        faults += refusal.faults
    refuse_if(faults)
    return found


def _no_pictures(folder: Path, files: Sequence[Path], folders: Sequence[Path], option: str) -> Fault:
    deeper = _deeper(folders)
    if deeper:
        found = ", ".join(f"{count} in {inner.name}/" for inner, count in deeper)
        do = f"give {option} {deeper[0][0]}" if len(deeper) == 1 else f"give one of them as {option}"
        return Fault(option, f"no pictures in {folder}, but one folder deeper: {found}", "the folder itself", do)
    kinds = Counter(file.suffix.lower() or "without suffix" for file in files)
    found = "only " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) if files else "it is empty"
    named = f" ({', '.join(file.name for file in files[:5])}{', ...' if len(files) > 5 else ''})" if files else ""
    do = "save them as JPEG or PNG" if _HEIC & kinds.keys() else "put the pictures there, or name their folder"
    return Fault(option, f"no pictures in {folder}: {found}{named}", f"files with {' '.join(sorted(SUFFIXES))}", do)


def _stray(file: Path) -> Fault:
    if file.suffix.lower() in _HEIC:
        return Fault(str(file), "HEIC cannot be read", _FITS, "save it as JPEG or PNG")
    return Fault(str(file), "not a picture", _FITS, "move it out of the folder")


def _passed_over(folder: Path, count: int) -> Fault:
    found = f"a folder of {count} pictures beside pictures: they would not be used"
    return Fault(str(folder), found, "all pictures in one folder", "move them up to use them, or elsewhere")


def _wrong_size(path: Path, size: tuple[int, int]) -> Iterator[Fault]:
    width, height = size
    if width * height > MOST_PIXELS:
        yield _huge(path, f"{width} x {height} pixels, {width * height / 1e6:.0f} megapixels")
    if width * height == 0:
        yield Fault(str(path), f"no pixels: {width} x {height}", _FITS, "remove it, or copy it again")


def _huge(path: Path, found: str) -> Fault:
    return Fault(str(path), found, f"up to {MOST_PIXELS / 1e6:.0f} megapixels", "scale it down or remove it")


def _undecodable(path: Path, error: Exception) -> Fault:
    if isinstance(error, Image.DecompressionBombError):
        # Only Pillow's message knows how many pixels.
        return _huge(path, f"more pixels than any camera takes ({error})")
    if isinstance(error, OSError) and error.strerror:
        return Fault(str(path), f"cannot be read: {error.strerror}", _FITS, "change its permissions, or remove it")
    if path.stat().st_size == 0:
        return Fault(str(path), "empty: 0 bytes", _FITS, "copy it again, or remove it")
    if isinstance(error, UnidentifiedImageError):
        return Fault(str(path), f"no picture inside; it begins with {_beginning(path)!r}", _FITS, "remove it")
    found = f"damaged or cut off: {error or type(error).__name__}"
    return Fault(str(path), found, _FITS, "copy it again, or remove it")


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(24)


def _all_alike(examples: Sequence[Example], option: str) -> Iterator[Fault]:
    """Equal pixels are the same picture, whatever the files' bytes."""
    first, *others = examples
    if others and all(_same_pixels(first, other) for other in others):
        found = f"{len(examples)} files, but all are the same picture as {first.path.name}"
        yield Fault(option, found, "different pictures", "remove the copies and add others")


def _same_pixels(one: Example, other: Example) -> bool:
    if one.digest == other.digest:
        return True
    a, b = open_picture(one.path), open_picture(other.path)
    return a.size == b.size and a.tobytes() == b.tobytes()


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # unreadable EXIF: the pixels are whole, and nothing says which way they lie
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


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
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\b")
        yield
