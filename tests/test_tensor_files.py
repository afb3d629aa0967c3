"""Files of tensors from outside: headers and indices that lie, and eight-bit weights with scales."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tenshot.core.errors import Fault, Refusal
from tenshot.families import validate
from tenshot.io import tensor_files, tensors, text_files
from tenshot.model import checkpoint
from tests.test_checkpoints import run
from tests.test_reading import THINGS


def fault(path: Path) -> Fault:
    with pytest.raises(Refusal) as refused:
        tensor_files.opened(path)
    (found,) = refused.value.faults
    assert found.where
    assert found.found
    assert found.do
    return found


def headed(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def a_shape(*sides: int) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": list(sides), "data_offsets": [0, 0]}}


@pytest.mark.parametrize("thing", [name for name in THINGS if name not in ("a long file",)])
@pytest.mark.parametrize("name", ["x.safetensors", "x.ckpt", "x.safetensors.index.json", "config.json"])
def test_what_is_no_file_is_refused_by_name(thing: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    THINGS[thing](tmp_path / name)
    with pytest.raises(Refusal, match=name):
        text_files.read_json(tmp_path / name)
    assert name in fault(tmp_path / name).where
    if "device" in thing:
        assert fault(tmp_path / name).found == "not a file, but a device"  # and not, too many bytes
    with pytest.raises(Refusal, match=name):
        tensor_files.looked_into(tmp_path / name)
    with pytest.raises(Refusal, match=name):
        tensors.shapes(tmp_path / name)


@pytest.mark.parametrize("sides", [(2**62, 2**62, 0), (0, 2**63 - 1, 5), (1,) * 5000, (0, 2**64)], ids=len)
def test_shapes_that_no_tensor_can_have(sides: tuple[int, ...], tmp_path: Path):
    fault(headed(tmp_path / "x.safetensors", a_shape(*sides)))


def test_an_empty_tensor_is_read(tmp_path: Path):
    found = tensor_files.opened(headed(tmp_path / "x.safetensors", a_shape(0, 7)))
    assert found.tensors["a"].read().shape == (0, 7)


def test_what_is_written_is_what_the_library_writes(tmp_path: Path):
    generator = torch.Generator().manual_seed(0)
    kinds = dict(sorted(tensor_files.DTYPES.items()))
    named = {f"b {name}": torch.randint(0, 2, (3, 5), generator=generator).to(kind) for name, kind in kinds.items()}
    named |= {"a": torch.zeros(0, 7), "c": torch.ones(()), "turned": torch.arange(6.0).reshape(2, 3).T}
    digest = tensors.write(tmp_path / "ours.safetensors", named, {"format": "pt"})
    save_file({name: each.contiguous() for name, each in named.items()}, tmp_path / "theirs", {"format": "pt"})
    written = (tmp_path / "ours.safetensors").read_bytes()
    assert written == (tmp_path / "theirs").read_bytes()
    data = written[8 + int.from_bytes(written[:8], "little") :]
    assert digest == tensors.data_hash(named) == hashlib.sha256(data).hexdigest()
    found = tensors.read(tmp_path / "ours.safetensors")
    assert {name: each.dtype for name, each in found.items()} == {name: each.dtype for name, each in named.items()}
    assert all(torch.equal(found[name].float(), named[name].float()) for name in named)


@pytest.mark.parametrize("start", ["<", "<!"])
def test_a_header_whose_length_begins_like_a_web_page(start: str, tmp_path: Path):
    length = int.from_bytes(start.encode().ljust(8, b"\0"), "little")
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"a": entry}, separators=(",", ":")).encode().ljust(length)
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", length) + header[:length] + b"\0" * 4)
    assert len(header) == length
    assert tensor_files.opened(tmp_path / "a.safetensors").tensors["a"].read().tolist() == [0]


def test_a_header_with_a_name_twice_at_its_end_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    one = json.dumps(a_shape(0)["a"])
    pairs = ",".join(f'"{number}":{one}' for number in [*range(100_000), 99_999])
    assert "'99999' is in it twice" in fault(headed(tmp_path / "x.safetensors", f"{{{pairs}}}".encode())).found
    monkeypatch.setattr(tensor_files, "NAMES", 2_000)
    pairs = ",".join(f'"{number}":{one}' for number in range(2_001))
    assert "2,001 tensors" in fault(headed(tmp_path / "x.safetensors", f"{{{pairs}}}".encode())).found


PICTURES = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"GIF89a",
    b"RIFF\0\1\0\0WEBPVP8 ",
    b"\0\0\0\x18ftypheic",
    b"\0\0\0\x1cftypavif",
)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"GGUF\3\0\0\0", "fp16"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE", "log"),
        *((start, "a LoRA") for start in PICTURES),
    ],
)
def test_what_is_taken_for_a_model_gets_advice_that_helps(start: bytes, words: str, tmp_path: Path):
    (tmp_path / "x.safetensors").write_bytes(start + bytes(100))
    assert words in fault(tmp_path / "x.safetensors").do


INDICES: dict[str, Any] = {
    "itself": {"a": "x.index.json"},
    "above": {"a": ".."},
    "elsewhere": {"a": "../a.safetensors"},
    "another system's": {"a": "..\\a.safetensors"},
    "no text": {"a": 3},
    "not hashable": {"a": []},
    "NUL": {"a": "\0.safetensors"},
    "a list": ["a"],
    "a pipe": {"a": "pipe.safetensors"},
    "a folder": {"a": "folder.safetensors"},
    "nameless": {"a": ""},
}


@pytest.mark.parametrize("kind", INDICES)
def test_an_index_that_lies(kind: str, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    index = tmp_path / "x.index.json"
    index.write_text(json.dumps({"weight_map": INDICES[kind]}))
    fault(index)


def test_two_shards_with_the_same_tensor(tmp_path: Path):
    for number in (1, 2):
        save_file({"a": torch.full((1,), number), str(number): torch.zeros(1)}, tmp_path / f"{number}.safetensors")
    index = tmp_path / "x.index.json"
    names = {"1": "1.safetensors", "2": "2.safetensors"}
    index.write_text(json.dumps({"weight_map": names | {"a": "1.safetensors"}}))
    assert tensor_files.opened(index).tensors["a"].read() == 1
    index.write_text(json.dumps({"weight_map": names}))
    assert "a is in two shards" in fault(index).found


def scaled(path: Path, form: str, dtype: torch.dtype = torch.float8_e4m3fn) -> dict[str, torch.Tensor]:
    """Write the checkpoint at `path` again with scaled linear layers in its UNet; the numbers that it stands for."""
    named, means = load_file(path), {}
    for name in [each for each in named if each.endswith(("to_q.weight", "ff.net.2.weight"))]:
        weight, layer = named.pop(name).float(), name.removesuffix(".weight")
        rows = form in ("rows", "columns")
        scale = (weight.abs().amax(1, keepdim=True) if rows else weight.abs().max().reshape(())) / 300
        named[name] = (weight / scale).to(dtype)
        means[name] = named[name].float() * scale
        shape = {"rows": (-1,), "columns": (-1, 1), "scalar": (), "one": (1,), "told": ()}[form]
        named[f"{layer}.{'weight_scale' if form == 'told' else 'scale_weight'}"] = scale.reshape(shape)
        named[f"{layer}.{'input_scale' if form == 'told' else 'scale_input'}"] = torch.ones(())
        if form == "told":
            how = json.dumps({"format": str(dtype).removeprefix("torch.")}).encode()
            named[f"{layer}.comfy_quant"] = torch.tensor(list(how), dtype=torch.uint8)
    named["model.diffusion_model.scaled_fp8"] = torch.zeros(0, dtype=dtype)
    save_file(named, path)
    return means


@pytest.mark.parametrize("form", ["scalar", "one", "rows", "columns", "told"])
def test_eight_bit_weights_with_scales_are_what_they_stand_for(form: str, sd1: Path, tmp_path: Path):
    file = tmp_path / "m.safetensors"
    run(sd1, file)
    means = scaled(file, form, torch.float8_e5m2 if form == "one" else torch.float8_e4m3fn)
    assert len(means) > 4
    answer = run(file, tmp_path / "folder", "--config", sd1)
    assert validate.examine(tmp_path / "folder").name == "sd1"
    run(tmp_path / "folder", tmp_path / "back.safetensors")
    written = load_file(tmp_path / "back.safetensors")
    for name, numbers in means.items():
        assert torch.equal(written[name].float(), numbers)
    assert not [name for name in written if "scale" in name]
    assert "eight-bit" in json.dumps(answer)


@pytest.mark.parametrize(
    "beside",
    [
        {"l.weight": torch.zeros(4, 4, dtype=torch.int8), "l.weight_scale": torch.ones(1)},
        {"l.weight": torch.zeros(4, 4, dtype=torch.float8_e4m3fn), "l.weight_scale": torch.ones(2, 2)},
        {
            "l.weight": torch.zeros(4, 4, dtype=torch.float8_e4m3fn),
            "l.comfy_quant": torch.tensor(list(b'{"format": "float8_e4m3fn", "convrot": true}'), dtype=torch.uint8),
        },
        {"l.weight": torch.zeros(4, 2, dtype=torch.uint8), "l.comfy_quant": torch.tensor([1], dtype=torch.uint8)},
    ],
)
def test_weights_packed_otherwise_are_refused_by_name(beside: dict[str, torch.Tensor], tmp_path: Path):
    save_file(beside, tmp_path / "x.safetensors")
    found = fault(tmp_path / "x.safetensors")
    assert "l is " in found.found
    assert "fp16" in found.do


def test_whole_numbers_are_no_weights(sd1: Path, tmp_path: Path):
    run(sd1, tmp_path / "m.safetensors")
    named = load_file(tmp_path / "m.safetensors")
    name = next(name for name in named if name.endswith("to_q.weight"))
    named[name] = named[name].to(torch.int8)
    save_file(named, tmp_path / "m.safetensors")
    with pytest.raises(Refusal, match="whole numbers"):
        checkpoint.read(tmp_path / "m.safetensors", sd1)
