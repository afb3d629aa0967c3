"""Prompts from files, beside those of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tenshot.core.errors import Refusal
from tenshot.core.options import gather
from tenshot.generate.options import GenerateOptions

LINES = "# mine\na cat\n\n  a (dog:1.2) \r\ncaf\u00e9 \u2028 # 3\n"


def prompts(*words: str) -> list[str]:
    return gather(GenerateOptions, words).prompt


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_prompt_a_line(tmp_path: Path, encoding: str):
    (tmp_path / "a.txt").write_bytes(LINES.encode(encoding))
    assert prompts(f"--prompt_file={tmp_path / 'a.txt'}") == ["a cat", "a (dog:1.2)", "caf\u00e9 \u2028 # 3"]


def test_files_go_on_from_the_prompts_of_the_command_line(tmp_path: Path):
    for name in "ab":
        (tmp_path / name).write_text(f"of {name}")
    (tmp_path / "c.yaml").write_text("prompt: [of the recipe]\nsteps: 3")
    files = [f"--prompt_file={tmp_path / name}" for name in "ab"]
    assert prompts(*files, "--prompt", "x", "--prompt", "y") == ["x", "y", "of a", "of b"]
    assert prompts(*files, f"--recipe={tmp_path / 'c.yaml'}") == ["of a", "of b"]


def test_all_faults_of_a_file_are_told_with_their_lines(tmp_path: Path):
    (tmp_path / "a.txt").write_text("fine\n# x\n<lora:az:much>\n(heavy:9999)\n--prompt x --steps 3\n")
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    (tmp_path / "odd.txt").write_bytes("caf\u00e9".encode("latin-1"))
    names = ("a.txt", "empty.txt", "odd.txt", "none.txt")
    with pytest.raises(Refusal) as refusal:
        prompts(*(f"--prompt_file={tmp_path / name}" for name in names), "--steps=0")
    told = [fault.where for fault in refusal.value.faults]
    assert [where.rpartition(", ")[2] for where in told[:3]] == ["line 3", "line 4", "line 5"]
    assert [name in where for name, where in zip(names[1:], told[3:6], strict=True)] == [True] * 3
    assert told[6:] == ["--steps"]  # and not that --prompt is needed
