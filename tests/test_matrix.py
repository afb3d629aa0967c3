"""Sheets of all combinations of options: each cell is what the same options draw alone."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from tenshot.core.errors import Cancelled, Refusal
from tenshot.core.events import Events
from tenshot.core.options import gather, resolve
from tenshot.generate import generate, matrix
from tenshot.generate.options import GenerateOptions
from tenshot.io.png import read_infotext
from tenshot.runtime import compiled_model
from tests.infotext import parse_infotext


def options(sd1: Path, **given: Any) -> GenerateOptions:
    return resolve(GenerateOptions, {"model": str(sd1), "prompt": ["a bear"], "steps": 1, "batch_size": 1, **given})


def values(*written: str) -> list[list[str]]:
    return [list(each.values) for each in matrix.axes(GenerateOptions, written)]


def pixels(file: str | Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))


def test_values_are_written_as_in_webui():
    assert values("steps=10, 20,30", "sampler=Euler a,DPM++ 2M") == [["10", "20", "30"], ["Euler a", "DPM++ 2M"]]
    assert values("steps=1-5") == [["1", "2", "3", "4", "5"]]
    assert values("steps=1-10 (+2)") == [["1", "3", "5", "7", "9"]]
    assert values("steps=10-50 [5]") == [["10", "20", "30", "40", "50"]]
    assert values("steps=1-10 [5]") == [["1", "3", "6", "8", "10"]]
    assert values("guidance-scale=1-2 (+0.5), 7") == [["1", "1.5", "2", "7"]]
    assert values("steps=5-1 (-2)") == [["5", "3", "1"]]
    assert values("strength=0-1[3]") == [["0", "0.5", "1"]]
    assert values('prompt="a cat, old", a dog 1-3') == [["a cat, old", "a dog 1-3"]]


@pytest.mark.parametrize(
    "written",
    (
        *("steps", "steps=", "=3", "stps=1,2", "out=a,b", "matrix=x", "steps=1,,2", "steps=1-5 (+0)", "steps=1-5 (-1)"),
        *("steps=1-1000000", "steps=1-5 [0]", "steps=0,5", "sampler=Euler a,Oiler", "prompt_sr=cat,dog", "steps=1e999"),
        *("seed=1-999999999999999", "steps=999999999999999999999-1"),
    ),
)
def test_what_makes_no_sense_is_refused_before_anything_is_drawn(sd1: Path, tmp_path: Path, written: str):
    words = [f"--model={sd1}", "--prompt=a bear", "--matrix", "guidance_scale=1,7", "--matrix", written]
    with pytest.raises(Refusal) as refusal:
        gather(GenerateOptions, [*words, f"--out={tmp_path / 'out'}"])
    assert all(fault.where.startswith("--matrix") and fault.found for fault in refusal.value.faults)
    assert not [*tmp_path.iterdir()]


def test_faults_of_all_axes_come_at_once_and_once(sd1: Path, tmp_path: Path):
    axes = ["steps=1,0,-1", "guidance_scale=0,7,8"]
    with pytest.raises(Refusal) as refusal:
        gather(GenerateOptions, ["--prompt=x", f"--out={tmp_path / 'a.png'}", *(f"--matrix={each}" for each in axes)])
    assert [fault.where for fault in refusal.value.faults] == [
        "--matrix guidance_scale=0",
        "--matrix steps=0",
        "--matrix steps=-1",
        "--out",
    ]


def test_each_cell_is_what_its_options_draw_alone(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    loaded = []
    load = compiled_model.load
    monkeypatch.setattr(compiled_model, "load", lambda *a, **b: loaded.append(a) or load(*a, **b))
    axes = ["steps=1,2", "prompt_sr=bear,cat", "guidance_scale=3,7"]
    made = generate.generate(options(sd1, matrix=axes, out=tmp_path / "out"), Events())
    assert (len(made["pictures"]), len(made["sheets"]), len(loaded)) == (8, 2, 1)
    assert len({each["seed"] for each in made["pictures"]}) == 1  # left to chance, and the same for all
    told = [parse_infotext(read_infotext(Path(each["file"])) or "") for each in made["pictures"]]
    assert [(facts["Steps"], prompt, facts["CFG scale"]) for prompt, _, facts in told] == [
        (steps, f"a {animal}", scale) for steps in "12" for animal in ("bear", "cat") for scale in ("3.0", "7.0")
    ]
    last, seed = made["pictures"][-1], made["pictures"][-1]["seed"]
    alone = options(sd1, prompt=["a cat"], steps=2, guidance_scale=7, seed=seed, out=tmp_path / "alone.png")
    generate.generate(alone, Events())
    assert np.array_equal(pixels(tmp_path / "alone.png"), pixels(last["file"]))
    second = pixels(made["sheets"][1])  # its lower right picture is the last one
    side = pixels(last["file"]).shape[0]
    found = np.lib.stride_tricks.sliding_window_view(second[:, :, 0], (side, side))
    assert (found == pixels(last["file"])[:, :, 0]).all(axis=(2, 3)).sum() == 1
    facts = parse_infotext(read_infotext(Path(made["sheets"][0])) or "")[2]
    assert (facts["Script"], facts["X Type"], facts["X Values"]) == ("X/Y/Z plot", "steps", "1, 2")
    assert (facts["Y Values"], facts["Z Values"], facts["CFG scale"]) == ("bear, cat", "3, 7", "3.0")


class Stops(Events):
    def __init__(self) -> None:
        self.jobs = 0

    def begin(self, job: str, total: int, done: int = 0) -> None:
        self.jobs += job == "drawing"

    def cancelled(self) -> bool:
        return self.jobs > 2


def test_what_was_drawn_is_kept_on_a_sheet_when_it_is_stopped(sd1: Path, tmp_path: Path):
    with pytest.raises(Cancelled):
        generate.generate(options(sd1, matrix=["steps=1-4"], out=tmp_path, seed=3), Stops())
    assert len([*tmp_path.glob("000?-3-*.png")]) == 2
    assert len([*tmp_path.glob("grid-*.png")]) == 1


def test_cells_have_their_own_loras_and_models(
    sd1: Path, sd1_lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(sd1, tmp_path / "other")
    loaded = []
    load = compiled_model.load
    monkeypatch.setattr(compiled_model, "load", lambda *a, **b: loaded.append(a) or load(*a, **b))
    axes = [f"lora={sd1_lora},none", f"model={sd1},{tmp_path / 'other'}"]
    made = generate.generate(options(sd1, seed=1, matrix=axes, out=tmp_path / "out"), Events())
    generate.generate(options(sd1, seed=1, out=tmp_path / "bare.png"), Events())
    bare = pixels(tmp_path / "bare.png")
    with_lora = ["lora" in (read_infotext(Path(each["file"])) or "").split("\n")[0] for each in made["pictures"]]
    assert sorted(with_lora) == [False, False, True, True]
    assert [not np.array_equal(pixels(each["file"]), bare) for each in made["pictures"]] == with_lora
    assert len(loaded) == 4  # three of them for the sheet: both are looked at first, and one of them stays


def test_what_a_second_model_cannot_draw_is_told_before_the_first_picture(sd1: Path, sd35: Path, tmp_path: Path):
    for number, models in enumerate(([sd1, sd35], [sd35, sd1])):
        out = tmp_path / str(number)
        axes = [f"model={','.join(map(str, models))}", "hires_scale=1,8"]
        with pytest.raises(Refusal) as refusal:
            generate.generate(options(sd1, width=2104, height=72, matrix=axes, out=out), Events())
        found = [(fault.where, fault.found) for fault in refusal.value.faults]
        assert {where for where, _ in found} == {"--width", "--height", "--hires_scale"} and not out.exists()
        assert any("Stable Diffusion 3" in text for _, text in found) and any("16832x576" in text for _, text in found)


def test_what_comes_next_is_more_of_a_picture_on_the_sheet(sd1: Path, tmp_path: Path):
    given = options(sd1, matrix=["steps=1,2"], seed=7, out=tmp_path / "out", negative_prompt="x")
    (line,) = given.next_commands()
    (picture, *_) = generate.generate(given, Events())["pictures"]
    words = [picture["file"] if word == "PICTURE" else word for word in shlex.split(line)[2:]]
    more = gather(GenerateOptions, words)
    assert (more.num_images, more.seed, more.matrix, more.steps, more.model) == (8, -1, [], 1, str(sd1))
    assert (more.prompt, more.negative_prompt, more.batch_size, more.out) == (["a bear"], "x", 1, tmp_path / "out")
    (line,) = options(sd1, matrix=[f"model={sd1}", "steps=1,2"]).next_commands()
    assert "--model" not in line and "--steps" not in line and "--seed -1" in line


def test_all_strengths_are_tried_before_the_first_picture(sd1: Path, sd1_lora: Path, tmp_path: Path):
    with safe_open(sd1_lora, "pt") as file:
        huge = {name: file.get_tensor(name) * (1e37 if "lora_B" in name else 1) for name in file.keys()}
        save_file(huge, tmp_path / "huge.safetensors", file.metadata())
    axes = [f"lora=none,{sd1_lora},{tmp_path / 'huge.safetensors'}=1000"]
    with pytest.raises(Refusal, match="NaN or infinite"):
        generate.generate(options(sd1, matrix=axes, out=tmp_path / "out"), Events())
    assert not (tmp_path / "out").exists()


def test_a_grid_has_all_pictures_in_order(sd1: Path, tmp_path: Path):
    given = {"prompt": ["a bear", "a cat"], "num_images": 3, "seed": 5, "grid": True, "out": tmp_path}
    made = generate.generate(options(sd1, **given), Events())
    (sheet,) = made["sheets"]
    assert len(made["pictures"]) == 6 and read_infotext(Path(sheet)) == read_infotext(Path(made["pictures"][0]["file"]))
    whole, pictures = pixels(sheet), [pixels(each["file"]) for each in made["pictures"]]
    side = pictures[0].shape[0]
    found = [
        next(
            (top, left)
            for top in range(whole.shape[0] - side + 1)
            for left in range(whole.shape[1] - side + 1)
            if np.array_equal(whole[top : top + side, left : left + side], picture)
        )
        for picture in pictures
    ]
    rows, columns = ({place[axis] for place in found} for axis in (0, 1))
    assert found == sorted(found) and (len(rows), len(columns)) == (2, 3)


def test_a_grid_keeps_what_was_drawn(sd1: Path, tmp_path: Path):
    class Twice(Events):
        def __init__(self) -> None:
            self.seen = 0

        def cancelled(self) -> bool:
            self.seen = len([*tmp_path.glob("*.png")])
            return self.seen == 2

    with pytest.raises(Cancelled):
        generate.generate(options(sd1, num_images=4, grid=True, out=tmp_path), Twice())
    assert len([*tmp_path.glob("grid-*.png")]) == 1 and len([*tmp_path.glob("*.png")]) == 3


@pytest.mark.parametrize("more", [["--matrix", "steps=1,2", "--out", "out"], ["--out", "one.png"]])
def test_a_grid_is_no_matrix_and_no_single_picture(more: list[str], sd1: Path):
    with pytest.raises(Refusal) as refusal:
        gather(GenerateOptions, [f"--model={sd1}", "--prompt=a bear", "--grid", *more])
    assert len(refusal.value.faults) == 1
