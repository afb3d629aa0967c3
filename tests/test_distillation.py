"""Distillation from end to end: runs that are stopped, the file that comes out, where prompts come from, refusals."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LCMScheduler, UNet2DConditionModel

import tenshot
from tenshot import pipeline
from tenshot.adapters import lora, usage_hint
from tenshot.adapters.usage_hint import Usage
from tenshot.cli.main import main
from tenshot.core.errors import Cancelled, Refusal
from tenshot.core.options import gather, resolve
from tenshot.io import tensors, text_files
from tenshot.pipeline import Request, SamplingSettings
from tenshot.train.distillation_options import DistillationOptions
from tenshot.train.engine import run
from tenshot.train.methods import distillation
from tests.dreambooth_runs import Ear, files

FAMILIES = ["sd1", "sd3", *(pytest.param(each, marks=pytest.mark.slow) for each in ("sd2_v", "sdxl"))]
RUN = {
    "prompt": ["a cat", "a dog"],
    "num_trajectories": 5,
    "sample_batch_size": 3,
    "rank": 2,
    "max_train_steps": 5,
    "train_batch_size": 4,
    "checkpointing_steps": 2,
    "learning_rate": 1e-3,
    "report_to": "none",
    "device": "cpu",
}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher of few steps, judged by few pictures."""
    monkeypatch.setattr(distillation, "TEACHER_STEPS", 8)
    monkeypatch.setattr(distillation, "JUDGED", 2)


def distilled(base: Path, folder: Path, ear: Ear | None = None, **given: Any) -> dict[str, Any]:
    told = RUN | {"pretrained_model_name_or_path": str(base), "output_dir": str(folder)} | given
    return dict(distillation.train(resolve(DistillationOptions, told), ear or Ear()))


class Late(Ear):
    """Asks to stop once more than `least` of the job is done."""

    def __init__(self, job: str, least: int) -> None:
        super().__init__(job)
        self.least = least

    def advance(self, done: int, **figures: float) -> None:
        self.stop = self.jobs[-1] == self.job and done > self.least


@pytest.mark.usefixtures("few")
def test_stopped_and_started_again_it_ends_bit_for_bit_the_same(sd1: Path, tmp_path: Path):
    distilled(sd1, tmp_path / "whole")
    kept = tmp_path / "stopped" / run.TRAJECTORIES
    for job, least, there in (("drawing trajectories", 8, 3), ("training", 1, 7)):
        with pytest.raises(Cancelled):
            distilled(sd1, tmp_path / "stopped", Late(job, least))
        assert len(list(kept.rglob("*.safetensors"))) == there
    one = next(kept.rglob("*.safetensors"))
    one.write_bytes(one.read_bytes()[:-1])  # damaged: it is drawn again
    (kept / "ab").mkdir(exist_ok=True)
    tensors.write(kept / "ab" / "abc.safetensors", {"of": torch.zeros(1)})  # of other settings: it goes
    ear = Ear()
    distilled(sd1, tmp_path / "stopped", ear)
    assert any("damaged" in line for line in ear.said) and not (kept / "ab" / "abc.safetensors").exists()

    def lasting(name: str) -> dict[str, bytes]:
        return {path: content for path, content in files(tmp_path / name).items() if path.endswith(".safetensors")}

    assert lasting("whole") == lasting("stopped")
    assert len([path for path in lasting("whole") if path.startswith(run.TRAJECTORIES)]) == 7


@pytest.mark.usefixtures("few")
def test_another_prompt_or_teacher_is_another_run(sd1: Path, tmp_path: Path):
    distilled(sd1, tmp_path / "out")
    for other in ({"prompt": ["a cat"]}, {"guidance_scale": 5}, {"num_trajectories": 6}, {"steps": 4}):
        with pytest.raises(Refusal, match="holds another run"):
            distilled(sd1, tmp_path / "out", **other)
    distilled(sd1, tmp_path / "out", num_processes=1, checkpointing_steps=100)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("family", FAMILIES)
def test_what_comes_out_is_an_ordinary_lora_that_says_how_it_draws(
    family: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    base = request.getfixturevalue(family)
    folder = tmp_path / "fast"
    (tmp_path / "webui" / "models").mkdir(parents=True)
    told = distilled(base, folder, learning_rate=1e-2, export=[f"webui:{tmp_path / 'webui'}"])
    usage = Usage(8, "Euler", "sgm_uniform", 1)
    assert usage_hint.read(tensors.metadata(folder / lora.FILE)) == usage
    (exported,) = told["exported"]
    assert tensors.metadata(Path(exported))[usage_hint.KEY] == usage.written()
    assert usage.written() == "Steps: 8, Sampler: Euler, Schedule type: SGM Uniform, CFG scale: 1"
    found = told["likeness_to_teacher"]
    assert found["pictures"] == 2 and "likeness" not in found  # there is no judge of such pictures
    assert json.loads((folder / run.MANIFEST).read_text())["likeness_to_teacher"] == found
    for place in (folder, exported):
        model_with = tenshot.load(base)
        request_ = [Request("a cat", 5)]
        settings = SamplingSettings("Euler", 8, 1, schedule="sgm_uniform")
        plain = pipeline.latents(model_with, request_, settings)
        model_with.set_loras({str(place): 1})
        assert not torch.allclose(pipeline.latents(model_with, request_, settings), plain, atol=1e-4)
    capsys.readouterr()
    assert main(["inspect", exported, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["usage_hint"] == usage.written()
    assert shown["next"][0].endswith(" ".join(usage.words()))


@pytest.mark.usefixtures("few")
def test_its_next_command_draws(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a run in bfloat16, which float16 as trajectories are kept in does not mix with."""
    monkeypatch.chdir(tmp_path)
    told = RUN | {"pretrained_model_name_or_path": str(sd1), "output_dir": "out", "mixed_precision": "bf16"}
    options = resolve(DistillationOptions, told)
    distillation.train(options, Ear())
    first, *_ = options.next_commands()
    assert main([*shlex.split(first)[1:], "--out", "drawn.png", "--device", "cpu", "--seed", "1"]) == 0
    assert (tmp_path / "drawn.png").is_file()


@pytest.mark.usefixtures("few")
def test_prompts_are_those_that_the_training_recorded(guided: Path, tmp_path: Path):
    """Of a DreamBooth run; and captions, where pictures have them."""
    ear = Ear()
    told = RUN | {"pretrained_model_name_or_path": str(guided), "output_dir": str(tmp_path / "out")}
    del told["prompt"]
    options = resolve(DistillationOptions, told)
    distillation.train(options, ear)
    assert any("1 prompt, 'a photo of az baby'" in line for line in ear.said)
    assert "'a photo of az baby'" in options.next_commands()[0]
    manifest = text_files.read_object(guided / run.MANIFEST)
    captioned = Path(shutil.copytree(guided, tmp_path / "captioned"))
    manifest["arguments"] |= {"class_prompt": "a photo of baby", "validation_prompt": "az baby, red"}
    manifest["inputs"]["captions"] = {"a.png": "one", "b.png": ["two", "one"]}
    tensors.write_json(captioned / run.MANIFEST, manifest)
    spoken = distillation._prompts(options.model_copy(update={"pretrained_model_name_or_path": str(captioned)}))
    assert spoken == ["a photo of az baby", "a photo of baby", "az baby, red", "one", "two"]


@pytest.mark.slow
def test_the_pocket_model_draws_more_like_its_teacher(tmp_path: Path):
    """In 8 steps without guidance; pictures of seeds that it did not learn from."""
    prompts = ["a 3d emoji of a panda on a red background", "a flat emoji of a fox on a green background"]
    told = {"num_trajectories": 24, "sample_batch_size": 8, "rank": 16, "max_train_steps": 40, "train_batch_size": 8}
    found = distilled(Path("pocket"), tmp_path / "out", prompt=prompts, **told)["likeness_to_teacher"]
    print(found)
    assert found["psnr"] > found["untrained_psnr"] + 1
    assert found["likeness"] > found["untrained_likeness"]


def test_prompts_of_a_file_come_after_those_of_the_words(tmp_path: Path):
    (tmp_path / "a.txt").write_text("# mine\n a cat \n\na dog\n")
    words = ["pocket", "--prompt", "a fox", f"--prompt_file={tmp_path / 'a.txt'}"]
    assert gather(DistillationOptions, words).prompt == ["a fox", "a cat", "a dog"]
    (tmp_path / "a.txt").write_text("a cat\n[cat:dog:0.5]\n")
    with pytest.raises(Refusal, match=r"a.txt, line 2"):
        gather(DistillationOptions, words)


def refused(base: Path, folder: Path, **given: Any) -> list[str]:
    with pytest.raises(Refusal) as caught:
        distilled(base, folder, **given)
    assert not folder.exists()
    return [fault.where for fault in caught.value.faults]


def test_faults_are_told_at_once_and_nothing_is_written(sd1: Path, tmp_path: Path):
    wrong = {
        "steps": 5,
        "guidance_scale": 1,
        "stop_when_learned": True,
        "prompt": ["a cat AND a dog", "[cat:dog:0.5]", "a <lora:x:1> cat", "a (cat:1.2)"],
        "block_ranks": {"middle": 4},
    }
    assert refused(sd1, tmp_path / "out", **wrong) == [
        "--steps", "--guidance_scale", "--stop_when_learned", *["--prompt"] * 3, "--block_ranks",
    ]  # fmt: skip
    assert refused(sd1, tmp_path / "out", prompt=[]) == ["--prompt"]


@pytest.mark.parametrize("part", ["scheduler", "unet"])
def test_a_model_that_is_distilled_already_is_refused(part: str, sd1: Path, tmp_path: Path):
    place = Path(shutil.copytree(sd1, tmp_path / "m"))
    if part == "scheduler":
        LCMScheduler.from_pretrained(sd1, subfolder="scheduler").save_pretrained(place / "scheduler")
    else:  # LCMs are told the guidance that they draw as if with
        config = UNet2DConditionModel.load_config(sd1, subfolder="unet")
        UNet2DConditionModel.from_config(config, time_cond_proj_dim=16).save_pretrained(place / "unet")
    assert refused(place, tmp_path / "out") == [f"--pretrained_model_name_or_path {place}"]


@pytest.mark.usefixtures("few")
def test_trajectories_that_are_no_numbers_are_not_kept(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    drawn = pipeline.trajectories

    def broken(*given: Any, **more: Any) -> torch.Tensor:
        return drawn(*given, **more) * torch.inf

    monkeypatch.setattr(pipeline, "trajectories", broken)
    with pytest.raises(Refusal, match="NaN or infinite"):
        distilled(sd1, tmp_path / "out")
    assert not list(tmp_path.rglob("*.safetensors"))
    monkeypatch.undo()


def test_a_hint_in_other_words_is_none():
    assert usage_hint.read({}) is None
    assert usage_hint.read({usage_hint.KEY: "draw with 8 steps, please"}) is None
    other = Usage(4, "LCM", "automatic", 1.5)
    assert other.written() == "Steps: 4, Sampler: LCM, CFG scale: 1.5"
    assert usage_hint.read({usage_hint.KEY: other.written()}) == other
