"""Ways of spoiling a file or a folder, each by seeded dice."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load, save

CANARY = "canary"  # a file that appears where code out of an input has run
DEEP = 20_000

NASTY: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 2**31, 2**62, 2**63, 10**40, -(10**40), 0.0, -0.5, 1e-300, 1e300, 1e38,
    float("nan"), float("inf"), "", " ", "x", "nan", "1", "a" * 300, "a" * 200_000, "\0", "\ud800", "../../x", "CON",
    "/etc/passwd", "\u00e9", "e\u0301", "\u202e", [], {}, [[]], [None], [1, 2], {"a": 1}, ["x"] * 3000, [0], [-1],
)  # fmt: skip
LINES = (
    "", "\0", "\ufeff", "\ufefftext", "x" * 200_000, "9" * 6000, "{", "[" * DEEP, '"', ",,,,", "\ud800", "file_name",
    "a: &a [*a]", "- - -", "!!int abc", "!!timestamp x", "!!python/object/apply:os.system [touch canary]", "? ? ?",
    "a: b: c", "--- \n...\n---", "1e999", "\t- x", '{"file_name": "../../etc/passwd"}', '{"file_name": 5, "text": []}',
    '{"file_name": "0.png", "text": 1e999}', "0.png,a,b,c,d", "\r\r\n",
)  # fmt: skip
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)

Mutation = Callable[[random.Random, Path], None]


def harm(dice: random.Random, path: Path) -> str:
    """Spoil the file or folder at `path` in one of the ways that fit it. The way's name comes back."""
    if path.is_dir() or dice.random() < 0.08:
        ways: tuple[Mutation, ...] = (gone, hollow, folder_in_place, loop, endless, fifo, dangling)
    else:
        special = next((ways for ends, ways in BY_NAME if path.name.endswith(ends)), ())
        ways = special if special and dice.random() < 0.7 else BYTES
    way = dice.choice(ways)
    way(dice, path)
    return way.__name__


# bytes ---------------------------------------------------------------------------------------------------------------


def flip(dice: random.Random, path: Path) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(dice.randint(1, 8) if data else 0):
        data[dice.randrange(min(len(data), dice.choice((16, 400, len(data)))))] = dice.randrange(256)
    path.write_bytes(data)


def cut(dice: random.Random, path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: dice.randrange(max(1, len(data)))])


def splice(dice: random.Random, path: Path) -> None:
    data = bytearray(path.read_bytes() or b"x")
    start, place = dice.randrange(len(data)), dice.randrange(min(len(data), 2000))
    piece = data[start : start + dice.randint(1, 64)]
    data[place : place + len(piece)] = piece
    path.write_bytes(data)


def grow(dice: random.Random, path: Path) -> None:
    path.write_bytes(path.read_bytes() + dice.randbytes(dice.choice((1, 100, 5000))))


def blank(dice: random.Random, path: Path) -> None:
    data = bytearray(path.read_bytes() or b"x")
    start = dice.randrange(len(data))
    end = min(len(data), start + dice.choice((1, 100, len(data))))
    data[start:end] = dice.choice((b"\0", b"\xff", b" ")) * (end - start)
    path.write_bytes(data)


def noise(dice: random.Random, path: Path) -> None:
    path.write_bytes(dice.randbytes(dice.choice((1, 8, 100, 3000))))


def empty(dice: random.Random, path: Path) -> None:
    path.write_bytes(b"")


BYTES: tuple[Mutation, ...] = (flip, flip, cut, cut, splice, grow, blank, noise, empty)

# what stands where ---------------------------------------------------------------------------------------------------


def gone(dice: random.Random, path: Path) -> None:
    path.rename(path.with_name(path.name + ".elsewhere")) if path.is_dir() else path.unlink()


def hollow(dice: random.Random, path: Path) -> None:
    gone(dice, path)
    path.mkdir()


def folder_in_place(dice: random.Random, path: Path) -> None:
    hollow(dice, path)
    (path / "x.txt").write_text("x")


def loop(dice: random.Random, path: Path) -> None:
    gone(dice, path)
    path.symlink_to(path.name)


def endless(dice: random.Random, path: Path) -> None:
    gone(dice, path)
    path.symlink_to(dice.choice(("/dev/zero", "/dev/null", "/dev/full")))


def dangling(dice: random.Random, path: Path) -> None:
    gone(dice, path)
    path.symlink_to("nowhere")


def fifo(dice: random.Random, path: Path) -> None:
    gone(dice, path)
    os.mkfifo(path)


# tensors -------------------------------------------------------------------------------------------------------------


def header(dice: random.Random, path: Path) -> None:
    """Something else in the header of a safetensors file."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    try:
        told = json.loads(data[8 : 8 + length])
    except ValueError:
        return flip(dice, path)
    text = json.dumps(_changed(dice, told)).encode("utf-8", "surrogatepass")
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def numbers(dice: random.Random, path: Path) -> None:
    """A tensor of other numbers, shape or kind; one gone, twice there, or under another name."""
    try:
        named = load(path.read_bytes())
    except Exception:
        return flip(dice, path)
    for _ in range(dice.choice((1, 1, 3, len(named)))):
        if named:
            name = dice.choice(sorted(named))
            _hurt(dice, named, name)
    path.write_bytes(
        save(
            {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in named.items()},
            {"format": "pt"},
        )
    )


def _hurt(dice: random.Random, named: dict[str, torch.Tensor], name: str) -> None:
    tensor = named.pop(name)
    way = dice.randrange(9)
    if way == 0:
        return
    if way == 1:
        named[dice.choice((name + "x", name[1:], "x." + name, "../" + name, "", name.replace(".", "_")))] = tensor
    elif way == 2:
        named |= {name: tensor, f"{name}.copy": tensor.clone()}
    elif way == 3:
        kind = dice.choice((torch.int8, torch.int64, torch.bool, torch.float64, torch.bfloat16, torch.float8_e4m3fn))
        named[name] = tensor.to(kind)
    elif way == 4:
        named[name] = (
            tensor.reshape(-1)[:0]
            if dice.random() < 0.5
            else tensor.reshape(-1)[0].clone()
            if tensor.numel()
            else tensor
        )
    elif way == 5:
        named[name] = tensor.T if tensor.ndim == 2 else tensor[None]
    elif way == 6:
        named[name] = torch.cat([tensor, tensor]) if tensor.ndim else tensor.repeat(3)
    else:
        hurt = tensor.clone(memory_format=torch.contiguous_format)
        if hurt.numel() and hurt.is_floating_point():
            value = dice.choice((float("nan"), float("inf"), -float("inf"), 1e38, 0.0, 1e-40))
            hurt.view(-1)[dice.randrange(hurt.numel())] = min(value, torch.finfo(hurt.dtype).max)
        named[name] = hurt


class _Runs:
    """Pickled, it is a call."""

    def __init__(self, call: Any, *words: Any) -> None:
        self.told = (call, words)

    def __reduce__(self) -> Any:
        return self.told


def pickled(dice: random.Random, path: Path) -> None:
    """A pickle that would run code, plain or in torch's archive, in place of a file of tensors."""
    command = f"touch {path.parent / CANARY}"
    bad = dice.choice(
        (_Runs(os.system, command), _Runs(eval, f"__import__('os').system({command!r})"), _Runs(exec, "import os"))
    )
    value = dice.choice(({"state_dict": {"x": bad}}, {"x": torch.zeros(2), "y": bad}, bad))
    if dice.random() < 0.5:
        torch.save(value, path, _use_new_zipfile_serialization=dice.random() < 0.5)
    else:
        path.write_bytes(pickle.dumps(value, protocol=dice.randrange(2, 6)))


def archived(dice: random.Random, path: Path) -> None:
    """An archive that is large when opened, or holds odd names."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(dice.choice((10, 50_000_000))))
        archive.writestr(
            dice.choice(("archive/data/0", "../../x", "archive/data.pkl")), bytes(dice.choice((10, 5_000_000)))
        )


# text ----------------------------------------------------------------------------------------------------------------


def tree(dice: random.Random, path: Path) -> None:
    """Another value somewhere in a JSON file."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return flip(dice, path)
    path.write_bytes(json.dumps(_changed(dice, told)).encode("utf-8", "surrogatepass"))


def lines(dice: random.Random, path: Path) -> None:
    """A strange line in a text file, in place of another or beside it."""
    told = path.read_bytes().split(b"\n")
    place = dice.randrange(len(told))
    strange = dice.choice((*LINES, BOMB)).encode("utf-8", "surrogatepass")
    told[place : place + dice.randrange(2)] = [strange]
    path.write_bytes(b"\n".join(told))


def values(dice: random.Random, path: Path) -> None:
    """Another value after one of the colons of a YAML or JSON-lines file."""
    told = path.read_text(encoding="utf-8", errors="replace").split("\n")
    place = dice.randrange(len(told))
    name, colon, _ = told[place].partition(":")
    strange = dice.choice((*LINES, *(json.dumps(each) for each in NASTY)))
    told[place] = f"{name}{colon or ':'} {strange}"
    path.write_bytes("\n".join(told).encode("utf-8", "surrogatepass"))


def recoded(dice: random.Random, path: Path) -> None:
    text = path.read_bytes().decode("utf-8", "replace")
    path.write_bytes(text.encode(dice.choice(("utf-16", "utf-8-sig", "utf-32", "cp1252", "utf-7")), "replace"))


def deep(dice: random.Random, path: Path) -> None:
    path.write_text(dice.choice(('{"a":' * DEEP, "[" * DEEP, "[" * DEEP + "]" * DEEP)))


def _changed(dice: random.Random, value: Any) -> Any:
    """The value, other at one place of it."""
    inside = isinstance(value, dict | list) and value and dice.random() < 0.8
    if not inside:
        return dice.choice(NASTY)
    place = dice.choice(sorted(value, key=str)) if isinstance(value, dict) else dice.randrange(len(value))
    if dice.random() < 0.2:
        value.pop(place)
    elif isinstance(value, dict) and dice.random() < 0.15:
        value[dice.choice(("x", "", "../x", "a" * 300))] = value.pop(place)
    else:
        value[place] = _changed(dice, value[place])
    return value


# pictures ------------------------------------------------------------------------------------------------------------


def redrawn(dice: random.Random, path: Path) -> None:
    """A picture of an odd size, kind or format under the same name."""
    size = dice.choice(((1, 1), (1, 3000), (3000, 1), (17, 23), (64, 64), (9000, 9000)))
    mode = dice.choice(("RGB", "RGBA", "L", "LA", "P", "CMYK", "1", "I;16", "F"))
    formats = {"RGB": ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"), "RGBA": ("PNG", "WEBP", "TIFF")}
    image = Image.new(mode, size)
    kept = io.BytesIO()
    image.save(kept, dice.choice(formats.get(mode, ("TIFF",))))
    path.write_bytes(kept.getvalue())


def animated(dice: random.Random, path: Path) -> None:
    frames = [Image.new("RGB", (64, 64), (shade, 0, 0)) for shade in range(0, 250, 50)]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])


BY_NAME: tuple[tuple[tuple[str, ...], tuple[Mutation, ...]], ...] = (
    ((".safetensors",), (header, header, numbers, numbers, numbers, pickled)),
    ((".ckpt", ".pt", ".bin"), (pickled, archived, flip)),
    ((".json",), (tree, tree, tree, lines, recoded, deep)),
    ((".yaml", ".jsonl"), (values, values, lines, recoded, deep)),
    ((".txt", ".csv"), (lines, lines, recoded)),
    ((".png", ".jpg", ".webp"), (redrawn, redrawn, animated)),
)
