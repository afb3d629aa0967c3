"""Captions are encoded once; their states are those of the very caption, and what is idle leaves the memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from tenshot.adapters import embedding
from tenshot.core import device
from tenshot.core.events import Events
from tenshot.io import tensors
from tenshot.model import model
from tenshot.model.model import Components, Model
from tenshot.train.data import text_embeddings
from tenshot.train.data.latents_cache import TensorCache
from tenshot.train.data.text_embeddings import TextEmbeddingCache
from tenshot.train.engine import loop
from tenshot.train.engine.trainable import offload_unused
from tests.dreambooth_runs import TEXT, Bench, Ear

SAID = ["a photo of az baby", "", "a flat emoji of a toy, red"]


def deaf(base: Model) -> Model:
    """A model that must not be asked."""

    def fail(*_: Any) -> None:
        raise AssertionError("asked again")

    for part in base.family.encoders:
        base[part].forward = fail
    return base


@pytest.mark.parametrize("family", ["sd1", "sd2_v", "sdxl"])
def test_states_from_disk_are_those_of_a_pipeline(family: str, tmp_path: Path, request: pytest.FixtureRequest):
    place = str(request.getfixturevalue(family))
    pipe = DiffusionPipeline.from_pretrained(place)
    TextEmbeddingCache(model.load(place), TensorCache(tmp_path)).learn(set(SAID), Events())
    found = TextEmbeddingCache(deaf(model.load(place)), TensorCache(tmp_path)).of(SAID)
    told = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    with torch.no_grad():
        wanted = pipe.encode_prompt(SAID, **told)
    torch.testing.assert_close(found["encoder_hidden_states"], wanted[0])
    if family == "sdxl":
        torch.testing.assert_close(found["added_cond_kwargs"]["text_embeds"], wanted[2])


def test_another_text_or_encoder_is_never_found(sd1: Path, sd2_v: Path, tmp_path: Path):
    cache = TensorCache(tmp_path)
    for place in (sd1, sd2_v, sd1):
        states = TextEmbeddingCache(model.load(str(place)), cache)
        states.of(["a", "b", "a"])
    assert len(list(tmp_path.glob("*/*.safetensors"))) == 2 * 2


def test_what_is_damaged_is_asked_again(sd1: Path, tmp_path: Path):
    base = model.load(str(sd1))
    wanted = TextEmbeddingCache(base, TensorCache(tmp_path)).of(["a"])["encoder_hidden_states"]
    (file,) = tmp_path.glob("*/*.safetensors")
    file.write_bytes(file.read_bytes()[:-9])
    assert torch.equal(TextEmbeddingCache(base, TensorCache(tmp_path)).of(["a"])["encoder_hidden_states"], wanted)


def test_the_precision_of_a_step_does_not_reach_them(sd1: Path):
    base = model.load(str(sd1))
    with device.autocast(base.device, "bf16"):
        found = TextEmbeddingCache(base).of(["a"])["encoder_hidden_states"]
    assert torch.equal(found, TextEmbeddingCache(base).of(["a"])["encoder_hidden_states"])


def test_learned_words_are_not_kept_on_disk(sd1: Path, tmp_path: Path):
    base = model.load(str(sd1))
    base = embedding.add(base, "<az>", embedding.beginning(base, "toy", 1))
    TextEmbeddingCache(base, TensorCache(tmp_path)).of(["a <az>"])
    assert not list(tmp_path.glob("*/*"))


def test_memory_is_bounded_and_answers_stay_right(sd1: Path, monkeypatch: pytest.MonkeyPatch):
    base = model.load(str(sd1))
    wanted = [TextEmbeddingCache(base).of([text])["encoder_hidden_states"] for text in "abcd"]
    monkeypatch.setattr(text_embeddings, "IN_MEMORY", 2 * wanted[0].nbytes)
    states = TextEmbeddingCache(base)
    for _ in range(2):
        for text, each in zip("abcd", wanted, strict=True):
            assert torch.equal(states.of([text])["encoder_hidden_states"], each)
            assert len(states.near) <= 2


def test_the_shelf_of_a_disk_is_bounded(sd1: Path, tmp_path: Path):
    base = model.load(str(sd1))
    TextEmbeddingCache(base, TensorCache(tmp_path)).learn({"old"}, Events())
    size = next(tmp_path.glob("*/*")).stat().st_size
    TextEmbeddingCache(base, TensorCache(tmp_path, limit=2 * size)).learn({"a", "b"}, Events())
    assert len(list(tmp_path.glob("*/*"))) == 2
    TextEmbeddingCache(deaf(base), TensorCache(tmp_path)).of(["a", "b"])


@pytest.mark.usefixtures("sketches")
@pytest.mark.parametrize(("way", "given", "here"), [
    ("dreambooth", {}, {"unet"}),
    pytest.param("dreambooth", {"train_text_encoder": True}, {"unet", "text_encoder"}, marks=pytest.mark.slow),
    pytest.param("lora", {}, {"unet"}, marks=pytest.mark.slow),
    ("inversion", {"placeholder_token": ["<az>"], "initializer_token": ["a"]}, {"unet", "text_encoder"}),
], ids=["dreambooth", "dreambooth with text", "lora", "inversion"])  # fmt: skip
def test_idle_parts_are_away_and_come_back(
    way: str,
    given: dict[str, Any],
    here: set[str],
    sd1: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    seen: list[set[str]] = []
    step = loop._Trainer.step

    def look(run: Any, number: int) -> dict[str, float]:
        figures = step(run, number)
        parts = run.task.trainable.model.parts
        assert isinstance(parts, Components)
        seen.append(parts.here.keys() - {"tokenizer"})
        return figures

    monkeypatch.setattr(loop._Trainer, "step", look)
    bench, ear = Bench(sd1, pictures, tmp_path, way), Ear()
    shown = {"validation_prompt": "a photo of a baby", "validation_steps": "1", "num_validation_images": "1"}
    folder = bench.run("out", ear, **shown, **given)
    assert len(seen) == 1 + 1 + 3  # the forecast's, too
    assert seen == [here] * len(seen)
    assert len(list((folder / "validation").glob("*.png"))) == 3
    if way == "dreambooth" and not given:
        kept, given_once = (
            {name.removeprefix("text_model."): tensor for name, tensor in tensors.read(place / TEXT).items()}
            for place in (folder, sd1)
        )
        assert all(torch.equal(kept[name], tensor) for name, tensor in given_once.items())


def test_an_encoder_that_never_learns_is_away_too(sd35: Path):
    opened = model.load(str(sd35))
    states: Any = SimpleNamespace(model=opened, trains_text_encoder=False)
    assert isinstance(opened.parts, Components) and "text_encoder_3" in opened.parts.here
    offload_unused(states)
    assert {name for name in opened.parts.here if not name.startswith("tokenizer")} == {"transformer"}
