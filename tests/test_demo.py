"""What the demo refuses before it begins. That it teaches is seen in test_learning.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.shipped import ASSETS
from tenshot.demo import demo as door
from tenshot.demo.demo import SUBJECTS, DemoOptions, demo
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

    foretold: list[bool] = []

    def stop(*_: object, **told: bool) -> None:
        foretold.append(told["foretold"])
        raise InterruptedError

    begun = tmp_path / door.FOLDERS[door.WITH_PRIOR]
    monkeypatch.setattr(door.dreambooth, "train", stop)
    monkeypatch.setattr(door.eta, "pace", lambda *_: door.eta.Pace(1.0, 1.0))
    said: list[str] = []
    monkeypatch.setattr(Events, "say", lambda self, text: said.append(text))
    for made in (begun / "tenshot.log", tmp_path / "class" / ".half.part", begun / "run.json", tmp_path / "index.html"):
        made.parent.mkdir(exist_ok=True)
        made.write_text('{"method": "dreambooth", "options": {}, "inputs": {}}')
        with pytest.raises(InterruptedError):
            demo(DemoOptions(out=tmp_path), Events())
    forecast = [text for text in said if text.startswith("the demo will take")]
    assert len(forecast) == 2  # before it has begun
    assert foretold == [True, True, False, False]  # or else the training says it again
    # 48 class pictures, 300 steps of 8 and 4, and 3 times 12 prompts with 4 seeds: 40 calls and one decoding each
    assert forecast[0] == "the demo will take 3 to 9 hours: class pictures 20 to 59 minutes, training 2 to 5 hours, " \
        "pictures before and after 1 to 3 hours"  # fmt: skip


def test_its_log_lies_beside_the_page(tmp_path: Path) -> None:
    assert DemoOptions(out=tmp_path).home == tmp_path
