"""The verb that draws: files and what they say, seeds, refusals."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import tenshot
from tenshot import pipeline
from tenshot.core import device
from tenshot.core.errors import Cancelled, Refusal
from tenshot.core.events import Events
from tenshot.core.options import gather, resolve
from tenshot.diffusion.samplers import SAMPLERS
from tenshot.generate import generate
from tenshot.generate.options import GenerateOptions
from tenshot.io.png import read_infotext
from tenshot.model import model
from tenshot.pipeline import Request, SamplingSettings
from tests.dreambooth_runs import Ear
from tests.infotext import parse_infotext

Draw = Callable[..., list[dict[str, Any]]]


class Heard(Events):
    """Asks to stop after so many steps of drawing."""

    def __init__(self, steps: int = 10**6) -> None:
        self.said, self.left, self.job = [], steps, ""

    def begin(self, job: str, total: int, done: int = 0) -> None:
        self.job = job

    def say(self, text: str) -> None:
        self.said.append(text)

    def cancelled(self) -> bool:
        self.left -= self.job == "drawing"
        return self.left < 0


def options(sd1: Path, out: Path, **given: Any) -> GenerateOptions:
    return resolve(GenerateOptions, {"model": str(sd1), "prompt": ["a bear"], "steps": 2, "out": out, **given})


@pytest.fixture
def draw(sd1: Path, tmp_path: Path) -> Draw:
    """Draw with the tiny model into a folder; the list of pictures comes back."""

    def drawn(events: Events | None = None, **given: Any) -> list[dict[str, Any]]:
        return generate.generate(options(sd1, given.pop("out", tmp_path / "out"), **given), events or Events())[
            "pictures"
        ]

    return drawn


def pixels(file: str | Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"), dtype=np.int16)


def test_a_picture_for_each_prompt_and_seed(draw: Draw, sd1: Path):
    made = draw(prompt=["a bear", "two cats"], seed=7, num_images=2, negative_prompt="blurry", batch_size=3)
    assert [(each["prompt"], each["seed"]) for each in made] == [
        *(("a bear", 7), ("a bear", 8)),
        *(("two cats", 7), ("two cats", 8)),
    ]
    assert len({each["file"] for each in made}) == 4
    (alone,) = pipeline.images(model.load(str(sd1)), [Request("two cats", 8, "blurry")], SamplingSettings(steps=2))
    assert np.abs(pixels(made[3]["file"]) - np.asarray(alone, dtype=np.int16)).max() <= 1


def test_the_infotext_says_how_to_draw_it_again(draw: Draw, sd1: Path, tmp_path: Path):
    given = {"negative_prompt": "dull, grey", "sampler": "DPM++ 2M Karras", "guidance_scale": 5.5, "width": 80}
    (made,) = draw(seed=3, height=48, **given)
    prompt, negative, facts = parse_infotext(read_infotext(Path(made["file"])) or "")
    assert (prompt, negative) == ("a bear", "dull, grey")
    assert facts.pop("Version").startswith("tenshot ")
    assert facts == {
        "Steps": "2",
        "Sampler": "DPM++ 2M",
        "Schedule type": "Karras",
        "CFG scale": "5.5",
        "Seed": "3",
        "Size": "80x48",
        "Model": sd1.name,
        "RNG": "CPU",
    }
    (again,) = draw(seed=int(facts["Seed"]), height=48, out=tmp_path / "again.png", **given)
    assert again["file"] == str(tmp_path / "again.png")
    assert (pixels(again["file"]) == pixels(made["file"])).all()
    assert Image.open(made["file"]).size == (80, 48)


def test_any_seed_is_recorded(draw: Draw):
    one, two = draw()[0], draw()[0]
    assert one["seed"] != two["seed"]
    (again,) = draw(seed=one["seed"])
    assert (pixels(again["file"]) == pixels(one["file"])).all()
    assert f"Seed: {one['seed']}" in (read_infotext(Path(one["file"])) or "")


def test_files_in_a_folder_are_never_overwritten(draw: Draw):
    first = draw(seed=1)[0]["file"]
    before = Path(first).read_bytes()
    assert Path(first).name == "0000-1-a-bear.png"
    second = draw(seed=1, guidance_scale=1)[0]["file"]
    assert second != first
    assert Path(first).read_bytes() == before


def test_a_png_that_was_named_is_replaced(draw: Draw, tmp_path: Path):
    file = tmp_path / "deep" / "bear.png"
    draw(seed=1, out=file)
    before = file.read_bytes()
    draw(seed=2, out=file)
    assert file.read_bytes() != before
    assert [path.name for path in file.parent.iterdir()] == ["bear.png"]


@pytest.mark.parametrize("prompt", ["…!?", "𠀀" * 200, "a/../../b\0c", ""])
def test_any_prompt_makes_a_file_name(draw: Draw, prompt: str, tmp_path: Path):
    (made,) = draw(prompt=[prompt], seed=2**63 - 1)
    assert Path(made["file"]).parent == tmp_path / "out"
    assert Path(made["file"]).is_file()


def test_every_fault_at_once_and_nothing_written(tmp_path: Path):
    words = f"--sampler 'Eulre a' --num_images 2 --out {tmp_path}/one.png --device meta --model {tmp_path}/nothing"
    with pytest.raises(Refusal) as refused:
        gather(GenerateOptions, shlex.split(f"{words} --stepps 3 --prompt cat --lora {tmp_path}/no.safetensors=0.5"))
    faults = {fault.where: fault for fault in refused.value.faults}
    assert faults.keys() == {"--sampler", "--out", "--device", "--model", "--stepps", "--lora"}
    assert ", ".join(SAMPLERS) in faults["--sampler"].fits and "did you mean Euler a?" in faults["--sampler"].do
    assert "2 pictures" in faults["--out"].found
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["cuda:99", "meta"])
def test_a_device_that_does_not_compute_is_refused(name: str, tmp_path: Path):
    with pytest.raises(Refusal, match="--device"):
        device.pick(name)


EXTREMES = "width=4611686018427387904 height=0 steps=100000 batch_size=9223372036854775807 seed=-9 guidance_scale=1e308"


@pytest.mark.parametrize("pair", EXTREMES.split())
def test_extreme_numbers_are_refused(pair: str):
    with pytest.raises(Refusal, match=pair.split("=")[0]):
        gather(GenerateOptions, ["--prompt", "a cat", f"--{pair}"])


@pytest.mark.parametrize("out", ("taken.txt", "taken.txt/deep", "taken.txt/deep/one.png"))
def test_a_file_is_no_folder(out: str, draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "taken.txt").touch()
    monkeypatch.setattr(pipeline, "stream", lambda *_: pytest.fail("it is drawing"))
    with pytest.raises(Refusal, match=r"taken\.txt is a file"):
        draw(out=tmp_path / out)


class TestLorasByName:
    @pytest.fixture
    def folder(self, sd1_lora: Path, tmp_path: Path) -> Path:
        """az.safetensors, and b in a folder as diffusers has it."""
        for place in ("loras/sub/az.safetensors", "loras/b/pytorch_lora_weights.safetensors"):
            (tmp_path / place).parent.mkdir(parents=True)
            shutil.copyfile(sd1_lora, tmp_path / place)
        return tmp_path / "loras"

    def test_a_lora_in_the_prompt_is_one_beside_it(self, draw: Draw, folder: Path):
        tagged, plain, bare = (
            draw(seed=1, **each)[0]
            for each in (
                {"prompt": ["a bear <lora:az:0.8>"], "lora_dir": [folder]},
                {"prompt": ["a bear "], "lora": [f"{folder / 'sub/az.safetensors'}=0.8"]},
                {"prompt": ["a bear "]},
            )
        )
        assert (pixels(tagged["file"]) == pixels(plain["file"])).all()
        assert (pixels(tagged["file"]) != pixels(bare["file"])).any()
        (said, _, told), (more, _, beside) = (
            parse_infotext(read_infotext(Path(each["file"]))) for each in (tagged, plain)
        )
        assert tagged["prompt"] == said == "a bear <lora:az:0.8>" and "<lora:az:0.8>" in more
        assert told["Lora hashes"] == beside["Lora hashes"]

    def test_each_prompt_has_its_own(self, draw: Draw, folder: Path):
        given = ["a bear <lora:az:1>", "a bear ", "a bear <lora:b:-1>", "a bear <lora:az:0.4><lora:b:0.6>"]
        together = [pixels(each["file"]) for each in draw(seed=1, prompt=given, lora_dir=[folder], batch_size=1)]
        alone = [pixels(draw(seed=1, prompt=[each], lora_dir=[folder])[0]["file"]) for each in given]
        assert all((a == b).all() for a, b in zip(together, alone, strict=True))
        assert (together[0] != together[1]).any() and (together[2] != together[1]).any()
        assert np.abs(together[3] - together[0]).max() <= 1  # both are the same file

    def test_text_encoder_and_unet_apart(self, draw: Draw, folder: Path, sd1: Path, sd1_lora: Path):
        """WebUI's order: the text encoder first."""
        made = [
            draw(seed=1, prompt=[f"a bear {tag}"], lora_dir=[folder])[0] for tag in ("<lora:az:0:1>", "<lora:az:1:0>")
        ]
        both = pixels(draw(seed=1, prompt=["a bear <lora:az>"], lora_dir=[folder])[0]["file"])
        assert (pixels(made[0]["file"]) != pixels(made[1]["file"])).any() and (pixels(made[0]["file"]) != both).any()
        opened = tenshot.load(sd1)
        opened.set_loras({sd1_lora: (0.0, 1.0)})
        plain, whole = tenshot.load(sd1), tenshot.load(sd1)
        whole.set_loras({sd1_lora: 1.0})
        for part, like in (("text_encoder", plain), ("unet", whole)):
            mine, theirs = opened[part].state_dict(), like[part].state_dict()
            assert all(torch.equal(mine[name], theirs[name]) for name in theirs)

    def test_what_makes_no_numbers_is_refused_before_the_first_picture(
        self, draw: Draw, sd1_lora: Path, tmp_path: Path
    ):
        with safe_open(sd1_lora, "pt") as file:
            huge = {name: file.get_tensor(name) * (1e37 if "lora_B" in name else 1) for name in file.keys()}
            save_file(huge, tmp_path / "huge.safetensors", file.metadata())
        with pytest.raises(Refusal) as told:
            draw(prompt=["a", "a <lora:huge:1e-35>", "a <lora:huge:1000>", "<lora:huge:-999>"], lora_dir=[tmp_path])
        assert "NaN or infinite" in str(told.value) and not (tmp_path / "out").exists()
        assert len(draw(prompt=["a", "a <lora:huge:1e-35>"], lora_dir=[tmp_path])) == 2

    def test_what_is_not_there_is_refused_by_name_with_the_nearest(self, draw: Draw, folder: Path, tmp_path: Path):
        shutil.copyfile(folder / "sub/az.safetensors", folder / "az.safetensors")
        with pytest.raises(Refusal) as told:
            draw(prompt=["a <lora:bzz> <lora:az>", "<lora:aZ2:1>", "<lora:b:1e9>"], lora_dir=[folder])
        found = [str(fault) for fault in told.value.faults]
        assert len(found) == 4 and "<lora:bzz>: no LoRA of that name" in found[0] and "2 files" in found[1]
        assert "<lora:aZ2>" in found[2] and "would fit: az" in found[2] and "1e+09" in found[3]
        assert not (tmp_path / "out").exists()

    def test_strengths_that_are_no_numbers_and_hypernetworks_are_refused(self, draw: Draw):
        with pytest.raises(Refusal) as told:
            draw(prompt=["a <lora:az:much>", "a <hypernet:x:1>"])
        assert ["no numbers" in told.value.faults[0].found, "hypernet" in told.value.faults[1].found] == [True, True]

    def test_a_name_in_a_header_counts_and_case_does_not(self, draw: Draw, folder: Path):
        with safe_open(folder / "sub/az.safetensors", "pt") as file:
            known = {"ss_output_name": "told", **(file.metadata() or {})}
            save_file({name: file.get_tensor(name) for name in file.keys()}, folder / "strange-1.safetensors", known)
        made = [draw(seed=1, prompt=[f"a bear <lora:{name}:1>"], lora_dir=[folder])[0] for name in ("told", "AZ", "az")]
        first, *others = (pixels(each["file"]) for each in made)
        assert all((first == each).all() for each in others)

    def test_without_folders_the_usual_ones_are_searched(
        self, draw: Draw, folder: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.chdir(folder.parent)
        assert draw(prompt=["<lora:az:1>"]) and draw(prompt=["<lora:b:1>"])


def test_what_has_no_effect_is_said_aloud(draw: Draw, sdxl: Path):
    heard = Heard()
    draw(events=heard, prompt=["x " * 200 + "(bear:1.2)"], negative_prompt="<lora:az:1>", clip_skip=2)
    assert heard.said == ["<lora:az> in the negative prompt has no effect, as in WebUI"]
    heard.said.clear()
    draw(events=heard, model=str(sdxl), clip_skip=2)
    assert heard.said == ["--clip_skip has no effect on Stable Diffusion XL, as in WebUI"]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"clip_skip": 12}, "--clip_skip: 12, and the model's text encoder has"),
        ({"prompt": [f"a (b:{'9' * 40})"]}, "has a weight of 1e+40"),
        ({"prompt": ["(" * 3000 + "a"]}, "has a weight of"),
        ({"prompt": ["a AND b :99999"]}, "has a weight of 99999"),
        ({"negative_prompt": f"(b:{'9' * 400})"}, "has a weight of inf"),
        ({"prompt": ["<lora:az:1:1:1>"]}, "3 strengths"),
        ({"prompt": ["<lora:az:1:dyn=4>"]}, "dyn=4 is not known"),
        ({"mask_blur": 9.0}, "--mask_blur: without --mask"),
        ({"only_masked_padding": 9}, "--only_masked_padding: without --only_masked"),
        ({"variation_seed": 9}, "--variation_seed: without --variation_strength"),
        ({"canny_low": 9}, "--canny_low: without --controlnet"),
        ({"mask_content": "fill"}, "--mask_content: without --mask"),
        ({"negative_prompt": "<lora:az:much>"}, "--negative_prompt: <lora:az:much>"),
    ],
)
def test_what_would_have_no_effect_or_no_sense_is_refused(
    draw: Draw, given: dict[str, Any], found: str, tmp_path: Path
):
    with pytest.raises(Refusal) as told:
        draw(**given)
    assert found in str(told.value) and len(told.value.faults) == 1
    assert not (tmp_path / "out").exists()


def test_an_empty_prompt_is_said_aloud(draw: Draw):
    heard = Heard()
    draw(events=heard, prompt=["a", " "])
    draw(events=heard, prompt=["a"])
    assert heard.said == ["a prompt is empty: the model draws what it likes"]


@pytest.mark.parametrize("option", ["model", "lora", "controlnet", "vae", "embedding"])
def test_empty_names_are_refused(option: str):
    with pytest.raises(Refusal) as told:
        gather(GenerateOptions, ["--prompt", "a", f"--{option}", ""])
    assert [each.where for each in told.value.faults if "empty name" in each.found] == [f"--{option}"]


def test_a_negative_prompt_without_guidance_is_said_aloud(draw: Draw):
    heard = Heard()
    draw(events=heard, negative_prompt="blurry", guidance_scale=1)
    assert heard.said == ["the negative prompt has no effect: --guidance_scale is 1"]


def test_infotext_says_how_prompts_were_read(draw: Draw):
    (made,) = draw(prompt=["a (bear:1.2)"], clip_skip=2, emphasis="no_norm")
    prompt, _, told = parse_infotext(read_infotext(Path(made["file"])))
    assert (told["Clip skip"], told["Emphasis"], prompt) == ("2", "No norm", "a (bear:1.2)")
    (made,) = draw()
    assert not {"Clip skip", "Emphasis"} & parse_infotext(read_infotext(Path(made["file"])))[2].keys()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_draws_nearly_the_same(draw: Draw, precision: str):
    whole, half = (pixels(draw(seed=4, precision=each)[0]["file"]) for each in ("fp32", precision))
    assert (whole != half).any()
    assert np.abs(whole - half).mean() < 6
    assert half.std() > 4


def test_the_vae_does_not_overflow_in_fp16(sd1: Path):
    opened = model.load(str(sd1), precision="fp16")
    assert (opened.dtype, opened["vae"].dtype) == (torch.float16, torch.float32)


def test_a_model_is_seen_to_load(sd1: Path, sd1_fast: Path, tmp_path: Path):
    for place, loaded in ((sd1, ["loading the model"]), (sd1_fast, ["loading the model", "loading its programs"])):
        ear = Ear()
        generate.generate(options(place, tmp_path), ear)
        assert ear.jobs == [*loaded, "drawing"]


def test_what_was_drawn_before_a_stop_is_kept(draw: Draw, tmp_path: Path):
    with pytest.raises(Cancelled):
        draw(events=Heard(steps=5), num_images=6, batch_size=2, seed=1)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "0000-1-a-bear.png",
        "0000-2-a-bear.png",
        "0000-3-a-bear.png",
        "0000-4-a-bear.png",
    ]
