"""The picture sets: fetched from npm by name and version, drawn as 128x128 RGBA sprites, kept in one file.

Fluent Emoji 3D (Microsoft, MIT) is the style "3d"; Noto Emoji (Google, Apache-2.0) is the style "flat".
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from tenshot.io import tensors

SIZE = 128
STYLES = ("3d", "flat")
FLUENT, NOTO = "@lobehub/fluent-emoji-3d@1.1.0", "@iconify-json/noto@1.2.9"
CONCEPTS = Path(__file__).with_name("concepts.yaml")
UNWANTED = ("skin-tone", "oclock", "thirty", "button", "keycap", "family", "kiss-", "couple", "holding-hands", "flag-")


@dataclass(frozen=True)
class Sprites:
    """pictures: style -> [names, 128, 128, 4] uint8 RGBA. names: emoji names, known ones first."""

    names: list[str]
    category: dict[str, str]
    known: list[str]
    kept_out: list[str]
    pictures: dict[str, torch.Tensor]

    def picture(self, style: str, name: str) -> Image.Image:
        return Image.fromarray(self.pictures[style][self.names.index(name)].numpy(), "RGBA")

    @property
    def taught(self) -> list[str]:
        """Every name that training may see."""
        return [name for name in self.names if name not in set(self.kept_out)]


def load(folder: Path) -> Sprites:
    """The sprites, from `folder` or, the first time, from the packages."""
    file = folder / "sprites.npz"
    if not file.is_file():
        names, drawn = _draw()
        with tensors.replacing(file) as temporary, temporary.open("wb") as opened:
            np.savez_compressed(opened, names=names, **drawn)
    with np.load(file) as found:
        names = found["names"].tolist()
        pictures = {style: torch.from_numpy(found[style]) for style in STYLES}
    table = yaml.safe_load(CONCEPTS.read_text())
    category = {name: group for part in table.values() for group, members in part.items() for name in members}
    known = [name for members in table["known"].values() for name in members]
    kept_out = [name for members in table["kept_out"].values() for name in members]
    return Sprites(names, category, known, kept_out, pictures)


def _draw() -> tuple[list[str], dict[str, np.ndarray]]:
    with tempfile.TemporaryDirectory() as temporary:
        fluent, noto = (_fetch(package, Path(temporary)) for package in (FLUENT, NOTO))
        codes = json.loads(noto["chars.json"])
        icons = json.loads(noto["icons.json"])
        webp = {_bare(Path(name).stem): data for name, data in fluent.items() if name.endswith(".webp")}
        names = {name: _bare(code) for code, name in codes.items()}
        both = sorted(
            name
            for name, code in names.items()
            if code in webp and name in icons["icons"] and not any(part in name for part in UNWANTED)
        )
        drawn = {
            "3d": [_square(Image.open(io.BytesIO(webp[names[name]]))) for name in both],
            "flat": [_square(_vector(icons, name)) for name in both],
        }
    return both, {style: np.stack(pictures) for style, pictures in drawn.items()}


def _fetch(package: str, folder: Path) -> dict[str, bytes]:
    """The files of an npm package, by their names without the leading folders."""
    packed = subprocess.run(
        ["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True, text=True
    )
    with tarfile.open(folder / packed.stdout.split()[-1]) as archive:
        return {Path(name).name: data for name, data in _members(archive)}


def _members(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        if member.isfile() and (file := archive.extractfile(member)):
            yield member.name, file.read()


def _bare(code: str) -> str:
    """A code point sequence without variation selectors and leading zeros, as both sets can agree on."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f").lstrip("0")


def _vector(icons: dict, name: str) -> Image.Image:
    import resvg_py

    icon = icons["icons"][name]
    width, height = icon.get("width", icons["width"]), icon.get("height", icons["height"])
    left, top = icon.get("left", 0), icon.get("top", 0)
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    svg = f'<svg {spaces} viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=2 * SIZE, height=2 * SIZE))))


def _square(image: Image.Image) -> np.ndarray:
    """The drawing cut to what is visible and fitted into SIZE x SIZE, RGBA uint8."""
    image = image.convert("RGBA")
    image = image.crop(image.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox())
    scale = SIZE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (SIZE, SIZE))
    canvas.paste(image, ((SIZE - width) // 2, (SIZE - height) // 2))
    return np.asarray(canvas)
