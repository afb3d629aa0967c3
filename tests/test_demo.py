"""What the demo refuses before it begins. That it teaches is seen in test_learning.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tenshot import demo as door
from tenshot.demo import SUBJECTS, DemoOptions, demo
from tenshot.errors import Refusal
from tenshot.events import Events
from tenshot.model import ASSETS
from tests.dreambooth_runs import files


def faults(**given: object) -> list[str]:
    with pytest.raises(Refusal) as caught:
        demo(DemoOptions.model_validate(given), Events())
    return list(map(str, caught.value.faults))


def test_all_faults_at_once_and_in_its_own_options(tmp_path: Path) -> None:
    model, pictures, out = tmp_path / "model", tmp_path / "mine", tmp_path / "out"
    shutil.copytree(ASSETS / "pocket", model, ignore=lambda folder, names: ["config.json"] if "vae" in folder else [])
    (pictures / "deeper").mkdir(parents=True)
    shutil.copy(SUBJECTS / "koala" / "koala-1.png", pictures / "deeper")
    out.write_text("my own")
    found = faults(pictures=pictures, model=str(model), out=out)
    assert not [line for line in found if "--instance_data_dir" in line or "--output_dir" in line]
    assert [line.split(" ")[0].removesuffix(":") for line in found] == [
        "--pictures",
        str(model / "vae" / "config.json"),
        "--out",
        "--out",
        "--out",
    ]
    assert out.read_text() == "my own"


def test_a_folder_of_other_things_stays_untouched(tmp_path: Path) -> None:
    shutil.copytree(SUBJECTS / "koala", tmp_path / "pictures")
    before = files(tmp_path)
    (line,) = faults(out=tmp_path)
    assert "holds other files: pictures" in line
    (line, more) = faults(pictures=tmp_path / "pictures", out=tmp_path)
    assert "holds other files: pictures" in line and "holds --pictures" in more
    assert files(tmp_path) == before


def test_the_second_training_is_looked_at_before_the_first(tmp_path: Path) -> None:
    other = tmp_path / door.FOLDERS[door.WITHOUT_PRIOR]
    other.mkdir()
    (other / "thesis.txt").write_text("do not lose me")
    (line,) = faults(out=tmp_path)
    assert f"--out {other}: holds other files: thesis.txt" in line
    assert files(tmp_path) == {f"{other.name}/thesis.txt": b"do not lose me"}


def test_an_earlier_demo_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it left, however far it had come, is no obstacle."""

    def stop(*_: object) -> None:
        raise InterruptedError

    begun = tmp_path / door.FOLDERS[door.WITH_PRIOR]
    monkeypatch.setattr(door.dreambooth, "train", stop)
    for made in (begun / "tenshot.log", tmp_path / "class" / ".half.part", begun / "run.json", tmp_path / "index.html"):
        made.parent.mkdir(exist_ok=True)
        made.write_text("{}")
        with pytest.raises(InterruptedError):
            demo(DemoOptions(out=tmp_path), Events())


def test_its_log_lies_beside_the_page(tmp_path: Path) -> None:
    assert DemoOptions(out=tmp_path).home == tmp_path
