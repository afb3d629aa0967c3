"""Names of the Hugging Face hub as every verb takes them, and as results have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel

from tenshot.autotune.options import CompileOptions
from tenshot.cli.main import main
from tenshot.cli.verbs import VERBS, load
from tenshot.core.events import Events
from tenshot.core.option_markers import There, marked
from tenshot.core.options import gather
from tenshot.generate import plan
from tenshot.generate.options import GenerateOptions
from tenshot.io.images import open_picture
from tenshot.model import hub, model
from tests.hub_server import Hub


def words_of(name: str, verb: tuple[str, ...], tmp_path: Path, pictures: Path) -> list[str]:
    """What to type after a verb, with everything by its name."""
    taught = [
        "--instance_data_dir",
        pictures,
        "--instance_prompt",
        "az",
        "--max_train_steps",
        "1",
        "--report_to",
        "none",
    ]
    taught = [*taught, "--pretrained_model_name_or_path", name, "--device", "cpu"]
    out, file = tmp_path / "out", tmp_path / "out.safetensors"
    words = {
        ("inspect",): [name],
        ("convert",): [name, file, "--vae", f"{name}:vae"],
        ("merge",): ["--sd_model", name, "--models", f"{name}-lora", "--save_to", file],
        ("extract",): [f"{name}-tuned", "--base", name, "--rank", "1", "--out", file],
        ("resize",): [f"{name}-lora", "--config", name, "--rank", "1", "--out", file],
        ("train", "lora"): [*taught, "--start_from", f"{name}-lora", "--train_text_encoder", "--output_dir", out],
    }
    return [*verb, *map(str, words[verb])]


@pytest.mark.parametrize("verb", [("inspect",), ("convert",), ("merge",), ("extract",), ("resize",), ("train", "lora")])
def test_verbs_do_with_names_what_they_do_with_paths(
    verb: tuple[str, ...], served: Hub, sd1: Path, sd1_tuned: Path, sd1_lora: Path, pictures: Path, tmp_path: Path
):
    commit = served.add("somebody/tiny", sd1)
    served.add("somebody/tiny-tuned", sd1_tuned)
    served.add("somebody/tiny-lora", {"az.safetensors": sd1_lora.read_bytes()})
    assert main(words_of("somebody/tiny", verb, tmp_path, pictures)) == 0
    if verb != ("train", "lora"):
        return
    recipe = (tmp_path / "out" / "recipe.yaml").read_text()
    assert f"pretrained_model_name_or_path: somebody/tiny@{commit}\n" in recipe
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())["arguments"]
    assert told["pretrained_model_name_or_path"] == f"somebody/tiny@{commit}"
    assert told["start_from"].startswith("somebody/tiny-lora@") and told["start_from"].endswith(":az.safetensors")


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_looks_for_names_first(verb: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    """Or has no option that names a model or what belongs to one."""
    kind = load(VERBS[verb].options)

    class Seen(Exception):
        pass

    def fetched(*_: object) -> None:
        raise Seen

    monkeypatch.setattr(hub, "fetched", fetched)
    marks = [mark for about in kind.model_fields.values() for mark, _ in marked(about, "x", There) if mark.hub]
    if marks:
        with pytest.raises(Seen):
            load(VERBS[verb].run)(kind.model_construct(), Events())
    else:
        assert verb == ("bench", "train")


def test_what_a_name_is_called_in_results(
    served: Hub,
    sd1: Path,
    sd1_lora: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    commit = served.add("somebody/tiny", sd1)
    served.add("somebody/loras", {"sub/az.safetensors": sd1_lora.read_bytes()})
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "somebody/tiny", "--half", "--json"]) == 0
    assert main(["convert", "somebody/loras", "--config", "somebody/tiny", "--json"]) == 0
    assert main(["inspect", "somebody/tiny:unet", "--json"]) == 0
    *written, looked = map(json.loads, capsys.readouterr().out.splitlines())
    assert [each["written"] for each in written] == ["tiny.safetensors", "az-converted.safetensors"]
    assert looked["source"] == f"somebody/tiny@{commit}:unet"
    assert "tenshot convert somebody/tiny:unet RESULT" in looked["next"]


def test_a_prompt_names_a_lora_of_the_hub(
    served: Hub, sd1: Path, sd1_lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    served.add("somebody/az-lora", {"az.safetensors": sd1_lora.read_bytes()})
    draw = ["generate", "--model", str(sd1), "--seed", "1", "--steps", "2", "--device", "cpu", "--out"]
    assert main([*draw, str(tmp_path / "tag.png"), "--prompt", "a cat <lora:somebody/az-lora:0.7>"]) == 0
    assert main([*draw, str(tmp_path / "option.png"), "--prompt", "a cat", "--lora", "somebody/az-lora=0.7"]) == 0
    assert main([*draw, str(tmp_path / "without.png"), "--prompt", "a cat"]) == 0
    tag, option, without = (open_picture(tmp_path / f"{n}.png").tobytes() for n in ("tag", "option", "without"))
    assert tag == option != without
    assert main([*draw, str(tmp_path / "none.png"), "--prompt", "a cat <lora:somebody/else>"]) == 2
    assert "--prompt: somebody/else" in capsys.readouterr().err and not (tmp_path / "none.png").exists()


def weights_asked(served: Hub) -> list[str]:
    return [path for method, path, _ in served.asked if method == "GET" and path.endswith(".safetensors")]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--prompt", "a <lora:somebody/az-lora> <lora:nobody>"], ["<lora:nobody>"]),
        (["--prompt", "a <lora:somebody/az-lora> <lora:somebody/none>"], ["somebody/none"]),
        (["--prompt", "a <lora:somebody/az-lora>", "--lora", "no.safetensors"], ["no.safetensors"]),
        (["--prompt", "a <lora:nobody>", "--steps", "0"], ["<lora:nobody>", "--steps"]),
        (["--prompt", "a <lora:somebody/none>", "--steps", "0"], ["somebody/none", "--steps"]),
        (["--prompt", "a", "--matrix", "model=somebody/tiny,somebody/none"], ["somebody/none"]),
        (["--prompt", "a", "--matrix", "lora=somebody/az-lora,no.safetensors"], ["no.safetensors"]),
        (["--prompt", "a", "--matrix", "prompt=a <lora:somebody/az-lora>,a <lora:nobody>"], ["<lora:nobody>"]),
    ],
)
def test_nothing_is_fetched_before_all_faults_are_told(
    words: list[str],
    found: list[str],
    served: Hub,
    sd1: Path,
    sd1_lora: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    served.add("somebody/az-lora", {"az.safetensors": sd1_lora.read_bytes()})
    served.add("somebody/tiny", sd1)
    monkeypatch.chdir(tmp_path)
    Path("no.safetensors").write_bytes(b"no")
    assert main(["generate", "--model", str(sd1), *words]) == 2
    told = capsys.readouterr().err
    assert all(each in told for each in found) and not weights_asked(served) and not Path("out").exists()


def test_options_of_names_are_checked_once(served: Hub, sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    served.add("somebody/tiny", sd1)
    words = ["--model", "somebody/tiny", "--prompt", "a", "--steps", "1", "--out", str(tmp_path / "a.png")]
    options, seen = gather(GenerateOptions, words), []
    faults = GenerateOptions.faults
    monkeypatch.setattr(GenerateOptions, "faults", lambda self: seen.append(self) or faults(self))
    plan.read(options, Events())
    assert len(seen) == 1


def test_a_controlnet_by_name_in_half_precision(served: Hub, sd1: Path, tmp_path: Path):
    made = ControlNetModel.from_unet(model.load(str(sd1))["unet"]).half()
    made.save_pretrained(tmp_path / "net", variant="fp16")
    served.add("somebody/canny", tmp_path / "net")
    words = [str(sd1), "--out", str(tmp_path / "out"), "--controlnet", "somebody/canny"]
    place = hub.fetched(gather(CompileOptions, words), Events()).controlnet
    read = model.load_controlnet(place, "cpu")
    assert read.dtype == torch.float32
    assert all(torch.equal(one, other.float()) for one, other in zip(read.parameters(), made.parameters(), strict=True))


def test_wrong_words_and_wrong_names_are_told_together(served: Hub, capsys: pytest.CaptureFixture):
    assert main(["generate", "--model", "somebody/none", "--steps", "0", "--prompt", "a"]) == 2
    told = capsys.readouterr().err
    assert "--steps" in told and "shows no repository of that name" in told
