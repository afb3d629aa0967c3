"""`tenshot tune` climbs from the cheapest way, keeps what it tried, and generate takes what holds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tenshot import preset
from tenshot.autotune import asked, examination, ladder, tune
from tenshot.autotune.tune_options import TuneOptions
from tenshot.cli.main import main
from tenshot.core.errors import Cancelled, Refusal
from tenshot.core.events import Events
from tenshot.core.options import resolve
from tenshot.core.size import Size
from tenshot.diffusion.schedules import align_your_steps
from tenshot.families.sd import SD1
from tenshot.families.sdxl import SDXL
from tenshot.io import destinations
from tenshot.io.png import read_infotext
from tenshot.model import model
from tenshot.preset import Certified, Preset
from tests import artifacts
from tests.artifacts import Listener

FAST = Preset("DPM++ 2M", "karras", 3, 5.0, 0.0, 0.8)


@pytest.fixture
def mine(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of one's own, and a ladder of few rungs."""
    shutil.copytree(sd1, tmp_path / "mine")
    (tmp_path / "prompts.txt").write_text("a cat\n# not this\na dog on a red background\n")
    monkeypatch.setattr(ladder, "STEPS", (2, 8))
    monkeypatch.setattr(ladder, "CONVERGING", ("DPM++ 2M",))
    monkeypatch.setattr(ladder, "_schedules", lambda _: ["uniform"])
    monkeypatch.setattr(examination, "LIMIT_STEPS", 8)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mine"


def options(mine: Path, **given: object) -> TuneOptions:
    told = {"model": str(mine), "prompts": "prompts.txt", "num_images": 4, "rounds": 1, "out": "out"}
    return resolve(TuneOptions, told | given)


def test_the_ladder_counts_what_is_asked_of_the_denoiser(sd1: Path):
    opened, size = model.load(str(sd1)), Size(64, 64)
    found = {str(each.preset): each for each in ladder.rungs(opened, "good", 7.5, size, 0.6)}
    whole = found["DPM++ 2M Karras, 10 steps, guidance 7.5"]
    assert (whole.guided, whole.unguided, whole.cost) == (10, 0, 10)
    part = found["DPM++ 2M Karras, 10 steps, guidance 7.5 from 10% to 70%"]
    assert (part.guided, part.unguided) == (6, 4) and part.cost == pytest.approx(6 + 0.6 * 4)
    assert found["UniPC, 4 steps, no guidance"].cost == pytest.approx(0.6 * 4)
    costs = [each.cost for each in found.values()]
    assert costs == sorted(costs)


def test_every_family_has_a_ladder(sdxl: Path, sd3: Path):
    for place, way in ((sdxl, "DPM++ 2M Karras, 4 steps, no guidance"), (sd3, "UniPC, 4 steps, no guidance")):
        opened = model.load(str(place))
        assert way in map(str, (each.preset for each in ladder.rungs(opened, "good", 5.0, Size(64, 64), 0.5)))
        assert ladder.usual(opened, 5.0).sampler in ("Euler a", "Euler")


def test_the_cheapest_that_holds_is_kept_and_nothing_is_tried_twice(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    heard = Listener()
    found = tune.tune(options(mine), heard)
    tried = [*found["tried"].values()]
    assert [each["cost"] for each in tried] == sorted(each["cost"] for each in tried)
    assert [each["held"] for each in tried] == [False] * (len(tried) - 1) + [True]
    assert tried[-1]["psnr"][1] > 33 and tried[-1]["proved"] and tried[-1]["pictures"] == 4
    assert all(each["psnr"][1] <= 33 for each in tried[:-1])
    assert found["written"] == str(mine / "preset.json") and found["preset"] == [*found["tried"]][-1]
    assert any("times as fast" in line for line in heard.said)
    assert Image.open(found["pictures"]).width > 4 * 64 and json.loads(Path("out/tune.json").read_text()) == found
    monkeypatch.setattr(examination.Examination, "sat", None)  # nothing is drawn again
    again = tune.tune(options(mine), Events())
    assert again["tried"] == found["tried"] and again["preset"] == found["preset"]
    assert main(["generate", "--model", str(mine), "--prompt", "a cat", "--seed", "1", "--out", "one.png"]) == 0
    assert f"preset same: {found['preset']}" in capsys.readouterr().err
    chosen = preset.read(mine).presets["same"].preset
    text = read_infotext(Path("one.png"))
    assert f"Steps: {chosen.steps}, Sampler: DPM++ 2M, Schedule type: Uniform" in text


def test_none_that_holds_is_said_and_a_budget_that_is_spent_goes_on(mine: Path):
    heard = Listener()
    found = tune.tune(options(mine, budget=1e-6), heard)
    assert found["preset"] is None and not (mine / "preset.json").exists()
    assert any("the budget is spent" in line for line in heard.said)
    found = tune.tune(options(mine, min_psnr=59.9), heard)
    assert found["preset"] is None or [*found["tried"].values()][-1]["psnr"][1] > 59.9


def test_a_stop_keeps_the_reference_and_what_was_tried(mine: Path):
    class Stopping(Events):
        left = 30

        def cancelled(self) -> bool:
            self.left -= 1
            return self.left < 0

    with pytest.raises(Cancelled):
        tune.tune(options(mine), Stopping())
    (folder,) = [path for path in Path("out").iterdir() if path.is_dir()]
    kept = {path.name: path.stat().st_mtime_ns for path in (folder / "search").glob("*.png")}
    assert kept
    tune.tune(options(mine), Events())
    assert kept.items() <= {path.name: path.stat().st_mtime_ns for path in (folder / "search").glob("*.png")}.items()


def certified(place: Path, kind: str = "same") -> Path:
    return preset.write(place, kind, Certified(FAST, (64, 64), "PSNR 40 dB", "tenshot tune"))


def drawn(mine: Path, *more: str) -> str:
    words = ["generate", "--model", str(mine), "--prompt", "a cat", "--seed", "1", "--out", "one.png", *more]
    assert main(words) == 0
    return read_infotext(Path("one.png")) or ""


def test_generate_takes_a_preset_only_where_it_was_certified(
    mine: Path, sd1_lora: Path, capsys: pytest.CaptureFixture[str]
):
    certified(mine)
    assert "Steps: 3, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 5.0, Guidance end: 0.8" in drawn(mine)
    assert "Steps: 2, Sampler: Euler a" in drawn(mine, "--steps", "2")  # who names one says it all
    assert "Steps: 20, Sampler: Euler a" in drawn(mine, "--preset", "none")
    capsys.readouterr()
    assert "Sampler: Euler a" in drawn(mine, "--lora", str(sd1_lora))
    assert "not certified with --lora; --preset takes it" in capsys.readouterr().err
    assert "Sampler: DPM++ 2M" in drawn(mine, "--lora", str(sd1_lora), "--preset", "same")
    assert "Sampler: Euler a" in drawn(mine, "--width", "128")
    again = ["generate", "--from", "one.png", "--model", str(mine), "--out", "two.png"]
    assert main(again) == 0 and read_infotext(Path("two.png")) == read_infotext(Path("one.png"))


def test_a_preset_of_other_weights_is_none(mine: Path, sd1_tuned: Path, capsys: pytest.CaptureFixture[str]):
    certified(mine)
    shutil.copytree(mine, "copy")
    assert preset.read(Path("copy")) is not None  # the same weights elsewhere
    shutil.copytree(sd1_tuned / "unet", mine / "unet", dirs_exist_ok=True)
    assert preset.read(mine) is None
    assert "Sampler: Euler a" in drawn(mine)
    words = ["generate", "--model", str(mine), "--prompt", "a cat", "--preset", "same", "--out", "three.png"]
    assert main(words) == 2 and "has none that fits its weights" in capsys.readouterr().err
    certified(mine, "good")
    assert set(preset.read(mine).presets) == {"good"}  # those of before are gone with their weights


def test_presets_of_both_kinds_lie_together_and_nonsense_is_refused(mine: Path):
    file = certified(mine)
    certified(mine, "good")
    assert set(preset.read(mine).presets) == {"same", "good"}
    told = json.loads(file.read_text())
    told["presets"]["same"]["preset"]["sampler"] = "Magic"
    file.write_text(json.dumps(told))
    with pytest.raises(Refusal, match="Magic"):
        preset.read(mine)
    file.write_text("{}")
    with pytest.raises(Refusal, match="cannot be understood"):
        preset.read(mine)


def test_what_ships_and_what_is_in_the_cache_has_its_presets_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TENSHOT_CACHE", str(tmp_path / "cache"))
    pocket = model.find("pocket")
    assert certified(pocket).is_relative_to(tmp_path / "cache") and not (pocket / "preset.json").exists()
    assert preset.read(pocket).presets["same"].preset == FAST


def test_all_that_lacks_is_refused_at_once(mine: Path, capsys: pytest.CaptureFixture[str]):
    Path("out").mkdir()
    Path("out/thesis.txt").write_text("mine")
    Path("prompts.txt").write_text("\n")
    assert main(["tune", str(mine), "--out", "out", "--clip", str(mine), "--device", "cuda:9"]) == 2
    told = capsys.readouterr().err
    assert "thesis.txt" in told and "has no part in --certificate same" in told and "cuda:9" in told
    for more, said in (([], "--certificate"), (["--prompts", "prompts.txt"], "holds no prompt")):
        assert main(["tune", str(mine), "--certificate", "good", "--out", "other", *more]) == 2
        assert said in capsys.readouterr().err
    assert not Path("other").exists()


def test_a_training_tells_what_its_model_is_asked_for(mine: Path):
    arguments = {"instance_prompt": "a photo of az koala", "class_prompt": "a photo of an animal"}
    (mine / "manifest.json").write_text(json.dumps({"arguments": arguments}))
    (mine / "vae").rename(mine / "own-vae")
    shutil.copytree(model.find("pocket") / "vae", mine / "vae")
    prompts, judge, shots = asked.settled(options(mine, prompts=None, certificate="good"), [], mine)
    assert prompts[:2] == ["a photo of az koala", "a photo of an animal"]
    assert "a flat emoji of az koala on an orange background" in prompts and len(prompts) == 2 + 2 * 20
    assert judge is not None and shots == []
    search, proof = asked.requests(prompts, 8, 5)
    seeds = [each.seed for each in (*search, *proof)]
    assert len(proof) == 8 and seeds == [*range(5, 5 + len(seeds))]


def test_what_is_compiled_is_tuned_as_it_is_compiled(mine: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(TuneOptions, "count", 4)
    given = {"parts": ["unet"], "prompt": ["a cat", "a dog"], "rewrites": False, "fast": "same"}
    told, _ = artifacts.compiled(mine, Path("fast"), **given)
    assert told["tuned"]["written"] == "fast/preset.json" and told["tuned"]["preset"]
    assert preset.read(Path("fast")).presets["same"].size == (64, 64)
    assert {path.name for path in Path("fast-tune").iterdir() if path.is_file()} == {"tune.json", "pictures.png"}
    assert not [*destinations.hurdles("--out", Path("fast"), True, kinds=destinations.ARTIFACTS)]  # ours to replace


def test_what_no_judge_knows_is_refused_before_it_is_compiled(mine: Path):
    with pytest.raises(Refusal, match="knows only what pocket and its fine-tunes draw"):
        artifacts.compiled(mine, Path("fast"), fast="good", prompt=["a cat on a red background"])
    assert not Path("fast").exists() and not Path("fast-tune").exists()


def test_aligned_steps_are_drawn_where_they_were_published(mine: Path, sd2_v: Path, capsys: pytest.CaptureFixture[str]):
    for family, last in ((SD1, 0.152), (SDXL, 0.113)):
        sigmas = align_your_steps(family.aligned, 21)
        assert sigmas[::2] == pytest.approx(family.aligned) and sigmas[-3] == pytest.approx(last)
        assert sigmas[1] == pytest.approx((sigmas[0] * sigmas[2]) ** 0.5) and sigmas == sorted(sigmas, reverse=True)
    assert "Schedule type: Align Your Steps" in drawn(mine, "--schedule", "align_your_steps", "--steps", "3")
    words = ["generate", "--model", str(sd2_v), "--prompt", "a cat", "--schedule", "align_your_steps"]
    assert main([*words, "--out", "other.png"]) == 2
    assert "none was published for this family" in capsys.readouterr().err
