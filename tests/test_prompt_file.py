"""Prompts from files, beside those of the command line."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.options import gather
from tenshot.generate import generate, prompt_options
from tenshot.generate.options import GenerateOptions
from tenshot.io.png import read_infotext

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
    (tmp_path / "a.txt").write_text("fine\n# x\n<lora:az:much>\n(heavy:9999)\n--prompt x --steps 0\n")
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    (tmp_path / "odd.txt").write_bytes("caf\u00e9".encode("latin-1"))
    names = ("a.txt", "empty.txt", "odd.txt", "none.txt")
    with pytest.raises(Refusal) as refusal:
        prompts(*(f"--prompt_file={tmp_path / name}" for name in names), "--steps=0")
    told = [fault.where for fault in refusal.value.faults]
    assert [where.rpartition(", ")[2] for where in told[:3]] == ["line 3", "line 4", "line 5: --steps"]
    assert [name in where for name, where in zip(names[1:], told[3:6], strict=True)] == [True] * 3
    assert told[6:] == ["--steps"]  # and not that --prompt is needed


#: As WebUI's "Prompts from file or textbox" reads them: words without quotation marks belong to a text before them.
WEBUI = """a dog
--prompt "a cat, (old:1.2)" --negative_prompt ugly red paws --seed 3 --steps 2 --cfg_scale 4.5 --width 72 --height 64
--prompt two words --sampler_name "dpm++ 2m karras" --n_iter 2 --batch_size 2 --restore_faces false
--seed 4 --prompt two words --subseed_strength 0.25 --subseed 5
"""


def test_lines_with_options_are_read_as_in_webui(tmp_path: Path):
    (tmp_path / "a.txt").write_text(WEBUI)
    said: list[str] = []
    words = [f"--prompt_file={tmp_path / 'a.txt'}", "--prompt", "first", "--steps", "9", "--seed", "1"]
    options = gather(GenerateOptions, words, said.append)
    assert options.prompt == ["first", "a dog", "a cat, (old:1.2)", "two words", "two words"]
    assert len(said) == 1 and "line 3: --restore_faces false" in said[0]
    apart = prompt_options.split(options, options.prompt, options.prompt_options)
    assert [each.prompt for each in apart] == [["first", "a dog"], ["a cat, (old:1.2)"], ["two words"], ["two words"]]
    assert [each.steps for each in apart] == [9, 2, 9, 9] and [each.seed for each in apart] == [1, 3, 1, 4]
    assert [each.num_images for each in apart] == [1, 1, 4, 1] and not any(each.prompt_options for each in apart)
    cat, two, last = apart[1:]
    assert (cat.negative_prompt, cat.guidance_scale, cat.width, cat.height) == ("ugly red paws", 4.5, 72, 64)
    assert two.sampling == ("DPM++ 2M", "karras") and (last.variation_strength, last.variation_seed) == (0.25, 5)
    (line,) = options.next_commands()
    again = gather(GenerateOptions, shlex.split(line)[2:])
    assert (again.prompt, again.prompt_options) == (options.prompt, options.prompt_options)


def test_files_with_options_and_without_go_together(tmp_path: Path):
    (tmp_path / "a").write_text("--prompt a1 --steps 2\na2")
    (tmp_path / "b").write_text("b1\nb2")
    (tmp_path / "c").write_text("--prompt c1 --seed 7")
    given = [f"--prompt_file={tmp_path / name}" for name in "abc"]
    options = gather(GenerateOptions, [*given, "--prompt", "x", "--seed", "1"])
    apart = prompt_options.split(options, options.prompt, options.prompt_options)
    assert [(each.prompt, each.steps, each.seed) for each in apart] == [
        *((["x"], 20, 1), (["a1"], 2, 1), (["a2", "b1", "b2"], 20, 1), (["c1"], 20, 7)),
    ]
    assert gather(GenerateOptions, given[1:2]).prompt_options == []


LINES_AT_FAULT = """--prompt a --stps 3
--prompt a --steps 3 4
--prompt a --steps
--steps 3
--prompt a --steps many --seed -7
--prompt the cat's hat
--prompt a --tiling true
--prompt a --styles old
--prompt a --sampler_index 3
--prompt a --steps 3 --steps 4
--prompt a --n_iter 0.5
--prompt a --matrix steps=1,2
--prompt a --negative_prompt (x:9999)
a cat --steps 3
--prompt a --n_iter 9999 --batch_size 9999
--prompt a --sampler_name Restart
"""


def test_all_faults_of_lines_with_options_come_at_once(tmp_path: Path):
    (tmp_path / "a.txt").write_text(LINES_AT_FAULT)
    with pytest.raises(Refusal) as refusal:
        prompts(f"--prompt_file={tmp_path / 'a.txt'}", "--guidance_scale", "0")
    told = [fault.where.rpartition(", line ")[2] for fault in refusal.value.faults]
    assert told == [
        *("1: --stps", "2: --steps", "3: --steps", "4", "5: --seed", "5: --steps", "6", "7: --tiling", "8: --styles"),
        *("9: --sampler_index", "10: --steps", "11: --n_iter", "12: --matrix", "13", "14"),
        *("15: --n_iter or --batch_size", "16: --sampler_name", "--guidance_scale"),
    ]
    assert "--steps" in refusal.value.faults[0].fits


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--prompt_options", "steps=0"], "--prompt 'a' steps"),
        (["--prompt_options", "steps"], "--prompt 'a'"),
        (["--prompt_options", "steps='3"], "--prompt 'a'"),
        (["--prompt_options", "stps=3"], "--prompt 'a' stps"),
        (["--prompt_options", "strength=0.3"], "--prompt 'a' strength"),
        (["--prompt_options", "steps=3", "seed=4"], "--prompt_options"),
        (["--prompt_options", "steps=3", "--matrix", "seed=1,2"], "--matrix"),
        (["--prompt_options", "num_images=2", "--out", "a.png"], "--out"),
    ],
)
def test_options_of_a_prompt_that_make_no_sense_are_refused(words: list[str], found: str):
    with pytest.raises(Refusal) as refusal:
        gather(GenerateOptions, ["--prompt", "a", *words])
    assert [fault.where for fault in refusal.value.faults] == [found]


def test_each_line_is_drawn_as_its_options_alone_draw_it(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("--prompt bear --steps 1 --width 72\n--prompt cat --steps 2 --seed 5 --n_iter 2\nbear")
    words = ["--model", str(sd1), "--batch_size", "1", "--steps", "3", "--seed", "2"]
    made = generate.generate(gather(GenerateOptions, [*words, "--prompt_file", "a.txt", "--grid"]), Events())
    assert [(each["prompt"], each["seed"]) for each in made["pictures"]] == [
        *(("bear", 2), ("cat", 5), ("cat", 6), ("bear", 2)),
    ]
    alone = (["--prompt=bear", "--steps=1", "--width=72"], ["--prompt=cat", "--steps=2", "--seed=5"], ["--prompt=bear"])
    for number, more in zip((0, 1, 3), alone, strict=True):
        (one,) = generate.generate(gather(GenerateOptions, [*words, *more, "--out=b.png"]), Events())["pictures"]
        found = Path(made["pictures"][number]["file"])
        assert read_infotext(found) == read_infotext(Path(one["file"]))
        assert (np.asarray(Image.open(found)) == np.asarray(Image.open(one["file"]))).all()


def test_no_line_is_drawn_where_another_one_cannot_be(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("bear\n--prompt cat --lora none.safetensors\n--prompt cat --width 16 --model nothing")
    options = gather(GenerateOptions, ["--model", str(sd1), "--prompt_file", "a.txt"])
    with pytest.raises(Refusal) as refusal:
        generate.generate(options, Events())
    assert len(refusal.value.faults) == 2 and not Path("out").exists()
