"""Nothing goes on working for a process that is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tenshot.autotune import PARENT
from tenshot.core import distributed

SRC = Path(distributed.__file__).parents[2]
MADE = """
import multiprocessing, os, subprocess, sys, time
from tenshot.core import distributed

def work():
    distributed.tie()
    compiler = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    print(os.getpid(), compiler.pid, flush=True)
    time.sleep(60)

if __name__ == "__main__":
    multiprocessing.get_context({!r}).Process(target=work).start()
    time.sleep(60)
"""
LAUNCHED = """
import sys
from pathlib import Path
from tenshot.core import distributed
sys.executable = str(Path(__file__).with_name("worker"))
sys.exit(distributed.launch(["train"], 2))
"""
WORKER = """#!{}
import os, time
from tenshot.core import distributed
distributed._state = lambda cpu: None
distributed.join(True)
os.write(1, f"{{os.getpid()}}\\n".encode())
time.sleep(60)
"""


def numbers(parent: subprocess.Popen[str], count: int) -> list[psutil.Process]:
    """The processes that tell their numbers on the parent's standard output."""
    told: list[str] = []
    while len(told) < count:
        assert parent.stdout is not None
        line = parent.stdout.readline()
        assert line, "it ended before"
        told += line.split()
    return [psutil.Process(int(each)) for each in told]


def started(file: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(SRC)}
    return subprocess.Popen([sys.executable, str(file)], env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.usefixtures("hangups")
@pytest.mark.parametrize(
    ("method", "number"),
    [
        ("spawn", signal.SIGHUP),
        ("forkserver", signal.SIGKILL),
        pytest.param("spawn", signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("forkserver", signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_what_a_process_made_ends_with_it(method: str, number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(MADE.format(method))
    with started(tmp_path / "parent.py") as parent:
        family = numbers(parent, 2)
        parent.send_signal(number)
        assert parent.wait() == -number
        assert psutil.wait_procs(family, timeout=20)[1] == []


PRELOADING = """
import sys, time
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "tenshot.autotune.trial":
            time.sleep(60)
sys.meta_path.insert(0, Slow())
import tenshot.autotune.forkserver
"""


def test_a_fork_server_whose_parent_died_before_it_looked_ends() -> None:
    """While it imports torch, which takes its time where the machine is busy."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    environment = os.environ | {"PYTHONPATH": str(SRC), PARENT: str(gone.pid)}
    assert subprocess.run([sys.executable, "-c", PRELOADING], env=environment, timeout=40).returncode == 1


def test_what_a_launcher_started_ends_with_it(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(LAUNCHED)
    (tmp_path / "worker").write_text(WORKER.format(sys.executable))
    (tmp_path / "worker").chmod(0o755)
    with started(tmp_path / "parent.py") as parent:
        family = numbers(parent, 2)
        parent.kill()
        parent.wait()
        assert psutil.wait_procs(family, timeout=20)[1] == []


def test_a_launcher_ends_as_what_it_started_does(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(LAUNCHED)
    (tmp_path / "worker").write_text(f"#!{sys.executable}\nraise SystemExit(2)\n")
    (tmp_path / "worker").chmod(0o755)
    with started(tmp_path / "parent.py") as parent:
        assert parent.wait(60) == 2


def test_what_outlived_a_dead_process_of_its_group_ends_too() -> None:
    code = "import os, subprocess; os.setsid(); print(subprocess.Popen(['sleep', '60'], stdout=-3).pid, flush=True)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as leader:
        (left,) = numbers(leader, 1)
        leader.wait()
        assert left.is_running()
        distributed.end(leader.pid)
        deadline = time.monotonic() + 20
        while left.is_running() and left.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE
