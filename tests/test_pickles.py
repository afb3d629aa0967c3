"""Pickles of every sort: those that people have are read, those that would do something are not, and nothing runs."""

from __future__ import annotations

import builtins
import collections
import io
import os
import pathlib
import pickle
import struct
import sys
import tarfile
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tenshot.core.errors import Refusal
from tenshot.io import tensor_files

RAN: list[object] = []


def ran(*told: object) -> str:
    """What every attack here tries to call."""
    RAN.append(told)
    return "ran"


@pytest.fixture(autouse=True)
def nothing_runs() -> Iterator[None]:
    RAN.clear()
    yield
    assert not RAN


class Calls:
    def __init__(self, call: Any, *words: Any) -> None:
        self.told = (call, words)

    def __reduce__(self) -> Any:
        return self.told


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


ME = __name__
PROTOCOL = b"\x80\x02"
RAW = {
    "global and reduce": PROTOCOL + f"c{ME}\nran\n".encode() + b"(" + text("x") + b"tR.",
    "inst": PROTOCOL + b"(" + text("x") + f"i{ME}\nran\n".encode() + b".",
    "obj": PROTOCOL + b"(" + f"c{ME}\nran\n".encode() + text("x") + b"o.",
    "newobj": PROTOCOL + b"csubprocess\nPopen\n(" + text("x") + b"t\x81.",
    "stack global": b"\x80\x04" + text(ME) + text("ran") + b"\x93(" + text("x") + b"tR.",
    "stack global, names from the memo": b"\x80\x04" + text(ME) + b"\x94" + text("ran") + b"\x940h\x00h\x01\x93)R.",
    "stack global, names from a tuple": b"\x80\x04("
    + text(ME)
    + text("ran")
    + b"t0"
    + text(ME)
    + text("ran")
    + b"\x93)R.",
    "by getattr": PROTOCOL + b"c__builtin__\ngetattr\n(c" + ME.encode() + b"\nran\n" + text("__call__") + b"tR)R.",
    "by another pickle": PROTOCOL + b"c_pickle\nloads\n(" + text("x") + b"tR.",
    "import": PROTOCOL + b"cbuiltins\n__import__\n(" + text("os") + b"tR.",
    "eval": PROTOCOL + b"c__builtin__\neval\n(" + text("1") + b"tR.",
    "a known gadget": PROTOCOL + b"cnumpy.testing._private.utils\nrunstring\n(" + text("1") + b"}tR.",
    "torch's own loader": PROTOCOL + b"ctorch.storage\n_load_from_bytes\n(" + text("x") + b"tR.",
    "torch's hub": PROTOCOL + b"ctorch.hub\nload\n(" + text("x") + b"tR.",
    "somebody's function": PROTOCOL + b"cpip._internal\nmain\n(" + text("x") + b"tR.",
    "an extension code": PROTOCOL + b"\x82\x01)R.",
    "state of a real class": PROTOCOL + b"ccollections\nOrderedDict\n)R}" + text("x") + b"cposix\nsystem\ns" + b"b.",
    "dots in a name": b"\x80\x04" + text("collections") + text("OrderedDict.__init__.__globals__") + b"\x93)R.",
}


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW)
@pytest.mark.parametrize("form", ("plain", "archive", "old archive"))
def test_what_would_run_is_refused(raw: bytes, form: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.ckpt"
    if form == "plain":
        file.write_bytes(raw)
    elif form == "archive":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", raw)
            archive.writestr("archive/version", "3")
    else:  # torch's older files: a magic number, a protocol, facts, and then the content
        begin = b"".join(pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
        file.write_bytes(begin + raw)
    with pytest.raises(Refusal):
        tensor_files.opened(file)


@pytest.mark.parametrize("call", (os.system, builtins.exec, builtins.eval, builtins.open, pathlib.Path.unlink, print))
def test_it_says_what_it_would_call(call: Any, tmp_path: Path) -> None:
    torch.save({"state_dict": {"x": torch.zeros(2), "y": Calls(call, "1")}}, tmp_path / "bad.ckpt")
    with pytest.raises(Refusal, match="would call"):
        tensor_files.opened(tmp_path / "bad.ckpt")


def test_a_pickle_beside_the_first_is_looked_at_too(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(2)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "a") as archive:
        archive.writestr("a/more.pkl", RAW["eval"])
    with pytest.raises(Refusal, match="would call"):
        tensor_files.opened(tmp_path / "a.pt")


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Classes of a program that is not installed where the file is read."""
    module = types.ModuleType("lightning_of_old.callbacks")

    class ModelCheckpoint:
        pass

    class AttributeDict(dict):
        pass

    class Config:
        def __init__(self) -> None:
            self.rate, self.more = 1e-4, AttributeDict(a=1)

    found = types.SimpleNamespace(ModelCheckpoint=ModelCheckpoint, AttributeDict=AttributeDict, Config=Config)
    for name, kind in vars(found).items():
        kind.__module__, kind.__qualname__ = module.__name__, name
        setattr(module, name, kind)
    monkeypatch.setitem(sys.modules, "lightning_of_old", types.ModuleType("lightning_of_old"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return found


@pytest.mark.parametrize("zipped", (True, False))
def test_the_classic_checkpoint_is_read(
    zipped: bool, trainers: types.SimpleNamespace, tmp_path: Path, monkeypatch
) -> None:
    """As Stable Diffusion 1.x was published: callbacks by their class, states of the optimizer, settings."""
    weights = {"model.diffusion_model.out.2.bias": torch.arange(4.0), "cond.half": torch.ones(2, 3).half().T}
    told = {
        "epoch": 840,
        "global_step": 470000,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": weights,
        "callbacks": {
            trainers.ModelCheckpoint: {"monitor": "val", "best_model_score": np.float64(0.5), "dirpath": None}
        },
        "optimizer_states": [{"state": {0: {"step": 5, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}],
        "lr_schedulers": [{"last_epoch": 1, "_last_lr": [np.float32(1e-4)], "lr_lambdas": [None]}],
        "hyper_parameters": trainers.AttributeDict(config=trainers.Config(), path=pathlib.PurePosixPath("/x")),
        "counts": collections.defaultdict(int, a=1),
        "scalar": np.arange(3),
    }
    torch.save(told, tmp_path / "v1.ckpt", _use_new_zipfile_serialization=zipped)
    for name in [name for name in sys.modules if name.startswith("lightning_of_old")]:
        monkeypatch.delitem(sys.modules, name)
    read = tensor_files.opened(tmp_path / "v1.ckpt")
    found = {name: lazy.read() for name, lazy in read.tensors.items() if name in weights}
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert not any("lightning_of_old" in name for name in sys.modules)


def test_a_whole_pickled_net_is_refused_by_name(tmp_path: Path, trainers: types.SimpleNamespace) -> None:
    config = trainers.Config()
    config.weight = torch.zeros(3)
    torch.save({"model": config}, tmp_path / "net.pt")
    with pytest.raises(Refusal, match=r"lightning_of_old\.callbacks\.Config"):
        tensor_files.opened(tmp_path / "net.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "linear.pt")
    with pytest.raises(Refusal, match=r"torch\.nn\.modules\.linear\.Linear"):
        tensor_files.opened(tmp_path / "linear.pt")


def view(size: tuple[int, ...], stride: tuple[int, ...], offset: int) -> bytes:
    """torch's old form of one tensor over a storage of two numbers, with whatever view of it."""
    kept = io.BytesIO()
    torch.save({"x": torch.zeros(2)}, kept)
    with zipfile.ZipFile(kept) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in files if name.endswith("data.pkl"))
    tail = b"QK\x00K\x02\x85"  # offset 0, size (2,)
    assert files[name].count(tail) == 1
    numbers = pickle.dumps((offset, size), 2)[2:-1]
    # a tuple of offset and size cannot stand where two values are wanted: write the two apart
    offset_, size_ = (pickle.dumps(each, 2)[2:-1] for each in (offset, size))
    assert numbers
    data = files[name]
    start = data.index(tail)
    end = data.index(b"K\x01\x85", start) + 3
    stride_ = pickle.dumps(stride, 2)[2:-1]
    memo = data[start + len(tail) : end - 3]
    files[name] = data[:start] + b"Q" + offset_ + size_ + memo + stride_ + data[end:]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for each, content in files.items():
            archive.writestr(each, content)
    return out.getvalue()


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((2**40,), (0,), 0),
        ((1 << 20, 1 << 20), (0, 0), 0),
        ((3,), (1,), 0),
        ((2,), (1,), 1),
        ((2,), (-1,), 1),
        ((-2,), (1,), 0),
        ((2,), (1,), -1),
        ((2,), (2**62,), 0),
    ],
)
def test_views_beyond_their_storage(
    size: tuple[int, ...], stride: tuple[int, ...], offset: int, tmp_path: Path
) -> None:
    (tmp_path / "view.pt").write_bytes(view((2,), (1,), 0))
    assert tensor_files.opened(tmp_path / "view.pt").tensors["x"].shape == (2,)
    (tmp_path / "view.pt").write_bytes(view(size, stride, offset))
    with pytest.raises(Refusal):
        tensor_files.opened(tmp_path / "view.pt")


def test_archives_that_are_none_of_torchs(tmp_path: Path) -> None:
    file = tmp_path / "bad.pt"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    with pytest.raises(Refusal, match="would become"):
        tensor_files.opened(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        with pytest.warns(UserWarning):
            archive.writestr("archive/data.pkl", RAW["eval"])
    with pytest.raises(Refusal, match="twice"):
        tensor_files.opened(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../../data.pkl", pickle.dumps({"x": 1}))
    with pytest.raises(Refusal):
        tensor_files.opened(file)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pt"]


def test_the_oldest_form_is_not_unpacked(tmp_path: Path) -> None:
    """torch would unpack a tar archive; its first bytes are a file's name, which can look like a pickle."""
    for name in ("storages", "\udc80\x02x"):
        with tarfile.open(tmp_path / "old.pt", "w") as archive:
            entry = tarfile.TarInfo(name)
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"abc"))
        with pytest.raises(Refusal):
            tensor_files.opened(tmp_path / "old.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["old.pt"]


@pytest.mark.parametrize("put", (b"r\xff\xff\xff\x7f", b"p2000000000\n"))
def test_a_pickle_that_makes_room_for_billions_is_refused(put: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"\x80\x02]" + put + b".")
    with pytest.raises(Refusal, match="remember"):
        tensor_files.opened(tmp_path / "a.pt")


def test_mappings_without_end(tmp_path: Path) -> None:
    told: dict[str, Any] = {}
    for _ in range(300):
        told = {"x": told}
    torch.save(told, tmp_path / "deep.pt")
    with pytest.raises(Refusal, match="deep"):
        tensor_files.opened(tmp_path / "deep.pt")
    laughs: dict[str, Any] = {"x": torch.zeros(2)}
    for _ in range(40):
        laughs = {"a": laughs, "b": laughs}
    torch.save(laughs, tmp_path / "laughs.pt")
    with pytest.raises(Refusal, match="more than"):
        tensor_files.opened(tmp_path / "laughs.pt")
    round_: dict[str, Any] = {"x": torch.zeros(2)}
    round_["self"] = round_
    torch.save(round_, tmp_path / "round.pt")
    with pytest.raises(Refusal):
        tensor_files.opened(tmp_path / "round.pt")
