"""What is altered in a compiled model is refused by name, with the command that compiles it again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tenshot
from tenshot.core.errors import Refusal
from tenshot.runtime import artifact
from tests import artifacts

Harm = Callable[[Any], object]


def program(told: Any) -> Any:
    return told["sections"]["unet"]["programs"][0]


def one_input_more(told: Any) -> None:
    program(told)["shapes"].append([1, 4])


ALTERED: dict[str, Harm] = {
    "no files": lambda told: told.update(files={}),
    "files of another kind": lambda told: told.update(files=["parts/unet/net.xml"]),
    "a file less": lambda told: told["files"].pop("model/unet/config.json"),
    "a file that is not there": lambda told: told["files"].update({"model/none": [1, "0"]}),
    "a file outside": lambda told: told["files"].update({"../other": [1, "0"]}),
    "another digest": lambda told: told["files"].update({"model/unet/config.json": [3, "0" * 64]}),
    "another shape": lambda told: program(told)["shapes"][0].__setitem__(2, 9),
    "another batch": lambda told: [shape.__setitem__(0, 3) for shape in program(told)["shapes"]],
    "an input more": one_input_more,
    "no shapes": lambda told: program(told).update(shapes=[]),
    "no sides": lambda told: program(told).update(shapes=[[], [], []]),
    "shapes in words": lambda told: program(told).update(shapes="2x4x8x8"),
    "sides as text": lambda told: program(told)["shapes"][0].__setitem__(0, "2"),
    "an unknown section": lambda told: told["sections"].update(magic=told["sections"]["unet"]),
    "another section": lambda told: told["sections"].update(decoder=told["sections"].pop("unet")),
    "no section": lambda told: told.update(sections={}),
    "no programs": lambda told: told["sections"]["unet"].update(programs=[]),
    "another folder": lambda told: program(told).update(folder="parts"),
    "a folder outside": lambda told: program(told).update(folder="../elsewhere"),
    "an unknown backend": lambda told: program(told)["choice"].update(backend="magic"),
    "a module as backend": lambda told: program(told)["choice"].update(backend="os.path"),
    "an unknown precision": lambda told: program(told)["choice"].update(precision="fp4"),
    "an unknown rewrite": lambda told: program(told)["choice"].update(rewrites=["magic"]),
    "another family": lambda told: told.update(family="sdxl"),
    "a family that is none": lambda told: told.update(family=None),
    "a fingerprint of numbers": lambda told: told["fingerprint"].update(torch=2),
    "an error in words": lambda told: told["sections"]["unet"].update(error="small"),
    "an error as text": lambda told: told["sections"]["unet"].update(error="0.0"),
    "an error that is no number": lambda told: told["sections"]["unet"].update(error=float("nan")),
    "a field more": lambda told: told.update(more={"deep": [None]}),
    "a field more in a section": lambda told: told["sections"]["unet"].update(more=1),
    "a field more in a program": lambda told: program(told).update(more=1),
    "a field more in a choice": lambda told: program(told)["choice"].update(more=1),
    "a field less": lambda told: told.pop("sections"),
    "no seal": lambda told: told.pop("seal"),
    "another format": lambda told: told.update(format=artifact.FORMAT - 1),
    "a format in words": lambda told: told.update(format="4"),
    "a format and a command of other kinds": lambda told: told.update(format=None, again=["rm"]),
    "a command of another kind": lambda told: told.update(again=7),
}


@pytest.fixture
def copied(sd1_fast: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sd1_fast, tmp_path / "copied"))


def refused(place: Path) -> Refusal:
    """How loading it is refused: every fault names a file in it and a command."""
    with pytest.raises(Refusal) as found:
        tenshot.load(place)
    for fault in found.value.faults:
        assert str(place) in fault.where
        assert fault.do.startswith("tenshot compile")
    return found.value


@pytest.mark.parametrize("harm", ALTERED)
def test_a_manifest_that_was_altered_is_refused(harm: str, copied: Path):
    told = json.loads((copied / artifact.MANIFEST).read_text())
    ALTERED[harm](told)
    (copied / artifact.MANIFEST).write_text(json.dumps(told))
    refused(copied)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"words"', "7", '{"format": 4}', "[" * 100_000])
def test_a_manifest_that_is_none_is_refused(text: str, copied: Path):
    (copied / artifact.MANIFEST).write_text(text)
    refused(copied)


def flipped(path: Path, place: int = -5) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


FILES: dict[str, Harm] = {
    "weights": lambda place: flipped(next((place / "model/unet").glob("*.safetensors"))),
    "a first byte": lambda place: flipped(next((place / "model/vae").glob("*.safetensors")), 9),
    "a configuration": lambda place: flipped(place / "model/unet/config.json", 3),
    "the schedule": lambda place: (place / "model/scheduler/scheduler_config.json").write_text("{}"),
    "a program": lambda place: flipped(place / "parts/unet/net.xml"),
    "a program's constants": lambda place: flipped(place / "parts/unet/rest.bin"),
    "weights gone": lambda place: next((place / "model/unet").glob("*.safetensors")).unlink(),
    "the tokenizer gone": lambda place: shutil.rmtree(place / "model/tokenizer"),
    "programs gone": lambda place: shutil.rmtree(place / "parts/unet"),
    "the manifest gone": lambda place: (place / artifact.MANIFEST).unlink(),
    "weights of another kind beside": lambda place: (place / "model/unet/model.fp16.safetensors").write_bytes(b"x"),
    "a controlnet beside": lambda place: shutil.copytree(place / "model/unet", place / "controlnet"),
    "a folder in place of a file": lambda place: (
        (place / "parts/unet/net.xml").unlink(),
        (place / "parts/unet/net.xml").mkdir(),
    ),
}


@pytest.mark.parametrize("harm", FILES)
def test_files_that_were_altered_are_refused_by_name(harm: str, copied: Path):
    FILES[harm](copied)
    refused(copied)


def test_an_altered_weight_is_named(copied: Path):
    (file,) = (copied / "model/unet").glob("*.safetensors")
    flipped(file)
    (fault,) = refused(copied).faults
    assert (fault.where, fault.do) == (str(file), artifacts.AGAIN)
    assert "not the file" in fault.found


def test_what_a_system_hides_beside_files_does_no_harm(copied: Path):
    (copied / "model/unet/.DS_Store").write_bytes(b"x")
    tenshot.load(copied)
