"""What a shell offers while a command is typed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tenshot.cli.main import main
from tenshot.cli.verbs import VERBS

FIRST = {path[0] for path in VERBS}


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("tenshot tr", {"train"}),
        ("tenshot train ", {path[1] for path in VERBS if path[0] == "train"}),
        ("tenshot train lora --instance_d", {"--instance_data_dir"}),
        ("tenshot train lora --rank 4 --optimizer l", {"lion"}),
        ("tenshot train lora --loss-type ", {"l2", "huber", "smooth_l1"}),
        ("tenshot train lora --output_dir ", set()),
        ("tenshot nonsense ", FIRST),
        ("tenshot", FIRST),
        ("", FIRST),
    ],
)
def test_completion(
    words: str, completed: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMP_LINE", words)
    assert main(["--complete", "tenshot", words.split(" ")[-1], ""]) == 0
    assert completed == set(capsys.readouterr().out.split())


def test_bash_completes_by_what_is_shown(tmp_path: Path) -> None:
    (tmp_path / "tenshot").write_text(f'#!/bin/sh\nexec {sys.executable} -m tenshot "$@"\n')
    (tmp_path / "tenshot").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SHELL": "/bin/bash"}
    asked = 'COMP_LINE="tenshot train l" COMP_POINT=15; export COMP_LINE COMP_POINT\n'
    program = f'eval "$(tenshot --show-completion)"\ncomplete -p tenshot\n{asked}tenshot --complete tenshot l train'
    found = subprocess.run(["bash", "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["complete -o default -C 'tenshot --complete' tenshot", "lora"]
