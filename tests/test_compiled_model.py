"""Compiled models answer as torch does, whatever they are asked, and say when they are not for this machine."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image

import tenshot
from tenshot import pipeline
from tenshot.cli import main
from tenshot.core.errors import Refusal, Slow
from tenshot.io.tensors import write_json
from tenshot.io.text_files import read_json
from tenshot.model import model
from tenshot.model.model import Model
from tenshot.pipeline import Request, SamplingSettings
from tenshot.runtime import artifact, compiled_model
from tenshot.runtime.flat_modules import flat
from tenshot.runtime.sections import CompiledSection, ShapeBucket
from tests import artifacts

SECTIONS = ("unet", "decoder", "encoder", "text_encoder")
SOON = SamplingSettings(steps=3)


@pytest.fixture(scope="module")
def controlnet(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    net = ControlNetModel.from_unet(model.load(str(sd1))["unet"])
    for tensor in net.parameters():  # its zero convolutions would hide a wrong residual
        torch.nn.init.normal_(tensor, std=0.1)
    folder = tmp_path_factory.mktemp("controlnet") / "edges"
    net.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def fast_sd1(sd1: Path, controlnet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of a tiny Stable Diffusion 1.x as programs, with a ControlNet. Do not write into it."""
    out = tmp_path_factory.mktemp("fast") / "sd1"
    return artifacts.made(sd1, out, sections=(*SECTIONS, "unet_controlled", "controlnet"), controlnet=controlnet)


@pytest.fixture(scope="module")
def pair(sd1: Path, fast_sd1: Path) -> tuple[Model, Model]:
    return model.load(str(sd1)), tenshot.load(fast_sd1)


@pytest.fixture
def no_fallback():
    with warnings.catch_warnings():
        warnings.simplefilter("error", Slow)
        yield


def levels(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of a pixel."""
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


def pictures(opened: Model, count: int = 3) -> list[Image.Image]:
    return pipeline.images(opened, [Request("a cat", seed) for seed in range(count)], SOON)


@pytest.mark.slow  # Stable Diffusion 1 and 3 are not
@pytest.mark.parametrize("name", ["sdxl", "sd2_v"])
def test_every_family_draws_the_same_pictures(name: str, tmp_path: Path, request: pytest.FixtureRequest, no_fallback):
    place = request.getfixturevalue(name)
    encoders = ("text_encoder", "text_encoder_2") if name == "sdxl" else ("text_encoder",)
    opened = tenshot.load(artifacts.made(place, tmp_path / "fast", sections=("unet", "decoder", *encoders)))
    for one, other in zip(pictures(model.load(str(place))), pictures(opened), strict=True):
        assert levels(one, other) <= 1
    assert {*opened.programs} == {"unet", "decoder", *encoders}


def test_the_same_pictures_alone_and_in_batches(pair: tuple[Model, Model], no_fallback):
    for one, other in zip(*map(pictures, pair), strict=True):
        assert levels(one, other) <= 1


def test_the_plain_call(pair: tuple[Model, Model], no_fallback):
    torch.manual_seed(0)
    width = pair[0]["unet"].config.cross_attention_dim
    latents, times, context = torch.randn(5, 4, 8, 8), torch.arange(5) * 100, torch.randn(5, 77, width)
    with torch.no_grad():
        wanted = pair[0]["unet"](latents, times, context).sample
    found = pair[1].unet(latents, times, context)
    assert torch.allclose(found.sample, wanted, atol=1e-5)
    assert torch.equal(pair[1].unet(latents, times, context, return_dict=False)[0], found.sample)


def pipelines(opened: Model, kind: type, **more: object):
    parts = {name: opened[name] for name in ("unet", "vae", "text_encoder", "tokenizer")}
    pipe = kind(
        **parts,
        scheduler=DDIMScheduler.from_config(dict(opened.scheduler_config)),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **more,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


BASE = Image.fromarray((np.indices((64, 64)).sum(0) * 2).astype(np.uint8)).convert("RGB")
MASK = Image.new("L", (64, 64)).transform((64, 64), Image.Transform.AFFINE, (1, 0, 0, 0, 1, 0), fillcolor=255)
ASKED = {
    "text": (StableDiffusionPipeline, {"height": 64, "width": 64}),
    "picture": (StableDiffusionImg2ImgPipeline, {"image": BASE, "strength": 0.8}),
    "inpaint": (StableDiffusionInpaintPipeline, {"image": BASE, "mask_image": MASK, "height": 64, "width": 64}),
    "control": (StableDiffusionControlNetPipeline, {"image": BASE, "controlnet_conditioning_scale": 0.5}),
}


@pytest.mark.parametrize("asked", ASKED)
def test_pipelines_of_diffusers_take_the_parts(asked: str, pair: tuple[Model, Model], controlnet: Path, no_fallback):
    kind, given = ASKED[asked]
    drawn = []
    for opened in pair:
        net = opened["controlnet"] if "controlnet" in opened.parts else model.load_controlnet(controlnet, "cpu")
        more = {"controlnet": net} if asked == "control" else {}
        pipe = pipelines(opened, kind, **more)
        dice = torch.Generator().manual_seed(1)
        drawn.append(pipe("a cat", num_inference_steps=3, generator=dice, **given).images[0])
    assert levels(*drawn) <= 2


@pytest.mark.slow
def test_a_pipeline_of_sdxl_takes_the_parts(sdxl: Path, tmp_path: Path, no_fallback):
    opened = tenshot.load(artifacts.made(sdxl, tmp_path / "fast", sections=("unet", "text_encoder", "text_encoder_2")))
    drawn = []
    for each in (model.load(str(sdxl)), opened):
        parts = {name: part for name, part in each.parts.items() if name != "controlnet"}
        pipe = StableDiffusionXLPipeline(
            **parts, scheduler=DDIMScheduler.from_config(dict(each.scheduler_config)), add_watermarker=False
        )
        pipe.set_progress_bar_config(disable=True)
        dice = torch.Generator().manual_seed(1)
        drawn.append(pipe("a cat", num_inference_steps=2, generator=dice, height=64, width=64).images[0])
    assert levels(*drawn) <= 2


def test_other_shapes_and_long_prompts_are_answered_with_one_warning(pair: tuple[Model, Model]):
    width = pair[0]["unet"].config.cross_attention_dim
    for latents, context in (
        (torch.randn(2, 4, 16, 8), torch.randn(2, 77, width)),
        (torch.randn(2, 4, 8, 8), torch.randn(2, 154, width)),
    ):
        with torch.no_grad():
            wanted = pair[0]["unet"](latents, 10, context).sample
        with pytest.warns(Slow, match="no program for") as told:
            found = [pair[1].unet(latents, 10, context).sample for _ in range(2)]
        assert len(told) == 1
        assert torch.allclose(found[0], wanted, atol=1e-5)


def test_arguments_that_programs_do_not_know_are_answered_by_torch(pair: tuple[Model, Model]):
    width = pair[0]["unet"].config.cross_attention_dim
    latents, context, mask = torch.randn(2, 4, 8, 8), torch.randn(2, 77, width), torch.ones(2, 77)
    mask[:, 40:] = 0
    with torch.no_grad():
        wanted = pair[0]["unet"](latents, 10, context, encoder_attention_mask=mask).sample
        without = pair[0]["unet"](latents, 10, context).sample
    with pytest.warns(Slow, match="encoder_attention_mask"), torch.no_grad():
        found = pair[1].unet(latents, 10, context, encoder_attention_mask=mask).sample
    assert torch.allclose(found, wanted, atol=1e-5)
    assert not torch.allclose(found, without, atol=1e-3)


def test_adapters_that_a_pipeline_puts_in_are_heeded(pair: tuple[Model, Model], sd1: Path, fast_sd1: Path):
    from peft import LoraConfig

    width = pair[0]["unet"].config.cross_attention_dim
    latents, context = torch.randn(2, 4, 8, 8), torch.randn(2, 77, width)
    answers = []
    for opened in (model.load(str(sd1)), tenshot.load(fast_sd1)):
        torch.manual_seed(3)
        opened["unet"].add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", Slow)
            answers.append(opened["unet"](latents, 10, context).sample)
    assert torch.allclose(*answers, atol=1e-5)
    assert not torch.allclose(answers[1], pair[1].unet(latents, 10, context).sample, atol=1e-3)


def test_hidden_states_and_masks_of_text_encoders(pair: tuple[Model, Model]):
    ids = torch.randint(0, 500, (1, 77), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(77) < 20).long()[None]
    for given in ({}, {"attention_mask": mask}):
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", Slow)
            one, other = (each["text_encoder"](ids, output_hidden_states=True, **given) for each in pair)
        for name in ("last_hidden_state", "pooler_output"):
            assert torch.allclose(one[name], other[name], atol=1e-5)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one.hidden_states, other.hidden_states, strict=True))
        with torch.no_grad():
            assert torch.allclose(pair[1]["text_encoder"](ids, **given, return_dict=False)[0], one[0], atol=1e-5)


def test_answers_that_are_not_finite_are_made_again(sd1: Path):
    net = flat("decoder", model.load(str(sd1))["vae"])
    latents = torch.randn(1, 4, 8, 8)

    class Broken:
        def __call__(self, *inputs):
            return (torch.full((1, 3, 64, 64), torch.nan),)

        def load(self, weights): ...

    program = CompiledSection("decoder", [ShapeBucket(((1, 4, 8, 8),), Broken())], net)
    with pytest.warns(Slow, match="not finite"), torch.no_grad():
        assert torch.equal(program(latents)[0], net(latents)[0])


def test_the_right_bucket_is_taken():
    class Echo:
        def __init__(self, batch):
            self.batch, self.seen = batch, []

        def __call__(self, x):
            self.seen.append(x.shape[0])
            return (x * 2,)

        def load(self, weights): ...

    one, four = Echo(1), Echo(4)
    program = CompiledSection("unet", [ShapeBucket(((1, 3),), one), ShapeBucket(((4, 3),), four)], None)
    for rows in (1, 2, 4, 6):
        x = torch.arange(rows * 3.0).reshape(rows, 3)
        assert torch.equal(program(x)[0], x * 2)
    assert one.seen == [1]
    assert four.seen == [4, 4, 4, 4]


@pytest.fixture
def copied(fast_sd1: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fast_sd1, tmp_path / "copied"))


def forge(place: Path, **changes: str) -> None:
    told = read_json(place / artifact.MANIFEST)
    told["fingerprint"] |= changes
    write_json(place / artifact.MANIFEST, told)


def test_another_machine_is_refused_or_falls_back(copied: Path, pair: tuple[Model, Model], capsys):
    forge(copied, cpu="Another 9000", torch="1.0")
    with pytest.raises(Refusal) as refused:
        tenshot.load(copied)
    assert {fault.where for fault in refused.value.faults} == {"cpu", "torch"}
    assert all(fault.do == artifacts.AGAIN for fault in refused.value.faults)
    out = copied.parent / "pictures"
    words = ["generate", "--model", str(copied), "--prompt", "a cat", "--out", str(out), "--steps", "2", "--seed", "0"]
    assert main.main(words) == 2
    assert artifacts.AGAIN in capsys.readouterr().err
    assert not out.exists()
    with pytest.warns(Slow, match="not for this machine"):
        opened = tenshot.load(copied, fallback=True)
    assert pictures(opened, 1)[0].tobytes() == pictures(pair[0], 1)[0].tobytes()


def test_without_its_backend_it_says_what_to_install(copied: Path, monkeypatch: pytest.MonkeyPatch):
    from tenshot.runtime.backends import openvino

    monkeypatch.setattr(openvino, "missing", lambda where: "pip install something")
    with pytest.raises(Refusal, match="pip install something"):
        tenshot.load(copied)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda place: (place / "parts/unet/rest.bin").write_bytes(b"short"), "has 5 bytes"),
        (lambda place: (place / "parts/decoder/net.xml").unlink(), "is missing"),
        (lambda place: swapped_bytes(place / "parts/unet/net.xml"), "not the file that was compiled"),
        (
            lambda place: (place / "manifest.json").write_text(f'{{"format": {artifact.FORMAT}, "family": 3}}'),
            "cannot be understood",
        ),
        (lambda place: (place / "manifest.json").write_text("{"), "manifest.json"),
        (lambda place: escape(place), "outside"),
        (lambda place: cut(next(place.glob("model/unet/*.safetensors"))), "unet"),
    ],
)
def test_damaged_artifacts_are_refused(harm, says: str, copied: Path):
    harm(copied)
    with pytest.raises(Refusal, match=says):
        tenshot.load(copied)


def swapped_bytes(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def escape(place: Path) -> None:
    told = read_json(place / artifact.MANIFEST)
    told["sections"]["unet"]["programs"][0]["folder"] = "../elsewhere"
    (place / artifact.MANIFEST).write_text(json.dumps(told))


def test_every_fault_is_told_at_once(copied: Path):
    (copied / "parts/decoder/net.xml").unlink()
    (copied / "parts/unet/rest.bin").write_bytes(b"")
    with pytest.raises(Refusal) as refused:
        compiled_model.load(copied)
    assert len(refused.value.faults) == 2


def test_infotext_and_pictures_of_generate(fast_sd1: Path, sd1: Path, tmp_path: Path):
    for number, place in enumerate((sd1, fast_sd1)):
        words = ["generate", "--model", str(place), "--prompt", "a cat", "--steps", "2", "--seed", "4"]
        assert main.main([*words, "--out", str(tmp_path / f"{number}.png")]) == 0
    assert levels(*(Image.open(tmp_path / f"{number}.png") for number in range(2))) <= 1
