"""The command line as shells and terminals of every kind meet it: narrow, deaf, ASCII, impatient."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console as RichConsole
from safetensors.torch import load_file, save_file

from tenshot.cli import help_text, verbs
from tenshot.cli.console import Console, Steady
from tenshot.cli.main import main
from tenshot.cli.output import Outlet
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.options import MISSING, entries, gather
from tenshot.train.options import FineTuneOptions, LoraOptions
from tests.dreambooth_runs import METHOD_OPTIONS

TENSHOT = [sys.executable, "-m", "tenshot"]


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("path", verbs.VERBS, ids=" ".join)
def test_no_name_is_cut_and_what_is_needed_comes_first(
    path: verbs.Name, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    kind = verbs.load(verbs.VERBS[path].options)
    lines = help_text.of_verb(path, kind).splitlines()
    assert max(map(len, lines)) <= width
    shown = [match[1] for line in lines if (match := re.match(r"  --(\w+)( |$)", line))]
    known = entries(kind)
    assert sorted(shown) == sorted([*known, *kind.recipes, "json"])
    needed = [name for name, entry in known.items() if entry.default is MISSING]
    assert shown[: len(needed)] == needed
    model = [name for name in help_text.MODELS if name in known]
    assert set(model) <= set(shown[: len(needed) + len(model) + len(kind.words)])
    assert all(f"--{other}" in " ".join(lines) for other in kind.also)


def run(words: list[str], **more: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*TENSHOT, *words], capture_output="stdout" not in more, timeout=60, **more)  # type: ignore[call-overload, no-any-return]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("words", [["--version"], ["train", "lora", "--help"], ["generate", "--nothing", "--json"]])
def test_a_full_disk_behind_stdout_is_said(words: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = run(words, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert b"could not be written to stdout: No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


@pytest.mark.parametrize("words", [["--version"], ["train", "lora", "--help"], ["generate", "--nothing", "--json"]])
def test_a_reader_that_went_away_is_no_failure(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run(words, stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)
    assert done.returncode == 141
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="there is no shell")
@pytest.mark.parametrize("words", [["--version"], ["train", "lora", "--help"], ["generate", "--nothing", "--json"]])
def test_a_closed_stdout_is_said(words: list[str]) -> None:
    done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *TENSHOT, *words], stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 1
    assert b"could not be written to stdout: it is closed" in done.stderr and b"Traceback" not in done.stderr


def test_work_done_for_a_closed_stdout_stands(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["convert", str(sd1), str(tmp_path / "it.safetensors")]) == 1
    sys.stdout.close()  # what stands in for it
    assert (tmp_path / "it.safetensors").stat().st_size > 1_000_000


@pytest.mark.parametrize("json_too", [True, False])
def test_words_that_are_no_text_are_refused_in_ascii(json_too: bool) -> None:
    words = [b"generate", b"--prompt", b"caf\xe9", b"--model", b"mod\xe8le", b"--out", "büro".encode()]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "1"}
    done = subprocess.run(
        [*TENSHOT, *words, *(["--json"] if json_too else [])], capture_output=True, env=environment, timeout=60
    )
    assert done.returncode == 2 and b"Traceback" not in done.stderr
    assert done.stderr.isascii() and b"'caf\\udce9' is no text" in done.stderr
    if json_too:
        faults = json.loads(done.stdout)["faults"]
        assert {fault["where"] for fault in faults} == {"--prompt", "--model"}


def test_a_result_is_told_in_words_on_a_terminal_of_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    Outlet(as_json=False).result({"pictures": [{"file": "büro/猫.png", "prompt": "\udce9"}]})
    assert rb"b\xfcro/\u732b.png" in written.getvalue() and rb"\udce9" in written.getvalue()


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        *((stage, signal.SIGINT) for stage in ("torch", "diffusers", "tenshot.cli.commands")),
        ("torch", signal.SIGTERM),
        *(
            pytest.param(stage, signal.SIGTERM, marks=pytest.mark.slow)
            for stage in ("diffusers", "tenshot.cli.commands")
        ),
    ],
)
def test_a_signal_while_libraries_are_imported_ends_at_once(number: signal.Signals, stage: str) -> None:
    """The import of `stage` announces itself and then takes its time."""
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # what runs in the background may ignore it
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {stage!r}:\n"
        "            sys.stderr.write('importing\\n'); sys.stderr.flush(); time.sleep(60)\n"
        "sys.meta_path.insert(0, Slow())\n"
        "from tenshot.cli.main import main\n"
        "sys.exit(main(['generate', '--prompt', 'a cat', '--json']))"
    )
    started = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert started.stderr and started.stderr.readline() == b"importing\n"
    started.send_signal(number)
    out, err = started.communicate(timeout=30)
    assert started.returncode == 130
    assert b"Traceback" not in err
    assert json.loads(out) == {"error": "cancelled", "message": "stopped before the work began"}


COPIED = (
    "--enable_xformers_memory_efficient_attention --allow_tf32 --push_to_hub --hub_token=abc --local_rank -1"
    " --resume_from_checkpoint=latest --set_grads_to_none --dataloader_num_workers=4 --logging_dir logs"
    " --revision main --variant fp16 --num_train_epochs 3 --max_train_steps 10 --save_model_as=safetensors"
)


def test_options_of_copied_commands_that_need_nothing_are_taken_with_a_line(tmp_path: Path) -> None:
    said: list[str] = []
    own = f"--network_dim 8 --instance_data_dir {tmp_path} --instance_prompt 'az cat'"
    options = gather(LoraOptions, [*COPIED.split(), *shlex.split(own)], said.append)
    assert options.rank == 8 and options.max_train_steps == 10
    names = {word.partition("=")[0] for word in COPIED.split() if word.startswith("--")} - {"--max_train_steps"}
    assert {line.split(" ")[0] for line in said if line.startswith("--")} == names
    assert any("emoji" in line for line in said)


def test_everything_wrong_with_a_copied_command_is_told_at_once() -> None:
    words = (
        "--resume_from_checkpoint checkpoint-9 --scale_lr --num_train_epochs 3 --lerning_rate 1 --rank 0 --device no"
    )
    files = "--pretrained_model_name_or_path somebody/model --instance_data_dir nowhere --start_from no --embeddings no"
    with pytest.raises(Refusal) as caught:
        gather(LoraOptions, [*words.split(), *files.split(), "--export", "webui"])
    faults = {fault.where: fault for fault in caught.value.faults}
    given = {word for word in f"{words} {files}".split() if word.startswith("--")}
    assert faults.keys() == {*given, "--export", "--instance_prompt"}
    assert "--learning_rate" in faults["--lerning_rate"].fits
    assert "HF_HUB_OFFLINE" in faults["--pretrained_model_name_or_path"].do
    assert "newest whole checkpoint" in faults["--resume_from_checkpoint"].fits


JUNK = ("lora", "word", "vae", "model", "second")


@pytest.fixture
def junk(pictures: Path, tmp_path: Path) -> Path:
    """Files that hold nothing of what their names say, a folder with a picture that is none, and a recipe."""
    for name in JUNK:
        (tmp_path / f"{name}.safetensors").write_bytes(b"no tensors at all, " * 9)
    shutil.copytree(pictures, tmp_path / "own")
    (tmp_path / "own" / "cut.png").write_bytes(b"no picture")
    (tmp_path / "recipe.yaml").write_text("seed: -5\n")
    return tmp_path


IN_FILES = {
    "train lora": "--instance_data_dir {0}/own --instance_prompt az --start_from {0}/lora.safetensors"
    " --embeddings {0}/word.safetensors --vae {0}/vae.safetensors --output_dir {0}/word.safetensors"
    " --pretrained_model_name_or_path {0}/model.safetensors",
    "train textual-inversion": "--train_data_dir {0}/own --placeholder_token az --initializer_token a"
    " --with_prior_preservation --class_prompt cat --class_data_dir {0}/own",
    "generate": "--prompt cat --model {0}/model.safetensors --lora {0}/lora.safetensors=0.5 --embedding"
    " {0}/word.safetensors --lora {0}/second.safetensors",
    "merge": "--sd_model {0}/model.safetensors --models {0}/lora.safetensors {0}/second.safetensors --save_to {0}/m",
}


@pytest.mark.parametrize("verb", IN_FILES)
def test_faults_within_files_are_told_with_those_of_the_words(verb: str, junk: Path) -> None:
    """All that the verb itself would refuse, once the words are right, is told beside what is wrong with the words."""
    row, words = verbs.VERBS[tuple(verb.split())], IN_FILES[verb].format(junk).split()
    kind = verbs.load(row.options)
    wrong = ["--nothing", "1", *(["--recipe", str(junk / "recipe.yaml")] if "seed" in kind.model_fields else [])]
    with pytest.raises(Refusal) as together:
        gather(kind, [*words, *wrong])
    with pytest.raises(Refusal) as apart:
        verbs.load(row.run)(gather(kind, words), Events())
    told, later = ({(fault.where, fault.found) for fault in each.value.faults} for each in (together, apart))
    assert later <= told
    assert {where for where, _ in told - later} >= {"--nothing"}
    named = [str(junk / f"{name}.safetensors") for name in JUNK if f"{name}.safetensors" in IN_FILES[verb]]
    assert all(any(where.endswith(name) for where, _ in told) for name in named)
    assert any("seed" in where for where, _ in told) == ("seed" in kind.model_fields)


def test_files_are_looked_at_as_right_options_say(junk: Path, sd1: Path) -> None:
    """A column that is not known cannot be missed; a checkpoint may lack the VAE that another option gives."""
    (junk / "own" / "cut.png").unlink()
    (junk / "own" / "metadata.csv").write_text("file_name,said\npicture-0.png,a cat\n")
    bare = {name: each for name, each in _tensors(sd1, junk).items() if not name.startswith("first_stage_model.")}
    save_file(bare, junk / "bare.safetensors")
    model = "--pretrained_model_name_or_path"
    words = f"--instance_data_dir {junk}/own --instance_prompt az {model} {junk}/bare.safetensors".split()
    with pytest.raises(Refusal) as caught:
        gather(LoraOptions, [*words, "--caption_column=", "--vae", str(junk / "vae.safetensors")])
    assert {fault.where for fault in caught.value.faults} == {"--caption_column", str(junk / "vae.safetensors")}


def _tensors(folder: Path, place: Path) -> dict[str, torch.Tensor]:
    assert main(["convert", str(folder), str(place / "whole.safetensors")]) == 0
    return load_file(place / "whole.safetensors")


@pytest.mark.parametrize("kind", METHOD_OPTIONS)
def test_no_option_is_both_ours_and_only_others(kind: type[FineTuneOptions]) -> None:
    assert not kind.elsewhere.keys() & (kind.model_fields.keys() | kind.also.keys())
    assert set(kind.also.values()) <= kind.model_fields.keys()


def test_progress_that_nobody_reads_does_not_stop_the_work() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8", buffering=1, closefd=False) as gone:
        console = Console(RichConsole(file=Steady(gone)))  # type: ignore[arg-type]
        for number in range(3):
            console.say(f"line {number}")
            console.begin("work", 1)
            console.end()
        with pytest.raises(BrokenPipeError):
            gone.write("line\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)
    os.close(writer)


@pytest.mark.parametrize("content", ["7", "[]", '"unet"', "null"])
@pytest.mark.parametrize("part", ["unet/config", "vae/config", "scheduler/scheduler_config", "model_index"])
def test_a_configuration_that_is_no_object_is_refused_by_every_check(
    part: str, content: str, sd1: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Checks that look at a model's files beside one another must not rely on one another."""
    place = Path(shutil.copytree(sd1, tmp_path / "m"))
    (place / f"{part}.json").write_text(content)
    words = f"train lora --pretrained_model_name_or_path {place} --instance_data_dir {pictures} --instance_prompt az"
    assert main([*words.split(), "--output_dir", str(tmp_path / "out"), "--device", "cpu"]) == 2
    told = capsys.readouterr().err
    assert f"{part}.json" in told and "Traceback" not in told and not (tmp_path / "out").exists()
