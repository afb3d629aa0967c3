"""The guided page: both languages give the same commands, and each of them works, one after the other."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "docs" / name for name in ("guide.md", "guide.zh.md")]
SHORT = {"--max_train_steps=300": "--max_train_steps=4"}  # what is learned is asked elsewhere


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", "").splitlines()]


def test_both_languages_give_the_same_commands():
    english, chinese = map(commands, PAGES)
    assert english == chinese and len(english) == 12


def test_no_figure_is_left_to_be_filled_in():
    for page in PAGES:
        assert not re.search(r"WORK-|TODO|XXX", page.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_every_command_works_one_after_the_other(tmp_path: Path):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "TENSHOT_CACHE": str(tmp_path / "cache")}
    (tmp_path / "src").symlink_to(ROOT / "src")
    for line in commands(PAGES[0]):
        for long, short in SHORT.items():
            line = line.replace(long, short)
        words = shlex.split(line)
        if words[0] == "cp":
            shutil.copytree(tmp_path / words[2], tmp_path / words[3])
        elif words[0] == "mkdir":
            (tmp_path / words[2]).mkdir(parents=True)
        elif words[:2] == ["tenshot", "serve"]:
            serving = subprocess.Popen(
                [sys.executable, "-m", *words], cwd=tmp_path, env=environment, stdout=subprocess.PIPE
            )
        elif words[0] == "curl":
            answered(words, tmp_path)
        else:
            subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, env=environment, check=True)
    serving.send_signal(signal.SIGINT)
    assert serving.wait(60) == 0
    told = json.loads((tmp_path / "out" / "answer.json").read_text())
    image = Image.open(io.BytesIO(base64.b64decode(told["images"][0])))
    drawn = Image.open(tmp_path / "out" / "fast.png")
    assert image.size == drawn.size == (128, 128) and image.tobytes() == drawn.convert(image.mode).tobytes()
    assert (tmp_path / "out" / "webui" / "models" / "Lora" / "az.safetensors").is_file()
    assert {"index.html", "sheet.png"} <= {path.name for path in (tmp_path / "out" / "plan").iterdir()}


def answered(words: list[str], folder: Path) -> None:
    """What curl does, once the server is there."""
    url, data, out = words[2], words[words.index("-d") + 1], words[words.index("-o") + 1]
    request = urllib.request.Request(url, data.encode(), {"Content-Type": "application/json"})
    for _ in range(600):
        try:
            with urllib.request.urlopen(request) as answer:
                (folder / out).write_bytes(answer.read())
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the server does not answer")
