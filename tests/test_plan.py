"""Before anything is trained: what was understood of pictures, what each method takes here, which is recommended."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance, ImageFilter

from tenshot.cli.output import Outlet
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.options import resolve
from tenshot.evaluate.subject import SUBJECTS
from tenshot.io.dataset import read
from tenshot.io.images import open_picture
from tenshot.plan import advice, pictures, plan
from tenshot.plan.advice import Room
from tenshot.plan.options import PlanOptions
from tenshot.train.data import image_latents
from tenshot.train.forecast import Foretold
from tenshot.train.subject_options import METHODS, Method

BEARS = Path(__file__).parent.parent / "docs/pictures/bear-plushie"
KOALA = SUBJECTS / "koala"
ROOM = Room(memory=8e9, disk=50e9)


def faults(folder: Path, side: int = 128) -> dict[str, list[str]]:
    found = pictures.look(read(folder, option="--pictures"), image_latents.squares(side, center_crop=False))
    return {each.example.path.stem: [*each.faults] for each in found}


def test_good_pictures_have_no_faults():
    assert not {name: said for name, said in faults(BEARS).items() if said}
    for subject in ("koala", "guitar", "raccoon", "sailboat"):  # the darkest and the palest
        assert not {name: said for name, said in faults(SUBJECTS / subject).items() if said}


def test_every_fault_is_named(tmp_path: Path):
    one, *others = (open_picture(path) for path in sorted(BEARS.glob("*.jpg")))
    one.save(tmp_path / "a.png")
    with io.BytesIO() as small:
        one.resize((192, 192)).save(small, "JPEG", quality=60)
        (tmp_path / "again.jpg").write_bytes(small.getvalue())
    others[0].filter(ImageFilter.GaussianBlur(5)).save(tmp_path / "blurred.png")
    ImageEnhance.Brightness(others[1]).enhance(0.2).save(tmp_path / "dark.png")
    Image.blend(others[2], Image.new("RGB", others[2].size, "white"), 0.85).save(tmp_path / "pale.png")
    others[3].resize((64, 64)).save(tmp_path / "small.png")
    assert faults(tmp_path) == {
        "a": [],
        "again": ["the same as a.png"],
        "blurred": ["blurred"],
        "dark": ["very dark"],
        "pale": ["very bright"],
        "small": ["too small: enlarged to 128 pixels"],
    }


def test_an_oblong_picture_is_seen_in_all_the_ways_that_it_is_learned(tmp_path: Path):
    wide = Image.new("RGB", (300, 100))
    for number, colour in enumerate(("red", "green", "blue")):
        wide.paste(colour, (100 * number, 0, 100 * number + 100, 100))
    wide.save(tmp_path / "wide.png")
    (tmp_path / "wide.txt").write_text("three colours")
    views = image_latents.squares(64, center_crop=False)
    (seen,) = pictures.look(read(tmp_path, option="--pictures"), views)
    assert [view.resize((1, 1)).getpixel((0, 0)) for view in seen.views] == [(255, 0, 0), (0, 128, 0), (0, 0, 255)]
    few, own = pictures.notes([seen])
    assert few.startswith("1 picture: with 5 to 10") and own.startswith("1 of 1 have a caption of their own")


def foretold(seconds: float, peak: float = 1e9, disk: float = 1e9, file: float = 1e6) -> Foretold:
    return Foretold({"training steps": (seconds, 1.2 * seconds)}, int(peak), int(disk), int(file))


def test_the_first_that_fits_is_recommended_and_a_lora_that_is_much_quicker():
    found: dict[Method, Foretold | str] = {"dreambooth": foretold(100), "lora": foretold(60)}
    chosen, why = advice.recommended(found, ROOM)
    assert chosen == "dreambooth" and why.startswith("DreamBooth: 2 minutes, 1.0 GB of memory, and makes 1 MB.")
    chosen, why = advice.recommended({"dreambooth": foretold(300), "lora": foretold(60)}, ROOM)
    assert chosen == "lora" and "DreamBooth teaches the whole model, but takes 5 to 6 minutes" in why


def test_what_does_not_fit_is_said_and_not_recommended():
    found: dict[Method, Foretold | str] = {
        "dreambooth": foretold(100, peak=9e9), "full": foretold(100, disk=60e9), "lora": foretold(60),
        "dreambooth-no-prior": "the process ended (-9); is there enough memory?",
    }  # fmt: skip
    assert "9.0 GB of memory, 8.0 are free" in advice.hurdle(found["dreambooth"], ROOM)
    assert "60.0 GB on the disk" in advice.hurdle(found["full"], ROOM)
    chosen, why = advice.recommended(found, ROOM)
    assert chosen == "lora" and "DreamBooth, DreamBooth, no prior, full fine-tuning do not fit here" in why
    assert advice.recommended({"dreambooth": found["dreambooth"]}, ROOM)[0] is None


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing is measured; a textual inversion does not fit. The folder of work."""
    monkeypatch.setattr(
        plan, "_measured", lambda method, _: "it died" if method == "textual-inversion" else foretold(60)
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_table_and_the_page_say_the_same_and_commands_can_be_typed(
    measured: Path, capsys: pytest.CaptureFixture[str]
):
    told = plan.plan(resolve(PlanOptions, {"pictures": KOALA, "subject": "animal", "out": "plan"}), Events())
    assert told["recommended"] == "dreambooth" and [*told["methods"]] == [*METHODS]
    assert told["methods"]["textual-inversion"] == {
        "seconds": None, "peak_bytes": None, "disk_bytes": None, "file_bytes": None, "fits": False, "why": "it died",
    }  # fmt: skip
    Outlet(as_json=False).result(told)
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("lora "))
    assert row.split("  ")[-1] == "yes" and "60 to 72 s" in row and "1.0 GB" in row and "1.0 MB" in row
    page, record = (measured / "plan" / name for name in ("index.html", "plan.json"))
    assert json.loads(record.read_text())["why"] == told["why"]
    written = page.read_text()
    assert "60 to 72 s" in written and "it died" in written and "koala-1.png" in written and "http" not in written
    captions = sorted((measured / "plan" / "captioned").glob("*.txt"))
    assert [each.read_text() for each in captions] == ["a photo of az animal"] * 7
    assert told["next"] == [told["commands"]["dreambooth"]]
    asked = shlex.split(told["commands"]["full"])
    assert asked[asked.index("--train_data_dir") + 1] == "plan/captioned"


def test_without_out_nothing_is_written(measured: Path):
    told = plan.plan(resolve(PlanOptions, {"pictures": KOALA, "subject": "animal"}), Events())
    assert told["page"] is None and not list(measured.iterdir())
    assert "--train_data_dir CAPTIONED" in told["commands"]["full"]


def test_all_is_refused_at_once(measured: Path):
    (measured / "mine").mkdir()
    (measured / "out").mkdir()
    (measured / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(Refusal) as caught:
        plan.plan(resolve(PlanOptions, {"pictures": "mine", "subject": "cat", "out": "out"}), Events())
    told = "\n".join(map(str, caught.value.faults))
    assert "--pictures" in told and "thesis.txt" in told


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_training_takes_what_was_forecast(method: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The forecast, then the very command that it names: time, memory, disk and the size of the result."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TENSHOT_CACHE", str(tmp_path / "cache"))
    given = {"pictures": KOALA, "subject": "animal", "methods": [method], "max_train_steps": 60, "out": "plan"}
    told = plan.plan(resolve(PlanOptions, given | {"num_class_images": 16}), Events())
    row = told["methods"][method]
    assert row["fits"] and row["seconds"] and row["peak_bytes"] and row["disk_bytes"] and row["file_bytes"]
    words = shlex.split(told["commands"][method])[1:]
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "tenshot", *words, "--json"], stdout=subprocess.PIPE, check=True)
    seconds = time.monotonic() - start
    made = json.loads(done.stdout)
    low, high = row["seconds"]
    assert low <= seconds <= high
    assert made["peak_bytes"] == pytest.approx(row["peak_bytes"], rel=0.15)
    folder = Path(made["result"])
    files = [path for path in folder.rglob("*") if path.is_file()]
    left = sum(path.stat().st_size for path in files)
    assert 0.3 * row["disk_bytes"] < left < 1.05 * row["disk_bytes"] + 1e6  # pictures and logs are small
    result = sum(
        path.stat().st_size for path in files if path.suffix == ".safetensors" and "checkpoint-" not in str(path)
    )
    assert result == pytest.approx(row["file_bytes"], rel=0.1, abs=20_000)
