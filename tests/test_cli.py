"""The command line, as somebody types it, with verbs made for the occasion."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
from pydantic import Field
from rich.console import Console as RichConsole

import tenshot
from tenshot.cli import verbs
from tenshot.cli.console import Bars, Console, Interrupt, Lines, LogFile, clock
from tenshot.cli.main import main
from tenshot.cli.verbs import Verb
from tenshot.core.errors import Cancelled, Fault, Refusal
from tenshot.core.events import Events
from tenshot.core.options import Options

REAL = dict(verbs.VERBS)


class Common(Options):
    """What both share."""

    seed: int = Field(0, description="where the noise starts")


class Work(Common):
    """Options of the work."""

    output_dir: Path = Field(description="where it goes")
    steps: int = Field(3, ge=1, le=9, description="how many [steps]")
    fails: str | None = None
    kind: Literal["small", "large"] = "small"
    train_batch_size: int = 4


def work(options: Work, events: Events) -> dict[str, Any]:
    if options.fails == "early":
        events.begin("reading", 1)
        raise Refusal(Fault("picture", "is black", "a picture", "take another"))
    events.begin("training", options.steps)
    for step in range(1, options.steps + 1):
        events.step(step, loss=1 / step)
        events.advance(step, loss=1 / step)
        if options.fails == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        if events.cancelled():
            raise Cancelled(f"stopped after step {step}")
    print("a library talks")
    error = ERRORS.get(options.fails or "")
    if error:
        raise error
    events.end()
    return {"model": options.output_dir / "model", "steps": options.steps, "psnr": float("inf"), "seen": [1, 2]}


def hang(options: Common, events: Events) -> dict[str, Any]:
    """Deaf to the first Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    return {"survived": True}


class OutOfMemoryError(RuntimeError):
    """torch.OutOfMemoryError by name."""


ERRORS: dict[str, Exception] = {
    "bug": ValueError("boom"),
    "disk": OSError(28, "No space left on device", "/nowhere/at/all"),
    "words": RuntimeError("Io(Os { code: 28, message: No space left on device })"),
    "rights": PermissionError(13, "Permission denied", "/nowhere/at/all"),
    "place": NotADirectoryError(20, "Not a directory", "/nowhere/at/all"),
    "memory": MemoryError(),
    "accelerator": OutOfMemoryError("tried to allocate 2 GiB"),
}


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("worked")
    for each in (Work, Common, work, hang):
        setattr(module, each.__name__, each)
    monkeypatch.setitem(sys.modules, "worked", module)
    rows = {
        ("hang",): Verb("worked:hang", "worked:Common", "Hang."),
        ("generate",): Verb("absent:run", "absent:Options", "Make pictures."),
        ("train", "work"): Verb("worked:work", "worked:Work", "Do the work."),
        ("train", "absent"): Verb("absent:run", "absent:Options", "Do nothing."),
    }
    monkeypatch.setattr(verbs, "VERBS", rows)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_the_real_table_is_well_formed() -> None:
    for path, verb in REAL.items():
        assert all(path[:depth] in verbs.GROUPS for depth in range(1, len(path)))
        assert re.fullmatch(r"tenshot\.[\w.]+:\w+", verb.run)
        assert re.fullmatch(r"tenshot\.[\w.]+:\w+Options", verb.options)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from tenshot.cli.main import main; assert main(['--help']) == 0; assert main(['train']) == 0\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy', 'PIL', 'tenshot.core.options'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "generate" in done.stdout and "dreambooth" in done.stdout


def test_python_m_and_exit_code() -> None:
    done = subprocess.run([sys.executable, "-m", "tenshot", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, f"tenshot {tenshot.__version__}")
    assert subprocess.run([sys.executable, "-m", "tenshot", "nonsense"], capture_output=True).returncode == 2


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_alone_it_lists_groups_and_verbs(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "Make pictures." in text and re.search(r"train\s+Teach a model", text) and "Do the work" not in text


def test_a_group_lists_its_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 0
    text = capsys.readouterr().out
    assert "Do the work." in text and "Do nothing." in text and "Make pictures" not in text


@pytest.mark.parametrize("columns", [80, 120])
def test_help_of_a_verb_comes_from_its_record(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["train", "work", "--steps", "nonsense", "--help"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= columns
    flat = re.sub(r"[\s│]+", " ", text)
    assert "how many [steps] (from 1, to 9; default 3)" in flat
    assert "What both share" in flat and "--seed INT where the noise starts (default 0)" in flat
    assert flat.index("--output_dir PATH where it goes (needed)") < flat.index("--steps INT")
    assert "--recipe" in flat and "--json" in flat


def test_a_result_is_told_in_words(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "work", "--output-dir", str(out), "--steps", "2"]) == 0
    told, err = capsys.readouterr()
    assert f"model  {out}/model" in told and "seen   1, 2" in told and "library" not in told
    assert "training: 2/2 100%" in err and "loss 0.5" in err and "a library talks" in err


def test_a_result_as_json(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "train", "work", "--output_dir", str(out)]) == 0
    told, err = capsys.readouterr()
    assert told.count("\n") == 1
    assert json.loads(told) == {"model": f"{out}/model", "steps": 3, "psnr": "Infinity", "seen": [1, 2]}
    assert "training" in err


def test_a_refusal_names_every_fault_and_writes_nothing(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "work", "--output_dir", str(out), "--steps", "12", "--sed", "1", "stray", "--fails"]
    assert main(words) == 2
    told, err = capsys.readouterr()
    assert told == "" and "--steps: '12'" in err and "--sed" in err and "--seed" in err and "--fails" in err
    assert "would fit: a whole number from 1, to 9" in err
    assert main([*words, "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["error"] == "refused"
    assert {fault["where"] for fault in answer["faults"]} == {"--steps", "--sed", "--fails"}
    assert not out.exists()


def test_a_verb_that_refuses_leaves_nothing(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "work", "--output_dir", str(out), "--fails", "early"]) == 2
    err = capsys.readouterr().err
    assert "picture: is black" in err and "would fit: a picture" in err and "do: take another" in err
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "fits"),
    [
        (["train", "wrok"], "tenshot train work"),
        (["work"], "tenshot train work"),
        (["trian"], "tenshot train"),
        (["zzz"], "tenshot generate or tenshot hang or tenshot train"),
        (["--verbose"], "tenshot generate or tenshot hang or tenshot train"),
    ],
)
def test_an_unknown_verb_is_refused_with_near_ones(
    words: list[str], fits: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--json"]) == 2
    [fault] = json.loads(capsys.readouterr().out)["faults"]
    assert (fault["found"], fault["fits"]) == ("no such verb", fits)


def test_an_error_nobody_foresaw(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "work", "--output_dir", str(out), "--fails", "bug", "--json"]) == 1
    told, err = capsys.readouterr()
    assert json.loads(told) == {"error": "failed", "message": "ValueError: boom"}
    assert "Traceback" in err and "ValueError: boom" in err
    assert "ValueError: boom" in (out / "tenshot.log").read_text()


@pytest.mark.parametrize(
    ("fails", "found", "do"),
    [
        ("disk", r"No space left on device: [\d,]+ bytes are free", "make room"),
        ("words", r"No space left on device: [\d,]+ bytes are free", "make room"),
        ("rights", "^Permission denied$", "permissions"),
        ("place", "^Not a directory$", "another place"),
        ("memory", "no more", "lower --train_batch_size"),
        ("accelerator", "tried to allocate 2 GiB", "lower --train_batch_size"),
    ],
)
def test_spent_disk_and_memory_are_refusals(
    fails: str, found: str, do: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "work", "--output_dir", str(out), "--fails", fails, "--json"]) == 2
    [fault] = json.loads(capsys.readouterr().out)["faults"]
    assert re.search(found, fault["found"]) and do in fault["do"]
    assert fault["where"] == {"words": str(out), "memory": "memory", "accelerator": "memory"}.get(
        fails, "/nowhere/at/all"
    )
    assert (out / "tenshot.log").read_text().count("Traceback") == 0


def test_ctrl_c_ends_the_loop_cleanly(out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    assert main(["train", "work", "--output_dir", str(out), "--fails", "interrupt"]) == 130
    told, err = capfd.readouterr()
    assert told == "" and "Ctrl-C again" in err and "stopped after step 1" in err
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopped after step 1" in (out / "tenshot.log").read_text()


@pytest.mark.usefixtures("hangups")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_a_service_manager_sends_however_often_is_a_ctrl_c(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with Interrupt() as interrupt:
        for _ in range(3):
            os.kill(os.getpid(), number)
        assert interrupt.cancelled()
        with pytest.raises(KeyboardInterrupt):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(number) is before
    assert capfd.readouterr().err.count("stopping at the next safe moment") == 1


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupt.cancelled()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_stops_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["hang", "--json"]) == 130
    assert json.loads(capfd.readouterr().out)["error"] == "cancelled"


def test_interrupt_elsewhere_than_the_main_thread() -> None:
    seen: list[bool] = []

    def run() -> None:
        with Interrupt() as interrupt:
            seen.append(interrupt.cancelled())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [False]


def test_the_log_tells_the_run(out: Path) -> None:
    assert main(["train", "work", "--output_dir", str(out)]) == 0
    assert main(["train", "work", "--output_dir", str(out), "--steps", "1"]) == 0
    lines = (out / "tenshot.log").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d ", line) for line in lines)
    texts = [line.split(" ", 1)[1] for line in lines]
    assert texts[0].startswith(f"tenshot train work --output_dir {out}")
    assert texts[1:7] == [
        "begin training: 0/3", "step 1: loss=1", "step 2: loss=0.5", "step 3: loss=0.333333", "end training", "done",
    ]  # fmt: skip
    assert texts.count("done") == 2


def test_the_log_can_be_read_while_the_run_lasts_and_tells_a_late_refusal(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log"
    with pytest.raises(Refusal), LogFile(path) as log:
        log.say("before")
        assert not path.exists()
        log.step(1, loss=2.0)
        assert [line.split(" ", 1)[1] for line in path.read_text().splitlines()] == ["before", "step 1: loss=2"]
        raise Refusal(Fault("loss", "nan"))
    assert "refused: loss: nan" in path.read_text()


def recorded(**settings: Any) -> RichConsole:
    return RichConsole(file=io.StringIO(), record=True, **settings)


def test_plain_lines_are_few_and_tell_all() -> None:
    out = recorded(width=40)
    now = 100.0
    lines = Lines(out, every=5, now=lambda: now)
    lines.begin("training", 100, 20)
    for done in range(21, 101):
        now += 0.5
        lines.advance(done, loss=0.25, seconds=0.5)
    lines.end()
    told = out.export_text().splitlines()
    assert told[0] == "training: 20/100 20%"
    assert told[1] == "training: 30/100 30%, 2.0 it/s, 0:35 left, loss 0.25"
    assert told[-1] == "training: 100/100 100%, 2.0 it/s, 0:00 left, loss 0.25"
    assert len(told) == 9


def test_bars_show_share_count_figures_and_jobs_within_jobs() -> None:
    out = recorded(width=120, force_terminal=True)
    bars = Bars(out)
    bars.begin("training", 10)
    bars.advance(4, loss=0.25, rate=1e-5)
    bars.begin("preview [a]", 2)
    bars.say("a [word]")
    bars.bars.refresh()
    bars.end()
    assert [task.description for task in bars.bars.tasks] == ["training"]
    bars.end()
    text = out.export_text()
    for part in ("training", "40%", "4/10", "loss 0.25", "rate 1e-05", "preview [a]", "0/2", "a [word]"):
        assert part in text
    assert not bars.bars.live.is_started


def test_the_console_chooses_by_the_terminal_and_clears_up() -> None:
    assert isinstance(Console(recorded()).listeners[0], Lines)
    console = Console(recorded(force_terminal=True))
    with pytest.raises(KeyError), console:
        console.begin("one", 3)
        console.begin("two", 3)
        raise KeyError
    [bars] = console.listeners
    assert isinstance(bars, Bars) and not bars.jobs and not bars.bars.live.is_started


def test_clock() -> None:
    assert [clock(0), clock(59.6), clock(3725)] == ["0:00", "1:00", "1:02:05"]


def test_nothing_is_imported_before_ctrl_c_is_answered():
    source = str(Path(tenshot.__file__).parent.parent)
    program = f"import sys; sys.path.insert(0, {source!r}); import tenshot.cli.main; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True)
    assert not {"typing", "contextlib", "inspect", "pathlib"} & set(found.stdout.split())
