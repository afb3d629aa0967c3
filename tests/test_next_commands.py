"""The commands that a result names next: they are there after every verb, and they can be typed."""

from __future__ import annotations

import json
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from tenshot.autotune.options import CompileOptions
from tenshot.bench.options import BenchInferenceOptions, BenchTrainOptions
from tenshot.cli import verbs
from tenshot.cli.main import main
from tenshot.core.options import gather
from tenshot.generate.options import GenerateOptions
from tests.dreambooth_runs import GUIDE
from tests.test_adapter_files import a_lora


def accepted(line: str, **filled: Path) -> list[str]:
    """The words of `line` with what is to be filled in; Refusal where its verb does not take them."""
    words = [str(filled.get(word, word)) for word in shlex.split(line)[1:]]
    path = next(each for each in verbs.VERBS if tuple(words[: len(each)]) == each)
    module, name = verbs.VERBS[path].options.split(":")
    gather(getattr(import_module(module), name), words[len(path) :])
    return words


@pytest.fixture
def ui(tmp_path: Path) -> Path:
    (tmp_path / "ui/models").mkdir(parents=True)
    return tmp_path / "ui"


def test_every_look_ends_with_commands_that_can_be_typed(
    sd1: Path, tmp_path: Path, ui: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora, file = a_lora(sd1, tmp_path / "lora.safetensors"), tmp_path / "model.safetensors"
    looks = [f"convert {sd1} {file}", f"convert {lora} --to webui {ui} --trigger az", f"convert {sd1} --to webui {ui}"]
    for words in (*looks, f"inspect {sd1}", f"inspect {file}", f"inspect {lora}", "inspect pocket"):
        assert main([*words.split(), "--json"]) == 0, words
        lines = json.loads(capsys.readouterr().out)["next"]
        assert len(lines) > 1, words
        for line in lines:
            accepted(line, DIR=ui, MODEL=sd1, FOLDER=tmp_path / "fast")


def test_what_was_put_into_a_user_interface_is_drawn_from_there(
    sd1: Path, tmp_path: Path, ui: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = a_lora(sd1, tmp_path / "lora.safetensors")
    main(["convert", str(lora), "--to", "webui", str(ui), "--trigger", "az bear", "--json"])
    answer = json.loads(capsys.readouterr().out)
    words = accepted(answer["next"][0], MODEL=sd1)
    assert words[:1] == ["generate"] and answer["written"] in words and words[-1] == "az bear"


def test_what_no_user_interface_can_load_is_said_where_it_is_put_there(
    sd1: Path, tmp_path: Path, ui: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = a_lora(sd1, tmp_path / "lora.safetensors")
    assert main(["convert", str(lora), "--to", "webui", str(ui)]) == 0
    assert "AUTOMATIC1111 and Forge: its layers are" in capsys.readouterr().err


def test_a_look_is_told_in_words(sd1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(a_lora(sd1, tmp_path / "lora.safetensors"))]) == 0
    assert "rank.3 " in capsys.readouterr().out


def test_what_a_model_was_taught_is_drawn_next(guided: Path, sd1: Path, tmp_path: Path, capsys) -> None:
    def prompt(line: str) -> str:
        words = accepted(line)
        return words[words.index("--prompt") + 1]

    def compiled(model: Path | str, **given: object) -> str:
        return prompt(CompileOptions.model_validate({"model": str(model), "out": tmp_path, **given}).next_commands()[0])

    assert compiled(guided) == GUIDE["instance_prompt"]
    assert compiled(guided, prompt=["a tree"]) == "a tree"
    assert compiled(sd1) == "TEXT"
    assert "emoji" in compiled("pocket")
    for place, wanted in ((guided, GUIDE["instance_prompt"]), (sd1, "TEXT")):
        assert main(["inspect", str(place), "--json"]) == 0
        assert prompt(json.loads(capsys.readouterr().out)["next"][0]) == wanted
    (tmp_path / "manifest.json").write_text('{"arguments": {"instance_prompt": [1]}}')
    assert compiled(tmp_path) == "TEXT"


def test_more_pictures_are_of_the_same_kind(sd1: Path, tmp_path: Path) -> None:
    lora = a_lora(sd1, tmp_path / "lora.safetensors")
    drawn = {"model": str(sd1), "lora": [f"{lora}=0.5"], "prompt": ["az", "a bear"], "negative_prompt": "x", "seed": 3}
    (line,) = GenerateOptions(**drawn, out=tmp_path / "one.png").next_commands()
    again = gather(GenerateOptions, accepted(line)[1:])
    wanted = GenerateOptions(**drawn).model_copy(update={"seed": -1, "num_images": 8})
    assert again == wanted


def test_measures_end_with_what_to_do_now() -> None:
    assert BenchInferenceOptions().next_commands() == ("tenshot compile pocket --out FOLDER",)
    pictures = "--instance_data_dir FOLDER --instance_prompt TEXT"
    assert BenchTrainOptions(method=["lora"]).next_commands() == (f"tenshot train lora {pictures}",)
    accepted(BenchTrainOptions().next_commands()[1], FOLDER=Path())
