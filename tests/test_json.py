"""What programs read: every key is documented, in snake_case, and every figure a number."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints, is_typeddict

import pytest

from tenshot.cli import verbs
from tenshot.cli.main import main
from tenshot.cli.output import Outlet

PAGE = (Path(__file__).parent.parent / "docs/json.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0].strip(): part for part in PAGE.split("\n## ")[1:]}
UNITS = re.compile(r"^-?[\d.,]+ ?(s|ms|B|kB|KB|MB|GB|MiB|GiB|%|numbers|minutes|times)$")


def keys(value: Any, verb: str) -> Iterator[str]:
    """Those that have to be documented, at every depth; what is in a map is data."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield key
            if f"`{key}` *map*" not in SECTIONS[verb]:
                yield from keys(each, verb)
    elif isinstance(value, list):
        for each in value:
            yield from keys(each, verb)


def typed_keys(kind: object, section: str) -> Iterator[str]:
    """The keys of a typed record, at every depth that is no map."""
    for inner in get_args(kind):
        yield from typed_keys(inner, section)
    for key, each in get_type_hints(kind).items() if is_typeddict(kind) else ():
        yield key
        if f"`{key}` *map*" not in section:
            yield from typed_keys(each, section)


@pytest.mark.parametrize("path", verbs.VERBS, ids=" ".join)
def test_every_key_that_a_verb_may_tell_is_documented(path: verbs.Name):
    module, name = verbs.VERBS[path].run.split(":")
    told = get_type_hints(getattr(import_module(module), name))["return"]
    section = SECTIONS[" ".join(path) if " ".join(path) in SECTIONS else path[0]]
    assert is_typeddict(told)
    strange = {key for key in typed_keys(told, section) if f"`{key}`" not in section + PAGE.partition("\n## ")[0]}
    assert not strange


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts(each)
    elif isinstance(value, str):
        yield value


def test_every_answer_is_as_documented(
    sd1: Path, sd1_tuned: Path, guided: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ui/models").mkdir(parents=True)
    lora, file = tmp_path / "lora.safetensors", tmp_path / "model.safetensors"
    commands = [
        f"generate --model {sd1} --prompt bear --steps 1 --out {tmp_path}/p.png",
        f"convert {sd1} {file}",
        f"convert {file} {tmp_path}/folder",
        f"convert {sd1}/vae {tmp_path}/vae.safetensors",
        f"extract {sd1_tuned} --base {sd1} --out {lora}",
        f"resize {lora} --rank 1 --out {tmp_path}/small.safetensors",
        f"merge --sd_model {sd1} --models {lora} --save_to {tmp_path}/merged.safetensors",
        f"merge --models {lora} --save_to {tmp_path}/both.safetensors",
        f"convert {lora} --to webui {tmp_path}/ui",
        *(f"inspect {path}" for path in (sd1, file, lora, tmp_path / "vae.safetensors")),
    ]
    answers = [("train", json.loads((guided / "manifest.json").read_text()))]
    for command in commands:
        assert main([*command.split(), "--json"]) == 0, command
        answers.append((command.split()[0], json.loads(capsys.readouterr().out)))
    for command in commands[-4:]:
        assert main(command.split()) == 0, command  # the same for people
    assert re.search(r"^rank\.\d+ ", capsys.readouterr().out, re.MULTILINE)
    for verb, answer in answers:
        told = {name: each for name, each in answer.items() if verb != "train" or name not in FREE}
        strange = {key for key in keys(told, verb) if f"`{key}`" not in SECTIONS[verb] + PAGE.partition("\n## ")[0]}
        assert not strange, verb
        assert not [key for key in keys(told, verb) if not re.fullmatch("[a-z][a-z0-9_]*", key)], verb
        assert not [text for text in texts(told) if UNITS.match(text)], verb
        assert verb == "train" or answer["next"]


def test_every_figure_is_told_with_its_unit(capsys: pytest.CaptureFixture[str]) -> None:
    given = {
        "seconds": 3, "load_seconds": 2.5, "seconds_torch": 0.25, "forecast": {"seconds_per_step": 0.5, "steps": 2},
        "seconds_by_phase": {"training": 4.0}, "peak_memory_bytes_without_libraries": 2e6,
        "speedup_by_cpu_seconds": 1.5, "steps_per_second": 7,
    }  # fmt: skip
    Outlet(as_json=False).result(given)
    rows = [re.split("  +", line) for line in capsys.readouterr().out.splitlines()]
    assert [value for _, value in rows] == ["3 s", "2.5 s", "0.25 s", "0.5 s", "2", "4 s", "2.0 MB", "1.5", "7"]


FREE = ("options", "inputs", "machine", "versions", "arguments")  # as the run's own options and files are called
