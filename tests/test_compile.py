"""`tenshot compile` measures, chooses and writes; whatever a candidate does, it goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import correlate1d

import tenshot
from tenshot.autotune import calibration, search, trial
from tenshot.autotune.calibration import Calls
from tenshot.autotune.trial import TrialResult
from tenshot.cli import main
from tenshot.core.errors import Cancelled, Refusal
from tenshot.core.events import Events
from tenshot.evaluate import metrics
from tenshot.model import model
from tenshot.pipeline import SamplingSettings
from tenshot.runtime import artifact
from tenshot.runtime.backend import Candidate
from tests import artifacts

BAD = "tests.bad_backends"


@pytest.mark.parametrize("lossless", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_what_is_written_is_whole(lossless: bool, sd1: Path, tmp_path: Path):
    out = tmp_path / "fast"
    told, said = artifacts.compiled(sd1, out, also_sizes=["64x128"], prompt=["a cat", "a dog"], lossless=lossless)
    manifest = artifact.read(out)
    sections = {"unet", "decoder", "encoder", "text_encoder"}
    assert told["chosen"].keys() == sections
    assert manifest.sections.keys() <= sections
    for name, section in manifest.sections.items():
        assert len(section.programs) == (1 if name.startswith("text") else 2)
    assert {path.name for path in out.iterdir()} <= {
        "manifest.json", "model", "parts", "pictures", "report.html", "report.json",
    }  # fmt: skip
    record = json.loads((out / "report.json").read_text())
    assert record["sections"].keys() == sections
    assert all(row["candidate"] for rows in record["sections"].values() for row in rows)
    assert len(list((out / "pictures").glob("*.png"))) == 4
    page = (out / "report.html").read_text()
    assert all(f"<h2>{name}</h2>" in page for name in sections)
    assert min(each or 99 for each in record["pictures"]["psnr"]) > 30  # none: they are equal
    assert any("times as fast" in line for line in said)
    assert all(key == key.lower() and key.isidentifier() for key in keys(told) | keys(record))
    low, high = told["pictures"]["speedup_spread"]
    assert low <= told["pictures"]["speedup"] <= high
    for rows in record["sections"].values():
        for row in rows:
            low, high = row["speedup_spread"]
            assert low <= round(row["speedup"], 2) <= high
            assert not row["chosen"] or row["candidate"] == "eager fp32" or low >= 1
    assert not list(tmp_path.glob(".*"))  # nothing half-written is left
    assert tenshot.load(out).family.name == "sd1"


def keys(told: Any) -> set[str]:
    """Every key in it."""
    if isinstance(told, dict):
        return set(told) | {key for each in told.values() for key in keys(each)}
    return {key for each in told for key in keys(each)} if isinstance(told, list) else set()


@pytest.mark.slow
def test_candidates_that_misbehave_are_rows(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TENSHOT_TEST_WAYS", "crashes dies raises nan wrong hangs")
    monkeypatch.setattr(search, "LEAST", 10.0)
    told, _ = artifacts.compiled(sd1, tmp_path / "fast", backend=[BAD], parts=["decoder"], budget=0.5)
    rows = json.loads((tmp_path / "fast/report.json").read_text())["sections"]["decoder"]
    reasons = {row["candidate"].split()[-1]: row["failed"] for row in rows}
    assert "SIGSEGV" in reasons["crashes"]
    assert "exit code 3" in reasons["dies"]
    assert "cannot build this" in reasons["raises"]
    assert "not finite" in reasons["nan"]
    assert "was not done after" in reasons["hangs"]
    assert reasons["wrong"] == ""
    assert next(row["error"] for row in rows if "wrong" in row["candidate"]) == pytest.approx(1, abs=0.3)
    assert told["chosen"] == {"decoder": "eager fp32"}
    assert artifact.read(tmp_path / "fast").sections == {}


def test_the_budget_ends(sd1: Path, tmp_path: Path):
    artifacts.compiled(sd1, tmp_path / "fast", parts=["decoder", "encoder"], budget=1e-9)
    record = json.loads((tmp_path / "fast/report.json").read_text())
    reasons = [row["failed"] for rows in record["sections"].values() for row in rows]
    assert set(reasons) == {"not tried: the budget is spent (--budget)"}


def test_the_budget_is_for_everything(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where recording takes all of it, one batch is recorded, nothing is tried or timed, and nothing is claimed."""
    clock = iter(range(10**6))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))  # a second goes by at each look
    asked = {"prompt": ["a cat", "a dog", "a bear"], "also_sizes": ["64x128"], "parts": ["decoder"]}
    told, said = artifacts.compiled(sd1, tmp_path / "fast", budget=4 / 60, **asked)
    record = json.loads((tmp_path / "fast/report.json").read_text())
    assert len(list((tmp_path / "fast/pictures").glob("*-plain.png"))) == 1
    assert {row["failed"] for row in record["sections"]["decoder"]} == {search.SPENT}
    assert record["notes"] == [f"64x128: {search.SPENT}. torch runs this size."]
    assert told["chosen"] == {"decoder": "eager fp32"}
    assert any("Torch itself is kept" in line for line in said)
    assert told["pictures"] == record["pictures"]
    assert told["pictures"]["not_measured"] == "the budget was spent (--budget)"
    assert not {"timed", "seconds_torch", "seconds_compiled", "speedup", "speedup_spread"} & told["pictures"].keys()


def outcome(name: str, error: float, seconds: float, precision: str = "bf16", failed: str = "") -> TrialResult:
    spread = (0.9 / seconds, 1.1 / seconds) if seconds else None
    return TrialResult(Candidate(name, precision), failed, error, seconds=seconds, plain=1.0, spread=spread)


def test_the_fastest_within_the_error_is_kept():
    quick, good, slow = outcome("quick", 0.2, 0.1), outcome("good", 0.01, 0.2), outcome("slow", 0.001, 0.5)
    broken = outcome("broken", 0, 0.01, failed="it broke")
    plain = TrialResult(search.PLAIN, seconds=0.05, plain=1.0)
    everything = [slow, quick, broken, plain, good]
    assert search.best(everything, 0.05) is good
    assert search.best(everything, 0.5) is quick
    assert search.best(everything, 0.005) is slow
    assert search.best(everything, 0.0005) is None
    assert search.best([outcome("slower", 0, 2.0)], 1) is None
    assert search.best([outcome("perhaps faster", 0, 0.95)], 1) is None  # 0.95 to 1.16 times


def test_what_is_far_behind_is_not_built_again():
    quick, half, slow = outcome("quick", 0.01, 0.1), outcome("half", 0.01, 0.19), outcome("slow", 0.01, 0.21)
    wrong, broken = outcome("wrong", 1, 0.3), outcome("broken", 0, 0, failed="it broke")
    contest = search.SectionSearch("unet", [quick, half, slow, wrong, broken], quick)
    assert search.far_behind(contest, 0.05) == {
        "slow": "not tried: in unet it was less than half as fast as quick bf16"
    }
    assert search.far_behind(search.SectionSearch("unet", [slow], None), 0.05) == {}


def test_lossless_leaves_out_what_quantises(sd1: Path, tmp_path: Path):
    for lossless in (False, True):
        asked = artifacts.options(sd1, tmp_path / "fast", backend=["openvino"], lossless=lossless)
        found = {each.precision for each in search.candidates(asked, artifacts.CPU) if isinstance(each, Candidate)}
        assert ("int8" in found) != lossless
        assert "fp32" in found


def test_backends_that_are_not_here_are_rows(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from tenshot.runtime.backends import openvino

    monkeypatch.setattr(openvino, "missing", lambda where: "pip install something")
    asked = artifacts.options(sd1, tmp_path, backend=["openvino"])
    (row,) = search.candidates(asked, artifacts.CPU)
    assert row.failed == "not here: pip install something"


def test_stopping_stops_and_leaves_nothing(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TENSHOT_TEST_WAYS", "hangs")

    class Stop(Events):
        began = False

        def begin(self, job: str, total: int, done: int = 0) -> None:
            self.began = self.began or job == "trying"

        def cancelled(self) -> bool:
            return self.began

    from tenshot.autotune import compile

    with pytest.raises(Cancelled):
        compile.compile_model(artifacts.options(sd1, tmp_path / "fast", backend=[BAD], parts=["decoder"]), Stop())
    assert not list(tmp_path.iterdir())


def test_every_fault_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep me")
    words = ["compile", str(tmp_path / "nothing"), "--out", str(tmp_path / "mine"), "--backend", "magic"]
    assert main.main([*words, "--controlnet", str(tmp_path / "none"), "--overwrite"]) == 2
    told = capsys.readouterr().err
    assert all(text in told for text in ("nothing", "magic", "--controlnet"))
    words = ["compile", str(tmp_path / "mine"), "--out", str(tmp_path / "mine"), "--controlnet", str(tmp_path)]
    assert main.main([*words, "--overwrite"]) == 2
    told = capsys.readouterr().err
    assert all(text in told for text in ("model_index.json", "config.json", "is read for it"))
    assert (tmp_path / "mine/notes.txt").read_text() == "keep me"


def test_options_are_checked(sd1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["compile", str(sd1), "--out", str(tmp_path / "fast")]
    assert main.main([*words, "--also_sizes", "100x64", "--max_error", "0", "--parts", "engine"]) == 2
    told = capsys.readouterr().err
    assert all(name in told for name in ("--also_sizes", "--max_error", "--parts"))
    assert main.main([*words, "--parts", "text_encoder_2", "controlnet"]) == 2
    told = capsys.readouterr().err
    assert "there is none in Stable Diffusion 1" in told
    assert "--controlnet" in told


def test_a_compiled_model_is_replaced_with_all_that_it_holds_and_nothing_else(sd1: Path, tmp_path: Path):
    """Models come with more than Tenshot would write, and compile keeps it."""
    place, out = Path(shutil.copytree(sd1, tmp_path / "model")), tmp_path / "fast"
    (place / "safety_checker").mkdir()
    (place / "safety_checker/config.json").write_text("{}")
    asked = {"backend": ["torchscript"], "parts": ["decoder"], "budget": 1e-9}
    artifacts.compiled(place, out, **asked)
    artifacts.compiled(place, out, **asked, overwrite=True)
    assert (out / "model/safety_checker/config.json").is_file()
    assert list((out / "pictures").iterdir())
    (out / "model/mine.txt").write_text("keep me")
    with pytest.raises(Refusal, match=r"mine\.txt"):
        artifacts.compiled(place, out, **asked, overwrite=True)


def test_a_compiled_model_is_not_compiled_again(sd1: Path, tmp_path: Path):
    place = artifacts.made(sd1, tmp_path / "fast", Candidate("torchscript", "fp32"), ("decoder",))
    with pytest.raises(Refusal, match="compiled already"):
        artifacts.compiled(place, tmp_path / "again")


def test_what_is_recorded_is_what_happens(sd1: Path):
    opened = model.load(str(sd1))
    settings = SamplingSettings(steps=3, batch=2)
    recorded, pictures = calibration.record(opened, ["a cat"], settings, Events())
    assert len(pictures) == 2
    assert [tuple(each.shape) for each in recorded["unet"].inputs[0]] == [(4, 4, 8, 8), (4,), (4, 77, 16)]
    for inputs, outputs in zip(recorded["unet"].inputs, recorded["unet"].outputs, strict=True):
        with torch.no_grad():
            assert torch.allclose(opened["unet"](*inputs).sample, outputs[0], atol=1e-6)
    times = [float(inputs[1][0]) for inputs in recorded["unet"].inputs]
    assert times == sorted(times, reverse=True)
    assert len(times) == 3


def test_calls_are_taken_from_the_whole_way():
    calls = Calls([(torch.tensor(n),) for n in range(50)], [(torch.tensor(-n),) for n in range(50)])
    kept = calls.spread(5)
    assert [int(inputs[0]) for inputs in kept.inputs] == [0, 12, 24, 37, 49]
    assert [int(outputs[0]) for outputs in kept.outputs] == [0, -12, -24, -37, -49]
    assert len(Calls(calls.inputs[:3], calls.outputs[:3]).spread(5).inputs) == 3


def test_how_far_answers_are_apart():
    wanted = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    assert trial.apart([torch.tensor([3.0, 0.0]), torch.tensor([[4.5]])], wanted) == pytest.approx(0.1)
    assert trial.apart(wanted, wanted) == 0
    with pytest.raises(RuntimeError, match="not finite"):
        trial.apart([torch.tensor([3.0, torch.nan]), torch.tensor([[4.0]])], wanted)


def test_edges_are_where_brightness_changes():
    picture = Image.new("RGB", (8, 8), "black")
    picture.paste("white", (4, 0, 8, 8))
    found = calibration.edges(picture)
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found)[..., 0], 255 * np.broadcast_to(np.arange(8) == 4, (8, 8)))


def test_ssim_is_that_of_its_paper():
    dice = np.random.default_rng(0)
    one = dice.integers(0, 256, (40, 30), dtype=np.uint8)
    other = np.clip(one + dice.normal(0, 30, one.shape), 0, 255).astype(np.uint8)

    def blurred(values: np.ndarray) -> np.ndarray:
        window = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
        for axis in (0, 1):
            values = correlate1d(values, window / window.sum(), axis)
        return values[5:-5, 5:-5]

    x, y = one.astype(float), other.astype(float)
    mx, my = blurred(x), blurred(y)
    vx, vy, vxy = blurred(x * x) - mx * mx, blurred(y * y) - my * my, blurred(x * y) - mx * my
    c1, c2 = 6.5025, 58.5225
    wanted = ((2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean()
    first, second = Image.fromarray(one), Image.fromarray(other)
    assert metrics.ssim(first, second) == pytest.approx(wanted)
    assert 0.3 < wanted < 0.99
    assert metrics.ssim(first, first) == pytest.approx(1)
