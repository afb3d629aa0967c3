"""Windows and macOS by design: nothing that only some systems have is needed to start, or to write."""

from __future__ import annotations

import ast
import os
import shutil
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tenshot.cli.main import main
from tenshot.core import device
from tenshot.io import tensors
from tests.test_adapter_files import a_lora
from tests.test_house import FILES, MODULES

POSIX_MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix", "readline", "curses")
POSIX_ONLY = {
    *("fork", "forkpty", "setsid", "setpgid", "getpgid", "killpg", "wait4", "waitid", "mkfifo", "mknod", "nice"),
    *("getuid", "geteuid", "getgid", "chown", "lchown", "fchown", "fchmod", "statvfs", "sysconf", "pathconf"),
    *("getloadavg", "sched_getaffinity", "sched_setaffinity", "sync", "sendfile", "getpriority", "setrlimit", "uname"),
    *("SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGALRM", "SIGPIPE", "SIGSTOP", "SIGCONT", "alarm"),
    *("setitimer", "pthread_kill", "AF_UNIX"),
}  # fmt: skip


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules that Windows has not cannot be imported, and those of ours are not imported yet."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "tenshot"]:
        monkeypatch.delitem(sys.modules, name)
    for name in POSIX_MODULES:
        monkeypatch.setitem(sys.modules, name, None)


for each in MODULES:  # what they import of others, they may import as it is
    if each != "tenshot.__main__":
        import_module(each)


def test_every_module_is_imported_without_what_windows_lacks(blocked: None) -> None:
    for name in sorted(MODULES):
        if name != "tenshot.__main__":
            import_module(name)


def _posix(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """What only POSIX systems have, outside of functions that ask whether it is there."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef) and any(
            isinstance(each, ast.Name) and each.id in ("hasattr", "getattr") for each in ast.walk(node)
        ):
            continue
        if isinstance(node, ast.Attribute) and node.attr in POSIX_ONLY and isinstance(node.value, ast.Name):
            yield node.lineno, f"{node.value.id}.{node.attr}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None), *(alias.name for alias in node.names)]
            yield from ((node.lineno, name) for name in names if name in POSIX_MODULES)
        yield from _posix(node)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_that_windows_lacks_is_called_unasked(path: Path) -> None:
    found = [each for each in _posix(ast.parse(path.read_text("utf-8"))) if each[1] != "platform.uname"]
    assert not found


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its habits that matter here: folders cannot be opened, what is there is not renamed over, only writers flush."""
    real_open, real_rename, real_fsync = os.open, Path.rename, os.fsync
    written: set[int] = set()

    def opened(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        handle = real_open(path, flags, *more, **named)
        (written.add if flags & (os.O_RDWR | os.O_WRONLY) else written.discard)(handle)
        return handle

    def renamed(self: Path, target: Path) -> Path:
        if os.path.lexists(target):
            raise FileExistsError(17, "File exists", str(target))
        return real_rename(self, target)

    def flushed(handle: int) -> None:
        if handle not in written:
            raise OSError(9, "Bad file descriptor")
        real_fsync(handle)

    monkeypatch.setattr(tensors, "WINDOWS", True)
    monkeypatch.setattr(shutil, "_use_fd_functions", False)
    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "rename", renamed)


def test_results_are_written_and_replaced_as_windows_lets_it(sd1: Path, tmp_path: Path, windows: None) -> None:
    a_lora(sd1, tmp_path / "lora.safetensors")
    for target in ("model", "model.safetensors"):
        merge = ["merge", "--sd_model", str(sd1), "--models", str(tmp_path / "lora.safetensors")]
        for words in (["convert", str(sd1)], ["convert", str(sd1)], [*merge, "--save_to"]):
            assert main([*words, str(tmp_path / target), "--overwrite"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lora.safetensors", "model", "model.safetensors"]


def test_what_a_killed_process_left_is_swept_as_windows_lets_it(tmp_path: Path, windows: None) -> None:
    (tmp_path / ".tenshot-a.part" / "old" / "model").mkdir(parents=True)
    (tmp_path / ".tenshot-b.part" / "new" / "half").mkdir(parents=True)
    tensors.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_memory_is_told_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError

    monkeypatch.setattr(device, "open", missing, raising=False)
    held = psutil.Process().memory_info().rss
    device.reset_max_memory_allocated()
    assert device.max_memory_allocated() > held / 2
    assert device.memory_allocated() > held / 2
    assert device.memory_limit(torch.device("cpu")) > held
    assert device.describe()["device"]


@pytest.fixture
def apple(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine with an Apple GPU, as far as torch says; what is asked of it."""
    asked: list[str] = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: torch.zeros(1))
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.mps, name, lambda name=name: asked.append(name))
    for name, value in (("current_allocated_memory", 1), ("driver_allocated_memory", 2), ("recommended_max_memory", 3)):
        monkeypatch.setattr(torch.mps, name, lambda value=value: value)
    return asked


def test_an_apple_gpu_is_picked_waited_for_and_emptied(apple: list[str]) -> None:
    where = device.pick()
    assert where.type == "mps"
    device.synchronize()
    device.empty_cache()
    assert apple == ["synchronize", "empty_cache"]
    assert (device.memory_allocated(), device.max_memory_allocated(), device.memory_limit(where)) == (1, 2, 3)
    assert device.halves(where) == ["fp16"]
    assert device.fingerprint(where)["system"].startswith("macOS")
    assert device.generator(1).device.type == "cpu"
