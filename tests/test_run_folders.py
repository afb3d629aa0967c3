"""Whose an output folder is: damaged, foreign and held ones are refused by name, and nothing in them is touched."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tenshot.cli.main import main
from tenshot.core.errors import Refusal
from tenshot.train import finetune
from tenshot.train.engine import loop, memory, run, validation
from tests.dreambooth_runs import UNET, WAYS, Bench, Ear, files, same_weights


@pytest.mark.parametrize(
    "claim", [b"{", b"[]", b"\xff\xfe", b"null", b'{"id": "of another program"}', b"[" * 100_000], ids=lambda c: c[:9]
)
def test_a_folder_whose_claim_is_damaged_or_foreign_is_refused(claim: bytes, bench: Bench):
    place = bench.folder / "out"
    place.mkdir()
    (place / run.IDENTITY).write_bytes(claim)
    (place / "thesis.txt").write_text("do not lose me")
    before = files(place)
    assert bench.refused("out") == ["--output_dir"]
    assert files(place) == before


@pytest.mark.parametrize("name", ["validation", "best", "logs", "checkpoint-9"])
def test_a_file_where_a_folder_goes_is_refused(name: str, bench: Bench, guided: Path):
    place = shutil.copytree(guided, bench.folder / "out")
    (place / name).write_text("mine")
    before = files(place)
    assert bench.refused("out", max_train_steps="10") == ["--output_dir"]
    assert files(place) == before


def test_a_folder_that_is_called_a_checkpoint_and_is_none_is_refused(bench: Bench, guided: Path):
    place = shutil.copytree(guided, bench.folder / "out")
    (place / "checkpoint-4").mkdir()
    (place / "checkpoint-4" / "mine.txt").write_text("mine")
    assert bench.refused("out", max_train_steps="10") == ["--output_dir"]


def test_a_damaged_run_goes_on_from_what_is_whole_and_says_so(bench: Bench, guided: Path):
    place = bench.run("out", checkpointing_steps="2")
    file = place / "checkpoint-3" / "unet.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    shutil.copytree(place / "checkpoint-2", place / "checkpoint-²")
    (place / "loss.jsonl").write_bytes(b'{"step": 1, "loss": 1}\n{"step": "\xff"\n5\n')
    (place / UNET).unlink()
    ear = Ear()
    bench.run("out", ear, checkpointing_steps="2")
    assert any("checkpoint-3 is damaged and was put aside" in text for text in ear.said)
    assert "continuing from checkpoint-2" in ear.said
    assert same_weights(place, guided)


def test_a_damaged_note_of_what_fitted_is_refused(bench: Bench):
    options = bench.options("out", fit_memory=True)
    for content in ("5", '{"train_batch_size": "many"}', '{"train_batch_size": -1}', '{"color": 1}', "{"):
        (bench.folder / "out").mkdir(exist_ok=True)
        (bench.folder / "out" / memory.FITTED).write_text(content)
        with pytest.raises(Refusal, match=memory.FITTED):
            memory.again(options)


@pytest.mark.parametrize("content", ["{", "[]", '{"step": 1}', '{"step": 1, "likeness": "much"}'])
def test_a_damaged_score_is_none(content: str, tmp_path: Path):
    (tmp_path / validation.BEST).mkdir()
    (tmp_path / validation.BEST / validation.SCORE).write_text(content)
    assert validation.score(tmp_path) is None


@pytest.mark.parametrize("way", ["lora", "dreambooth", "inversion"])
def test_what_is_not_finite_never_gets_its_name(way: str, sd1: Path, pictures: Path, tmp_path: Path):
    bench = Bench(sd1, pictures, tmp_path, way)
    words = {"placeholder_token": ["<az>"], "initializer_token": ["baby"]} if way == "inversion" else {}
    with pytest.raises(Refusal, match="not finite"):
        options = bench.options("out", max_train_steps="1", **words).model_copy(update={"learning_rate": 1e38})
        finetune.train(WAYS[way][0], options, Ear())
    assert sorted(files(tmp_path / "out")) == ["loss.jsonl", "recipe.yaml", "run.json"]


def test_a_second_training_into_one_folder_is_refused(bench: Bench):
    place = bench.folder / "out"
    with run.alone(place):
        assert bench.refused("out") == ["--output_dir"]
        assert files(place) == {run.LOCK: b""}
    assert not place.exists()


def test_a_dead_training_holds_nothing(tmp_path: Path):
    place = tmp_path / "deeper" / "out"
    process = os.fork()
    if not process:
        try:
            with run.alone(place):
                (tmp_path / "held").touch()
                time.sleep(60)
        finally:
            os._exit(1)
    while not (tmp_path / "held").exists():
        assert os.waitpid(process, os.WNOHANG) == (0, 0)
        time.sleep(0.01)
    with pytest.raises(Refusal, match="another training"), run.alone(place):
        pass
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    with run.alone(place):
        (place / "result").write_text("")
    assert [path.name for path in place.iterdir()] == ["result"]


def test_processes_of_one_launch_are_one_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with run.alone(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with run.alone(tmp_path):
            pass


def test_what_ended_in_the_meantime_is_seen(bench: Bench, guided: Path, monkeypatch: pytest.MonkeyPatch):
    """Between the look at a folder and its lock another training may have come and gone."""
    before, alone = files(guided), run.alone

    def late(folder: Path):  # type: ignore[no-untyped-def]
        shutil.copytree(guided, folder)
        return alone(folder)

    monkeypatch.setattr(run, "alone", late)
    assert bench.refused("out", learning_rate="1e-4") == ["--output_dir"]
    assert files(bench.folder / "out") == before
    assert json.loads((bench.folder / "out" / run.IDENTITY).read_text())["options"]["learning_rate"] == 1e-3


@pytest.mark.parametrize("words", [
    "dreambooth --instance_data_dir {} --instance_prompt az --resolution 1000000",
    "lora --instance_data_dir {} --instance_prompt=",
    "dreambooth --instance_data_dir {} --instance_prompt=",
    "textual-inversion --train_data_dir {} --initializer_token a --placeholder_token=",
])  # fmt: skip
def test_what_is_refused_leaves_no_file(words: str, pictures: Path, sd1: Path, tmp_path: Path, capsys):
    model = ["--pretrained_model_name_or_path", str(sd1), "--output_dir", str(tmp_path / "deep/out")]
    assert main(["train", *words.format(pictures).split(), *model]) == 2
    assert not list(tmp_path.iterdir())
    assert "loading the model" not in capsys.readouterr().err  # but at once


def test_a_training_that_is_asked_to_end_can_be_continued(bench: Bench, guided: Path, monkeypatch: pytest.MonkeyPatch):
    """As docker stop, slurm and systemd ask: it ends as by Ctrl-C, with a checkpoint, and the same command goes on."""
    words = [f"--{name}={value}" for name, value in bench.base.items()] + [f"--output_dir={bench.folder / 'out'}"]
    real = loop._Trainer.step

    def asked(self: loop._Trainer, step: int) -> dict[str, float]:
        if (bench.folder / "out" / "recipe.yaml").exists():  # it trains in earnest
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(loop._Trainer, "step", asked)
        assert main(["train", "dreambooth", *words]) == 130
    assert [path.name for path in (bench.folder / "out").glob("checkpoint-*")] == ["checkpoint-1"]
    assert main(["train", "dreambooth", *words]) == 0
    assert same_weights(bench.folder / "out", guided)


@pytest.mark.parametrize("way", ("lora", "inversion"))
def test_what_has_no_effect_never_gets_its_name(way: str, sd1: Path, pictures: Path, tmp_path: Path):
    word = {"placeholder_token": ["<az>"], "initializer_token": ["baby"]}
    given = {"learning_rate": "1e-30"} if way == "lora" else word
    bench = Bench(sd1, pictures, tmp_path, way)
    with pytest.raises(Refusal, match=r"no effect|nothing was learned"):
        bench.run("out", **given, lr_scheduler="linear", lr_warmup_steps="1000000", max_train_steps="1")
    assert not list((tmp_path / "out").glob("*.safetensors"))
