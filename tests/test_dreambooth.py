"""DreamBooth from end to end on tiny models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open

from tenshot.core.errors import Cancelled, Refusal
from tenshot.core.options import entries, resolve
from tenshot.core.recipes import read_recipe
from tenshot.core.size import Size
from tenshot.evaluate import judge
from tenshot.generate import generate
from tenshot.io import tensors
from tenshot.train.data import image_latents, prior_images
from tenshot.train.methods.dreambooth import train
from tenshot.train.options import DreamBoothOptions, LoraOptions
from tests import plain_dreambooth, tiny
from tests.dreambooth_runs import METHOD_OPTIONS, PRIOR, TEXT, UNET, Bench, Ear, files, losses, same_weights

WAYS = {
    "alone": {},
    "prior": PRIOR | {"train_batch_size": "2"},
    "prior, snr, text encoder": PRIOR | {"snr_gamma": "5", "train_text_encoder": True},
}


@pytest.mark.parametrize(
    ("family", "way"),
    [
        *(("sd1", way) for way in WAYS),
        ("sd2_v", "prior, snr, text encoder"),
        ("sdxl", "prior, snr, text encoder"),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in product(("sd2_v", "sdxl"), ("alone", "prior"))),
    ],
)
def test_the_loss_is_that_of_a_plain_implementation(
    family: str, way: str, tmp_path: Path, request: pytest.FixtureRequest
):
    given = WAYS[way]
    own = tiny.pictures(tmp_path / "own", 3)
    (own / "picture-1.txt").write_text("az on the beach\n")
    bench = Bench(request.getfixturevalue(family), own, tmp_path)
    if "class_prompt" in given:
        given = given | {"class_data_dir": tiny.pictures(tmp_path / "class", 5, seed=9)}
    folder = bench.run("out", **given)
    assert losses(folder) == pytest.approx(plain_dreambooth.losses(bench.options("out", **given)), rel=2e-4)


@pytest.mark.parametrize("given", [{"center_crop": True}, {"random_flip": True}], ids=["middle", "ends and mirrored"])
def test_the_loss_of_sdxl_knows_what_was_scaled_and_cropped(sdxl: Path, given: dict[str, Any], tmp_path: Path):
    own, others = tiny.pictures(tmp_path / "own", 2), tiny.pictures(tmp_path / "class", 2, seed=9)
    for folder, size in ((own, (256, 128)), (own, (32, 48)), (others, (64, 192)), (others, (128, 128))):
        Image.open(folder / "picture-0.png").resize(size).save(folder / f"{size[0]}.png")
    bench = Bench(sdxl, own, tmp_path)
    given = given | PRIOR | {"class_data_dir": others, "train_batch_size": "4", "max_train_steps": "4"}
    folder = bench.run("out", **given)
    assert losses(folder) == pytest.approx(plain_dreambooth.losses(bench.options("out", **given)), rel=2e-4)


def test_drawn_class_pictures_are_learned_as_they_were_drawn(bench: Bench):
    given = PRIOR | {"class_data_dir": bench.folder / "class"}
    found = losses(bench.run("out", **given))
    kept = tensors.read(bench.folder / "class" / prior_images.LATENTS)
    exact = torch.stack([kept[name] for name in sorted(kept)])
    assert found == pytest.approx(plain_dreambooth.losses(bench.options("out", **given), exact), rel=2e-4)


def test_without_training_the_text_encoder_it_stays(guided: Path, sd1: Path):
    before, after = tensors.read(sd1 / TEXT), tensors.read(guided / TEXT)
    assert {name.removeprefix("text_model."): tensor.tolist() for name, tensor in before.items()} == {
        name.removeprefix("text_model."): tensor.tolist() for name, tensor in after.items()
    }
    assert not same_weights(guided, sd1)
    assert same_weights(guided, sd1, "vae/diffusion_pytorch_model.safetensors")


def test_a_trained_text_encoder_changes_and_opens_elsewhere(bench: Bench, guided: Path):
    folder = bench.run("out", train_text_encoder=True)
    assert not same_weights(guided, folder, TEXT)
    with safe_open(folder / TEXT, "pt") as file:
        assert all(name.startswith("text_model.") for name in file.keys())
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a photo of az baby", num_inference_steps=2).images[0].size == (tiny.SIDE, tiny.SIDE)
    learned = tensors.read(folder / "checkpoint-3" / "text_encoder.safetensors")
    live = {name.removeprefix("text_model."): p for name, p in pipe.text_encoder.named_parameters()}
    assert all(torch.equal(live[name.removeprefix("text_model.")], tensor) for name, tensor in learned.items())


@pytest.mark.parametrize("family", [pytest.param("sd2_v", marks=pytest.mark.slow), "sdxl"])
def test_other_families_learn_and_can_be_trained_further(family: str, bench: Bench, request: pytest.FixtureRequest):
    bench.base["pretrained_model_name_or_path"] = str(request.getfixturevalue(family))
    folder = bench.run("out", **PRIOR, train_text_encoder=True, gradient_checkpointing=True, mixed_precision="fp16")
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == ("StableDiffusionXLPipeline" if family == "sdxl" else "StableDiffusionPipeline")
    schedule = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert schedule["prediction_type"] == ("v_prediction" if family == "sd2_v" else "epsilon")
    bench.base["pretrained_model_name_or_path"] = str(folder)
    assert not same_weights(folder, bench.run("further"))


def test_gradient_checkpointing_changes_nothing_but_memory(bench: Bench):
    plain = losses(bench.run("plain", train_text_encoder=True))
    assert losses(bench.run("thrifty", train_text_encoder=True, gradient_checkpointing=True)) == pytest.approx(plain)


def test_steps_are_compiled_where_it_was_asked_for(bench: Bench, guided: Path, monkeypatch: pytest.MonkeyPatch):
    """The graphs that torch traces are run as they are: the same numbers, without waiting for a compiler."""
    traced: list[torch.fx.GraphModule] = []
    compiled = torch.compile

    def tracing(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
        traced.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda net, backend: compiled(net, backend={"eager": tracing}[backend]))
    folder = bench.run("out", torch_compile=True, torch_compile_backend="eager", max_train_steps="1")
    assert traced
    assert losses(folder) == pytest.approx(losses(guided)[:1], rel=1e-4)


@pytest.mark.slow
def test_a_compiled_step_learns_the_same(bench: Bench, guided: Path):
    given = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    folder = bench.run("out", **given)
    assert losses(folder) == pytest.approx(losses(guided), rel=1e-4)
    assert (folder / UNET).stat().st_size == (guided / UNET).stat().st_size  # under the same names
    assert bench.refused("other", torch_compile=True, torch_compile_backend="gcc") == ["--torch_compile_backend"]


EXTREMES = {
    "train_batch_size": 2**63 - 1, "huber_c": 1e308, "resolution": 1_000_000, "max_train_steps": 2**62,
    "seed": 2**64, "learning_rate": 1e38, "num_class_images": 10**12, "lora_alpha": 1e300, "rank": 10**9,
    "validation_epochs": 2**62, "max_grad_norm": 1e300, "noise_offset": 1e30, "adam_weight_decay": 1e30,
}  # fmt: skip


def test_every_number_has_its_bounds():
    for kind in METHOD_OPTIONS:
        for name, entry in entries(kind).items():
            for each in entry.alternatives:
                if each.get("type") in ("integer", "number"):
                    assert {"maximum", "exclusiveMaximum"} & each.keys(), name
    told = {"instance_data_dir": ".", "instance_prompt": "az"} | EXTREMES
    with pytest.raises(Refusal) as caught:
        resolve(LoraOptions, told)
    faults = {fault.where.removeprefix("--"): fault.fits for fault in caught.value.faults}
    assert faults.keys() == EXTREMES.keys()
    assert faults["resolution"].startswith("a whole number, from 8, to 4096") or "to 4096" in faults["resolution"]


def test_the_running_average_is_what_is_saved(bench: Bench, guided: Path):
    folder = bench.run("out", use_ema=True, ema_decay="0.5")
    average = tensors.read(folder / "checkpoint-3" / "unet.ema.safetensors")
    saved = tensors.read(folder / UNET)
    assert all(torch.equal(saved[name], tensor) for name, tensor in average.items())
    assert not same_weights(folder, guided)


def test_the_recipe_of_a_run_reproduces_it(bench: Bench):
    given = PRIOR | {"train_text_encoder": True, "mixed_precision": "bf16", "snr_gamma": "5", "seed": "7"}
    first = bench.run("first", **given)
    recipe = read_recipe(first / "recipe.yaml") | {"output_dir": str(bench.folder / "again")}
    train(resolve(DreamBoothOptions, recipe), Ear())
    assert same_weights(first, bench.folder / "again")
    assert same_weights(first, bench.folder / "again", TEXT)
    assert not same_weights(first, bench.run("other", **given | {"seed": "8"}))


def test_the_manifest_tells_what_was_done(bench: Bench, pictures: Path):
    folder = bench.run("out", **PRIOR, seed="7")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["steps"] == 3
    assert manifest["options"]["seed"] == 7
    assert manifest["inputs"]["pictures"].keys() == {path.name for path in pictures.iterdir()}
    assert "5 instance pictures" in manifest["plan"]
    assert "4 class pictures" in manifest["plan"]


def test_a_longer_run_continues(bench: Bench, guided: Path):
    whole = bench.run("whole", max_train_steps="5")
    shutil.copytree(guided, bench.folder / "parts")
    assert same_weights(whole, bench.run("parts", max_train_steps="5"))
    assert losses(bench.folder / "parts") == losses(whole)
    assert bench.refused("parts", max_train_steps="4") == ["--max_train_steps"]


def test_cancelled_while_encoding_or_training_the_same_command_continues(bench: Bench):
    given = PRIOR | {"sample_batch_size": "2"}
    for job in ("encoding pictures", "drawing class pictures", "training"):
        with pytest.raises(Cancelled):
            bench.run("cut", Ear(job), **given, class_data_dir=bench.folder / "cut class")
    cut = bench.run("cut", **given, class_data_dir=bench.folder / "cut class")
    assert same_weights(cut, bench.run("whole", **given, class_data_dir=bench.folder / "whole class"))


@pytest.mark.usefixtures("sketches")
def test_previews_are_drawn_and_change_nothing(bench: Bench):
    shown = {"validation_prompt": "a photo of az baby", "validation_steps": "2", "num_validation_images": "2"}
    folder = bench.run("out", **shown, train_text_encoder=True, report_to="tensorboard")
    found = sorted(path.name for path in (folder / "validation").iterdir())
    assert found == [f"step-00000{step}-{number}.png" for step in (2, 3) for number in (0, 1)]
    assert list((folder / "logs").iterdir())
    assert same_weights(folder, bench.run("unseen", train_text_encoder=True))


@pytest.mark.usefixtures("sketches")
def test_the_best_by_the_judge_is_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    likeness = iter([0.3, 0.2, 0.7, 0.4])
    monkeypatch.setattr(judge.Judge, "likeness", lambda *_: next(likeness))
    shown = {"validation_prompt": "a photo of az baby", "validation_steps": "1", "num_validation_images": "1"}
    ear = Ear()
    folder = bench.run("out", ear, **shown, keep_best=True)
    told = json.loads((folder / "manifest.json").read_text())
    assert told["best"] == {"step": 2, "likeness": 0.7}
    assert told["likeness_by_step"] == {"0": 0.3, "1": 0.2, "2": 0.7, "3": 0.4}
    assert "most like your pictures: step 2 of 3, likeness 0.700 (before training 0.300" in "\n".join(ear.said)
    assert same_weights(folder / "best", bench.run("two", max_train_steps="2"))
    assert bench.refused("other", keep_best=True) == ["--keep_best"]


@pytest.mark.usefixtures("sketches")
def test_the_last_step_is_judged_though_it_is_no_multiple(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    likeness = iter([0.3, 0.4, 0.5])
    monkeypatch.setattr(judge.Judge, "likeness", lambda *_: next(likeness))
    shown = {"validation_prompt": "a photo of az baby", "validation_steps": "2", "num_validation_images": "1"}
    folder = bench.run("out", **shown, keep_best=True)
    assert json.loads((folder / "manifest.json").read_text())["best"] == {"step": 3, "likeness": 0.5}
    assert same_weights(folder / "best", folder)


def test_prior_preservation_needs_a_class_prompt(bench: Bench):
    assert bench.refused("out", with_prior_preservation=True) == ["--class_prompt"]


def test_a_class_folder_needs_prior_preservation(bench: Bench, pictures: Path):
    assert {*bench.refused("out", class_data_dir=str(pictures))} == {"--class_data_dir"}


def test_an_unknown_option_is_refused(bench: Bench):
    with pytest.raises(Refusal, match="--optimizer"):
        bench.options("out", optimizer="AdamW8bitt")


def test_another_run_stays_untouched(bench: Bench, guided: Path):
    before = files(guided)
    for other in ({"seed": "1"}, {"learning_rate": "1e-4"}, {"instance_prompt": "az"}, PRIOR):
        assert bench.refused("guided", **other, output_dir=str(guided)) == ["--output_dir"]
    assert files(guided) == before


def test_moved_pictures_and_models_are_the_same_run(bench: Bench, guided: Path, pictures: Path, sd1: Path):
    shutil.copytree(guided, bench.folder / "out")
    moved = {"instance_data_dir": bench.folder / "moved", "pretrained_model_name_or_path": bench.folder / "model"}
    for place, source in zip(moved.values(), (pictures, sd1), strict=True):
        shutil.copytree(source, place)
    given = {name: str(place) for name, place in moved.items()}
    assert same_weights(guided, bench.run("out", **given))
    (bench.folder / "moved" / "more.png").write_bytes(next(pictures.glob("*.png")).read_bytes())
    assert bench.refused("out", **given) == ["--output_dir"]


def test_other_class_pictures_make_another_run(bench: Bench):
    tiny.pictures(bench.folder / "class", 5, seed=1)
    given = PRIOR | {"class_data_dir": str(bench.folder / "class")}
    bench.run("out", **given)
    next((bench.folder / "class").glob("*.png")).unlink()
    assert bench.refused("out", **given) == ["--output_dir"]


def test_a_full_disk_is_seen_beforehand(bench: Bench, sd1: Path, monkeypatch: pytest.MonkeyPatch):
    nets = {path.parent.name: tensors.read(path) for path in sd1.glob("*/*.safetensors")}
    numbers = {name: sum(tensor.numel() for tensor in net.values()) for name, net in nets.items()}
    need = 4 * (sum(numbers.values()) + 3 * 3 * numbers["unet"])  # the result, 3 checkpoints with moments
    usage = shutil.disk_usage(bench.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=need - 1))
    assert bench.refused("out") == ["--output_dir"]
    assert not (bench.folder / "out").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=need))
    bench.run("out")


def test_changed_captions_make_another_run(bench: Bench):
    own = tiny.pictures(bench.folder / "own", 2)
    bench.run("out", instance_data_dir=str(own))
    (own / "picture-0.txt").write_text("az asleep")
    assert bench.refused("out", instance_data_dir=str(own)) == ["--output_dir"]


def test_a_folder_of_other_things_stays_untouched(bench: Bench):
    (bench.folder / "out").mkdir()
    (bench.folder / "out" / "thesis.txt").write_text("do not lose me")
    assert bench.refused("out") == ["--output_dir"]
    assert files(bench.folder / "out") == {"thesis.txt": b"do not lose me"}


def test_what_a_killed_start_left_is_no_obstacle(bench: Bench):
    (bench.folder / "out" / ".tenshot-abc.part" / "new").mkdir(parents=True)
    (bench.folder / "out" / ".tenshot-abc.part" / "new" / "run.json").write_text("{")
    (bench.folder / "out" / "tenshot.log").write_text("failed")
    assert not list(bench.run("out").glob(".*"))


def test_a_schedule_that_no_loss_fits_is_refused(bench: Bench, sd1: Path):
    place = shutil.copytree(sd1, bench.folder / "model")
    config = place / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rescale_betas_zero_snr": True}))
    assert bench.refused("out", pretrained_model_name_or_path=str(place)) == ["scheduler:"]


def test_all_faults_are_told_at_once(bench: Bench, sd1: Path):
    place = shutil.copytree(sd1, bench.folder / "model")
    (place / UNET).unlink()
    empty = bench.folder / "empty"
    empty.mkdir()
    found = bench.refused(
        "out",
        pretrained_model_name_or_path=str(place),
        instance_data_dir=str(empty),
        with_prior_preservation=True,
        class_data_dir=str(empty),
        num_class_images="0",
    )
    assert [*dict.fromkeys(found)] == [str(place / "unet"), "--instance_data_dir", "--class_prompt", "--class_data_dir"]
    assert not (bench.folder / "out").exists()


def test_what_another_folder_holds_is_told_with_the_other_faults(bench: Bench, guided: Path, tmp_path: Path):
    before = files(guided)
    found = bench.refused(str(guided), instance_data_dir=str(tmp_path / "none"), learning_rate="1e-4")
    assert found == ["--instance_data_dir", "--output_dir"]
    assert files(guided) == before
    assert bench.refused(str(guided), instance_data_dir=str(tmp_path / "none")) == ["--instance_data_dir"]


@pytest.mark.parametrize("below", ["", "/deeper/still"])
def test_files_where_folders_should_be_are_refused(bench: Bench, below: str):
    (bench.folder / "file").write_text("mine")
    given = PRIOR | {"class_data_dir": f"{bench.folder}/file{below}", "instance_data_dir": f"{bench.folder}/file"}
    found = bench.refused(f"file{below}", **given)
    assert [*dict.fromkeys(found)] == ["--instance_data_dir", "--class_data_dir", "--output_dir"]
    assert files(bench.folder) == {"file": b"mine"}


def test_an_oblong_picture_is_seen_at_both_ends_and_in_the_middle():
    image = Image.effect_noise((96, 64), 90).convert("RGB")
    views = image_latents.squares(64, center_crop=False)
    assert [view.of(image).tobytes() for view in views(Size.from_pillow(image.size))] == [
        image.crop((left, 0, left + 64, 64)).tobytes() for left in (0, 16, 32)
    ]
    (middle,) = image_latents.squares(64, center_crop=True)(Size.from_pillow(image.size))
    assert middle.of(image).tobytes() == image.crop((16, 0, 80, 64)).tobytes()
    assert len(image_latents.squares(32, center_crop=False)(Size(64, 64))) == 1


def test_what_was_trained_draws(guided: Path, tmp_path: Path):
    told = {"model": str(guided), "prompt": ["a photo of az baby"], "steps": 1, "out": tmp_path / "a.png"}
    generate.generate(resolve(generate.GenerateOptions, told), Ear())
    assert (tmp_path / "a.png").is_file()
