"""A thousand damaged files: each is refused in words, none crashes, hangs or leaves anything behind."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from tenshot.cli.main import main
from tenshot.convert.convert import convert
from tenshot.convert.options import ConvertOptions
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.families import conversion, registry
from tenshot.inspect.inspect import InspectOptions, inspect
from tenshot.model import single_nets
from tests.test_adapter_files import a_lora
from tests.test_checkpoints import run

MUTANTS = 250  # of each of four files, and half as many of a checkpoint


def bytes_of(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


ONE = json.dumps(entry([1], 0, 4), separators=(",", ":")).encode()
FORGED = {
    "empty": b"",
    "short": b"\x01",
    "bomb": struct.pack("<Q", 2**63) + b"{}",
    "long": struct.pack("<Q", 10**9) + b"{}" + b" " * 100,
    "list": bytes_of([1, 2]),
    "number": bytes_of({"a": 3}),
    "deep": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "overlap": bytes_of({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
    "beyond": bytes_of({"a": entry([2], 0, 800)}, bytes(8)),
    "trailing": bytes_of({"a": entry([2], 0, 8)}, bytes(80)),
    "negative": bytes_of({"a": entry([-2], 0, 8)}, bytes(8)),
    "huge": bytes_of({"a": entry([2**62, 2**62], 0, 8)}, bytes(8)),
    "dtype": bytes_of({"a": entry([2], 0, 8, "Q99")}, bytes(8)),
    "twice": struct.pack("<Q", 107) + b'{"a":%s,"a":%s}' % ((ONE,) * 2) + bytes(4),
    "zip": b"PK\x03\x04" + bytes(60),
    "pickle": b"\x80\x02}q\x00(X",
}  # fmt: skip


def both(file: Path, target: Path) -> None:
    """Whatever happens, it is an answer or a refusal, and a refusal leaves nothing."""
    for work in (
        lambda: inspect(InspectOptions(file=file), Events()),
        lambda: convert(ConvertOptions(src=file, dst=target), Events()),
    ):
        try:
            work()
        except Refusal as refusal:
            assert refusal.faults
            assert not target.exists()


@pytest.mark.parametrize("name", FORGED)
def test_forged_headers(name: str, tmp_path: Path):
    file = tmp_path / "forged.safetensors"
    file.write_bytes(FORGED[name])
    with pytest.raises(Refusal):
        inspect(InspectOptions(file=file), Events())
    assert main(["convert", str(file), str(tmp_path / "out.safetensors")]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["forged.safetensors"]


@pytest.mark.parametrize("said", [1, None, True, ["a"], {"a": {"b": "c"}}, {"a": []}], ids=str)
def test_metadata_of_other_types_is_refused_by_every_verb(said: object, sd1: Path, tmp_path: Path):
    whole = a_lora(sd1, tmp_path / "lora.safetensors").read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + length])
    file, out = tmp_path / "told.safetensors", tmp_path / "out.safetensors"
    file.write_bytes(bytes_of({**header, "__metadata__": {"ss_network_alpha": said}}, whole[8 + length :]))
    for words in (
        ["inspect", file],
        ["convert", file, out, "--config", sd1],
        ["resize", file, "--rank", 1, "--out", out],
    ):
        assert main([str(word) for word in words]) == 2, words
        assert not out.exists()


def test_hostile_names_make_no_paths(tmp_path: Path):
    file = tmp_path / "in" / "word.safetensors"
    file.parent.mkdir()
    file.write_bytes(save({"../../escaped": torch.zeros(2, 4)}, {"word": "../../escaped", "ss_output_name": "/etc/x"}))
    run(file, tmp_path / "in" / "out.safetensors")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["in", "out.safetensors", "word.safetensors"]


@pytest.fixture(scope="module")
def seeds(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("seeds")
    lora = a_lora(sd1, folder / "lora.safetensors")
    run(lora, folder / "kohya.safetensors", "--config", sd1)
    torch.save({"string_to_param": {"*": torch.zeros(2, 16)}, "name": "az"}, folder / "word.pt")
    torch.save({"az": torch.zeros(2, 16)}, folder / "old.pt", _use_new_zipfile_serialization=False)
    run(sd1, folder / "checkpoint.safetensors")
    names = ("lora.safetensors", "kohya.safetensors", "word.pt", "old.pt", "checkpoint.safetensors")
    return [(folder / name).read_bytes() for name in names]


@pytest.mark.parametrize("number", range(5))
def test_a_thousand_mutants(number: int, seeds: list[bytes], tmp_path: Path):
    dice = random.Random(number)
    file, target = tmp_path / "mutant.safetensors", tmp_path / "out.safetensors"
    for _ in range(MUTANTS if number < 4 else MUTANTS // 2):
        data = bytearray(seeds[number])
        kind = dice.randrange(3)
        if kind == 0:  # bytes flipped, mostly at the beginning, where the structure is
            for _ in range(dice.randint(1, 8)):
                data[dice.randrange(min(len(data), dice.choice((16, 400, len(data)))))] = dice.randrange(256)
        elif kind == 1:  # cut
            del data[dice.randrange(len(data)) :]
        else:  # a piece moved elsewhere
            start = dice.randrange(len(data))
            piece = data[start : start + dice.randint(1, 64)]
            place = dice.randrange(min(len(data), 2000))
            data[place : place + len(piece)] = piece
        file.write_bytes(data)
        both(file, target)
        target.unlink(missing_ok=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mutant.safetensors"]


ROOTS = [[(root, conversion.DIALECTS[kind].landmark) for root, kind in f.original.values()] for f in registry.FAMILIES]
MARKS = [[root + mark for root, mark in each] for each in ROOTS] + [
    [net.root + net.landmark] for net in single_nets.NETS
]


@pytest.mark.parametrize("names", MARKS, ids=lambda names: names[0])
@pytest.mark.parametrize("shape", [(), (7,), (4, 4), (4, 4, 3, 3)], ids=str)
def test_the_signs_of_a_model_and_nothing_else(names: list[str], shape: tuple[int, ...], tmp_path: Path):
    (tmp_path / "in.safetensors").write_bytes(save({name: torch.zeros(shape) for name in names}))
    both(tmp_path / "in.safetensors", tmp_path / "out")
