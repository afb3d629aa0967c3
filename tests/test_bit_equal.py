"""The comparison of two commits: what it takes for the same and for another, and that its commands still work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests import bit_equal


def test_pixels_count_and_their_packing_does_not(tmp_path: Path):
    picture = Image.new("RGB", (16, 8), (1, 2, 3))
    for name, level in (("one", 0), ("other", 9)):
        (tmp_path / name).mkdir()
        picture.save(tmp_path / name / "a.png", compress_level=level)
    one, other = (bit_equal.digests([tmp_path / name]) for name in ("one", "other"))
    assert one == other and (tmp_path / "one/a.png").read_bytes() != (tmp_path / "other/a.png").read_bytes()
    picture.putpixel((3, 3), (1, 2, 4))
    picture.save(tmp_path / "other/a.png")
    assert one != bit_equal.digests([tmp_path / "other"])


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_tensors_count_by_name_kind_shape_and_bits_and_metadata_do_not(suffix: str, tmp_path: Path):
    file, digests = tmp_path / f"a.{suffix}", []
    zero = torch.zeros(2, 3)
    for number, tensor in enumerate((zero, zero, zero.half(), zero.reshape(3, 2), zero + 1e-30, -zero)):
        if suffix == "ckpt":
            torch.save({"state_dict": {"w": tensor}, "epoch": number}, file)
        else:
            save_file({"w": tensor}, file, {"epoch": str(number)})
        digests.append(bit_equal.digests([file], tmp_path))
    assert digests[0] == digests[1] and [len(each) for each in digests] == [1] * 6
    assert len({str(each) for each in digests}) == 5


def test_what_differs_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture):
    made = {"one": {"a": "1", "b": "2"}, "two": {"a": "1"}}
    for name, change in (("old", {}), ("same", {}), ("new", {"one": {"a": "1", "b": "3", "c": "4"}})):
        (tmp_path / name).write_text(json.dumps({"versions": {}, "made": made | change}))
    assert bit_equal.compare(tmp_path / "old", tmp_path / "same") == 0
    assert capsys.readouterr().out == "3 digests: equal\n"
    assert bit_equal.compare(tmp_path / "old", tmp_path / "new") == 1
    said = capsys.readouterr().out.splitlines()
    assert said == ["one: 1 only in the second: c", "one: 1 with other bits: b", "4 digests: not equal"]


def test_every_command_has_a_name_of_its_own_and_reads_what_was_made_before():
    known = {*bit_equal.FAMILIES, *bit_equal.TEXTS, *bit_equal.SAMPLERS, "photos", "captioned", "masks", "made", "out"}
    for name, words in bit_equal.commands():
        words.format_map({each: each for each in known})
        assert name not in known
        known.add(name)


@pytest.mark.slow
def test_the_commands_work_and_repeat(tmp_path: Path):
    """In a process of its own: it keeps the disk from being waited for, and forks."""
    import subprocess
    import sys

    for name in ("one", "other"):
        command = [sys.executable, "-m", "tests.bit_equal", "record", tmp_path / name]
        ran = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-3000:]
    assert bit_equal.compare(tmp_path / "one", tmp_path / "other") == 0
