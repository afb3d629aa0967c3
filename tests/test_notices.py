"""What was given and changes nothing is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tenshot.core.options import resolve
from tenshot.io.image_folder import read_folder
from tenshot.model import model
from tenshot.train import notices
from tenshot.train.options import LoraOptions, TextualInversionOptions
from tests import tiny
from tests.dreambooth_runs import Bench, Ear

PRIOR = {"with_prior_preservation": True, "class_prompt": "a cat"}


def lines(**given: Any) -> list[str]:
    return list(notices.options(resolve(LoraOptions, given)))


@pytest.mark.parametrize(("given", "beside"), [
    ({"class_prompt": "a cat"}, {"with_prior_preservation": True}),
    ({"num_class_images": 7}, PRIOR),
    ({"prior_loss_weight": 0.5}, PRIOR),
    ({"sample_batch_size": 2}, PRIOR),
    ({"num_validation_images": 2}, {"validation_prompt": "a cat"}),
    ({"validation_steps": 2}, {"validation_prompt": "a cat"}),
    ({"validation_epochs": 2}, {"validation_prompt": "a cat"}),
    ({"ema_decay": 0.9}, {"use_ema": True}),
    ({"huber_c": 0.2}, {"loss_type": "huber"}),
    ({"torch_compile_backend": "eager"}, {"torch_compile": True}),
    ({"lr_num_cycles": 2}, {"lr_scheduler": "cosine_with_restarts"}),
    ({"lr_power": 2}, {"lr_scheduler": "polynomial"}),
    ({"bucket_step": 8}, {"aspect_ratio_buckets": True}),
    ({"keep_tags": 2}, {"shuffle_tags": True}),
    ({"tracker_project_name": "cat"}, {"report_to": "wandb"}),
], ids=lambda given: " ".join(given))  # fmt: skip
def test_options_that_want_others(given: dict[str, Any], beside: dict[str, Any]):
    assert lines() == []
    (line,) = lines(**given)
    (name,) = given
    assert line.startswith(f"--{name} has no effect without --{next(iter(beside))}")
    assert lines(**given, **beside) == []


@pytest.mark.parametrize(("given", "optimizer"), [({"adam_beta1": 0.5}, "adafactor"), ({"adam_epsilon": 1e-6}, "lion")])
def test_options_of_other_optimizers(given: dict[str, Any], optimizer: str):
    assert lines(**given) == []
    assert "no effect" in lines(**given, optimizer=optimizer)[0]


def test_steps_win_over_epochs():
    given = {"validation_prompt": "a cat", "validation_steps": 2}
    assert lines(**given) == []
    assert lines(**given, validation_epochs=3) == ["--validation_epochs has no effect beside --validation_steps"]


def test_prompts_and_captions(sd1: Path, tmp_path: Path):
    base, folder = model.load(str(sd1)), tiny.pictures(tmp_path, 2)

    def said(prompt: str, kind: Any = LoraOptions, **given: Any) -> list[str]:
        return list(notices.captions(resolve(kind, given), prompt, read_folder(folder), base))

    words = {"train_data_dir": ".", "placeholder_token": ["<az>"], "initializer_token": ["a"]}
    assert list(notices.words(resolve(TextualInversionOptions, words | {"validation_prompt": "an <AZ> cat"}))) == []
    mute = resolve(TextualInversionOptions, words | {"validation_prompt": "a cat"})
    assert "does not say <az>" in next(notices.words(mute))
    style = {"kind": TextualInversionOptions, **words, "learnable_property": "style"}
    assert said("a cat") == said("", **style) == []
    assert "the end: 'xx" in said("x" * 100)[0]
    assert "--shuffle_tags has no effect" in said("a cat, red", shuffle_tags=True)[0]
    assert said("a cat, red, small", shuffle_tags=True) == []
    for number in range(2):
        (folder / f"picture-{number}.txt").write_text("a cat, red")
    assert "--instance_prompt is said of no picture" in said("a cat")[0]
    assert "--learnable_property has no effect" in said("", **style)[0]
    assert "longer than" in said("", with_prior_preservation=True, class_prompt="x" * 100)[0]


@pytest.mark.parametrize(("size", "given", "told"), [
    ((192, 64), {}, 0),
    ((64, 200), {}, 1),
    ((64, 200), {"center_crop": True}, 0),
    ((128, 64), {"aspect_ratio_buckets": True}, 0),
    ((200, 64), {"aspect_ratio_buckets": True}, 1),
])  # fmt: skip
def test_pictures_of_which_parts_are_never_seen(
    size: tuple[int, int], given: dict[str, Any], told: int, tmp_path: Path
):
    Image.new("RGB", size).save(tmp_path / "a.png")
    lines = list(notices.pictures(resolve(LoraOptions, given), read_folder(tmp_path), 64))
    assert lines == ["so oblong that parts of them are not learned: a.png"] * told


def test_small_and_square_pictures(tmp_path: Path):
    examples = read_folder(tiny.pictures(tmp_path, 2))
    given = resolve(LoraOptions, {"aspect_ratio_buckets": True})
    assert list(notices.pictures(resolve(LoraOptions, {}), examples, 64)) == []
    small, square = notices.pictures(given, examples, 128)
    assert small == "smaller than 128 pixels, enlarged: picture-0.png, picture-1.png"
    assert "--aspect_ratio_buckets has no effect" in square


def test_a_run_says_so(bench: Bench):
    ear = Ear()
    bench.run("out", ear, class_prompt="a cat", max_train_steps="1", train_batch_size="2", learning_rate="1e-6")
    assert [line for line in ear.said if line.startswith("--class_prompt has no effect without --with_prior")]
    assert [line for line in ear.said if line.endswith("0.4 epochs in 1 step")]
    assert [line for line in ear.said if line.startswith("--learning_rate 1e-06 may learn nothing")]
