"""Adapters on a model that draws: several at once, at any strength, as diffusers' pipelines do it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image

from tenshot.adapters import lora
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.options import resolve
from tenshot.generate.generate import GenerateOptions, generate
from tenshot.io.png import read_infotext
from tests.dreambooth_runs import Bench, Ear
from tests.infotext import parse_infotext
from tests.test_adapter_files import a_lora
from tests.test_checkpoints import run as run_convert


@pytest.fixture(scope="module")
def runs(sd1: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    bench = Bench(sd1, pictures, folder, "lora")
    given: dict[str, Any] = {"learning_rate": "2e-2", "train_text_encoder": True}
    words = Bench(sd1, pictures, folder, "inversion")
    return {
        "one": bench.run("one", **given, rank="3", lora_alpha="5"),
        "two": bench.run("two", **given, layers="all", seed="9"),
        "word": words.run("word", placeholder_token=["<az>"], initializer_token=["toy"], learning_rate="1"),
    }


def draw(sd1: Path, out: Path, events: Events | None = None, **given: Any) -> np.ndarray:
    base = {"model": str(sd1), "prompt": ["a photo of <az>"], "seed": 3, "steps": 4, "sampler": "DDIM"}
    options = resolve(GenerateOptions, base | {"out": str(out), "device": "cpu"} | given)
    (found,) = generate(options, events or Events())["pictures"]
    return np.asarray(Image.open(found["file"])).astype(int)


def pipeline(sd1: Path, *loaded: tuple[Path, float], word: Path | None = None) -> np.ndarray:
    pipe = StableDiffusionPipeline.from_pretrained(sd1)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False, set_alpha_to_one=False)
    for number, (folder, _) in enumerate(loaded):
        pipe.load_lora_weights(str(folder), adapter_name=f"n{number}")
    if loaded:
        pipe.set_adapters([f"n{number}" for number in range(len(loaded))], [strength for _, strength in loaded])
    if word:
        pipe.load_textual_inversion(str(word))
    dice = torch.Generator().manual_seed(3)
    image = pipe("a photo of <az>", num_inference_steps=4, guidance_scale=7.5, generator=dice).images[0]
    return np.asarray(image).astype(int)


def test_several_loras_at_their_strengths(runs: dict[str, Path], sd1: Path, tmp_path: Path):
    plain = draw(sd1, tmp_path / "plain.png")
    both = draw(sd1, tmp_path / "both.png", lora=[f"{runs['one']}=0.7", f"{runs['two']}=-0.4"])
    wanted = pipeline(sd1, (runs["one"], 0.7), (runs["two"], -0.4))
    assert abs(both - wanted).max() <= 1
    assert abs(both - plain).max() > 3
    assert abs(plain - pipeline(sd1)).max() <= 1
    off = draw(sd1, tmp_path / "off.png", lora=[f"{runs['one']}=0", f"{runs['two'] / lora.FILE}=0"])
    assert (off == plain).all()


def test_a_learned_word(runs: dict[str, Path], sd1: Path, tmp_path: Path):
    file = runs["word"] / "az.safetensors"
    said = draw(sd1, tmp_path / "said.png", embedding=[str(file)])
    assert abs(said - pipeline(sd1, word=file)).max() <= 1
    assert abs(said - draw(sd1, tmp_path / "plain.png")).max() > 1
    loud = draw(sd1, tmp_path / "loud.png", embedding=[str(file)], prompt=["a photo of <AZ>"])
    assert (loud == said).all()
    ear = Ear()
    draw(sd1, tmp_path / "mute.png", ear, embedding=[str(file)], prompt=["a photo of azure"])
    assert ear.said == [f"no prompt says '<az>': {file} has no effect"]


def test_a_lora_of_another_model_or_of_none_is_refused(runs: dict[str, Path], sdxl: Path, sd1: Path, tmp_path: Path):
    with pytest.raises(Refusal):
        draw(sdxl, tmp_path / "out.png", lora=[str(runs["one"])])
    with pytest.raises(Refusal):
        draw(sd1, tmp_path / "out.png", lora=[str(sd1 / "vae" / "diffusion_pytorch_model.safetensors")])
    with pytest.raises(Refusal, match="no number"):
        draw(sd1, tmp_path / "out.png", lora=[f"{runs['one']}=strong"])
    for strength in ("nan", "1e9", "-inf"):
        with pytest.raises(Refusal, match="from -1000 to 1000"):
            draw(sd1, tmp_path / "out.png", lora=[f"{runs['one']}={strength}"])
    assert not (tmp_path / "out.png").exists()


def test_the_infotext_names_them_as_webui_does(runs: dict[str, Path], sd1: Path, tmp_path: Path):
    kohya = tmp_path / "mine v1.safetensors"
    run_convert(runs["one"] / lora.FILE, kohya, "--config", sd1)
    told = {"lora": [f"{kohya}=0.75", str(runs["two"])], "embedding": [str(runs["word"] / "az.safetensors")]}
    for prompt, words in (("a photo of <az>", True), ("a photo", False)):
        draw(sd1, tmp_path / "said.png", prompt=[prompt], **told)
        said, _, facts = parse_infotext(read_infotext(tmp_path / "said.png") or "")
        assert said == f"{prompt} <lora:mine v1:0.75> <lora:two:1>"
        data = [file.read_bytes() for file in (kohya, runs["two"] / lora.FILE)]
        short = [hashlib.sha256(each[8 + int.from_bytes(each[:8], "little") :]).hexdigest()[:12] for each in data]
        assert facts["Lora hashes"] == f"mine v1: {short[0]}, two: {short[1]}"
        whole = hashlib.sha256((runs["word"] / "az.safetensors").read_bytes()).hexdigest()[:12]
        assert facts.get("TI hashes") == (f"az: {whole}" if words else None)


def test_original_block_names_count_the_models_own_blocks(sdxl: Path, tmp_path: Path):
    ours = a_lora(sdxl, tmp_path / "ours.safetensors")
    run_convert(ours, tmp_path / "kohya.safetensors", "--config", sdxl)
    files = (ours, tmp_path / "kohya.safetensors")
    one, other = (draw(sdxl, file.with_suffix(".png"), lora=[str(file)]) for file in files)
    assert (one == other).all()


def test_the_model_hash_is_the_files(sd1: Path, tmp_path: Path):
    run_convert(sd1, tmp_path / "mine.safetensors")
    draw(tmp_path / "mine.safetensors", tmp_path / "said.png")
    facts = parse_infotext(read_infotext(tmp_path / "said.png") or "")[2]
    assert facts["Model hash"] == hashlib.sha256((tmp_path / "mine.safetensors").read_bytes()).hexdigest()[:10]
    assert facts["Model"] == "mine"


def test_all_that_is_wrong_is_told_at_once(sd1: Path, tmp_path: Path):
    given = {"lora": ["none.safetensors", f"{sd1}=strong"], "embedding": ["no.pt"], "num_images": 2}
    with pytest.raises(Refusal) as refused:
        draw(tmp_path / "nowhere", tmp_path / "out.png", **given)
    assert len(refused.value.faults) == 5


def test_a_lora_learns_with_a_word_learned_before(runs: dict[str, Path], sd1: Path, pictures: Path, tmp_path: Path):
    bench = Bench(sd1, pictures, tmp_path, "lora")
    told = {"instance_prompt": "a photo of <az>", "embeddings": [str(runs["word"] / "az.safetensors")]}
    assert bench.refused("mute", **told | {"instance_prompt": "a photo of azure"}) == ["--embeddings"]
    bench.run("pivotal", **told)
    plain = bench.run("plain", instance_prompt="a photo of <az>")
    one, other = (lora.read(tmp_path / name / lora.FILE).weights["unet"] for name in ("pivotal", "plain"))
    assert any(not torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert plain.is_dir()
