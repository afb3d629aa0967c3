"""The command line as shells and terminals of every kind meet it: narrow, deaf, ASCII, impatient."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console as RichConsole

from tenshot.cli import help_text, verbs
from tenshot.cli.commands import _load
from tenshot.cli.console import Console, Steady
from tenshot.cli.output import Outlet
from tenshot.core.errors import Refusal
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
    kind = _load(verbs.VERBS[path].options)
    lines = help_text.of_verb(path, kind).splitlines()
    assert max(map(len, lines)) <= width
    shown = [match[1] for line in lines if (match := re.match(r"  --(\w+)( |$)", line))]
    known = entries(kind)
    assert sorted(shown) == sorted([*known, "recipe", "json", "help"][: len(known) + 2])
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", ["torch", "diffusers", "tenshot.cli.commands"])
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
    assert "not downloaded" in faults["--pretrained_model_name_or_path"].do
    assert "newest whole checkpoint" in faults["--resume_from_checkpoint"].fits


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
