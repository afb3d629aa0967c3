"""A model in memory: whatever happens to its files, and whoever draws with it while weights come and go."""

from __future__ import annotations

import shutil
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import tenshot
from tenshot import pipeline
from tenshot.core.errors import Refusal, Slow
from tenshot.core.events import Events
from tenshot.core.options import resolve
from tenshot.generate import generate
from tenshot.io import tensor_files
from tenshot.io.tensors import write_json
from tenshot.model import checkpoint, model
from tenshot.pipeline import Request, SamplingSettings
from tenshot.runtime.compiled_model import CompiledModel
from tests.swaps import NETS, overwritten, same, state, weights
from tests.test_swap import answers, merged


@pytest.mark.parametrize("kind", ["eager", "compiled"])
def test_a_base_that_is_rewritten_while_in_use_changes_nothing(
    kind: str, sd1: Path, sd1_fast: Path, sd1_lora: Path, tmp_path: Path
):
    place = Path(shutil.copytree(sd1_fast if kind == "compiled" else sd1, tmp_path / "model"))
    opened = tenshot.load(place)
    base = state(opened)
    opened.set_loras({sd1_lora: 0.7})
    with_lora = state(opened)
    opened.clear_loras()
    overwritten(place)
    assert same(state(opened), base)
    opened.set_loras({sd1_lora: 0.7})
    assert same(state(opened), with_lora)
    shutil.rmtree(place / "model" if kind == "compiled" else place)
    opened.clear_loras()
    assert same(state(opened), base)


def test_weights_that_were_loaded_are_not_those_of_the_file_any_more(sd1: Path, sd1_tuned: Path, tmp_path: Path):
    place, pickle = Path(shutil.copytree(sd1_tuned, tmp_path / "model")), tmp_path / "model.ckpt"
    checkpoint.write(checkpoint.read(sd1_tuned), pickle, Events())
    opened = tenshot.load(sd1)
    for each in (place, pickle):
        opened.load_weights(each)
        before = state(opened)
        if each.is_dir():
            overwritten(each)
        else:
            with each.open("r+b") as file:
                file.write(bytes(each.stat().st_size))
        assert same(state(opened), before)


def test_in_half_precision_the_files_are_asked_again_and_a_change_is_noticed(sd1: Path, sd1_lora: Path, tmp_path: Path):
    place = Path(shutil.copytree(sd1, tmp_path / "model"))
    opened = tenshot.load(place, precision="bf16")
    base = weights(opened)
    opened.set_loras({sd1_lora: 0.7})
    with_lora = weights(opened)
    overwritten(place)
    with pytest.raises(Refusal, match="rewritten since"):
        opened.set_loras({sd1_lora: -0.7})
    assert same(weights(opened), with_lora)
    opened.clear_loras()
    assert same(weights(opened), base)


def test_what_is_rewritten_while_it_is_read_is_refused(
    sd1: Path, sd1_tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = Path(shutil.copytree(sd1_tuned, tmp_path / "model"))
    opened = tenshot.load(sd1)
    before = weights(opened)
    real, left = tensor_files._read, [50]

    def meanwhile(*given: Any) -> torch.Tensor:
        left[0] -= 1
        if left[0] == 0:
            overwritten(place)
        return real(*given)

    monkeypatch.setattr(tensor_files, "_read", meanwhile)
    with pytest.raises(Refusal, match="written to while"):
        opened.load_weights(place)
    assert same(weights(opened), before)


def test_programs_that_were_rewritten_are_not_mixed_in(sd1_fast: Path, sd1_lora: Path, tmp_path: Path):
    place = Path(shutil.copytree(sd1_fast, tmp_path / "fast"))
    opened = tenshot.load(place)
    before = state(opened)
    graph = place / "parts/unet/net.xml"
    graph.write_bytes(graph.read_bytes().replace(b"Convolution", b"Convolutiom"))
    with pytest.raises(Refusal, match="written to since"):
        opened.set_loras({sd1_lora: 1})
    assert same(state(opened), before)


def test_weights_that_predict_something_else_are_refused(sd2_v: Path, tmp_path: Path):
    place = Path(shutil.copytree(sd2_v, tmp_path / "epsilon"))
    write_json(place / "scheduler/scheduler_config.json", {"_class_name": "DDIMScheduler"})
    opened = tenshot.load(sd2_v)
    before = weights(opened)
    with pytest.raises(Refusal, match="predicts epsilon"):
        opened.load_weights(place)
    assert same(weights(opened), before)


@pytest.mark.parametrize("kind", ["eager", "compiled"])
def test_a_picture_under_way_is_finished_with_what_it_began_with(
    kind: str, sd1: Path, sd1_fast: Path, sd1_lora: Path, sd1_tuned: Path
):
    opened = tenshot.load(sd1 if kind == "eager" else sd1_fast)
    settings, wanted = SamplingSettings(steps=3), []

    def drawn() -> bytes:
        return pipeline.images(opened, [Request("a cat", 1)], settings)[0].tobytes()

    swaps: list[Callable[[], None]] = [
        lambda: opened.set_loras({sd1_lora: 1}),
        lambda: opened.set_loras({sd1_lora: -1}),
        opened.clear_loras,
    ]
    for swap in swaps:
        swap()
        wanted.append(drawn())
    found: list[bytes] = []
    over = threading.Event()

    def artist() -> None:
        while not over.is_set():
            found.append(drawn())

    threads = [threading.Thread(target=artist) for _ in range(2)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 60
    number = 0
    while number < (6 if kind == "eager" else 3) or len(set(found)) < 2:
        swaps[number % 3]()
        number += 1
        assert time.monotonic() < until
    over.set()
    for thread in threads:
        thread.join()
    assert {*found} <= {*wanted}
    assert len({*wanted}) == 3
    opened.clear_loras()  # whichever swap was the last
    both = pipeline.stream(opened, [Request("a cat", seed) for seed in (1, 2)], replace(settings, batch=1))
    before = drawn()
    assert next(both).tobytes() == before
    opened.set_loras({sd1_lora: -1})
    (last,) = both
    opened.clear_loras()
    assert last.tobytes() == pipeline.images(opened, [Request("a cat", 2)], settings)[0].tobytes()


@pytest.mark.parametrize("kind", ["eager", "compiled"])
def test_pipelines_see_every_swap_and_what_was_put_into_a_part_stays(
    kind: str, sd1: Path, sd1_fast: Path, sd1_lora: Path, sd1_tuned: Path
):
    opened = tenshot.load(sd1 if kind == "eager" else sd1_fast)
    held = [opened.unet, opened.vae, opened["text_encoder"]]
    before = answers(dict(zip(NETS, held, strict=True)))
    opened.vae.enable_tiling()
    for _ in range(2):
        opened.load_weights(sd1_tuned)
        opened.set_loras({sd1_lora: 1})
    assert [opened[part] for part in NETS] == held
    assert opened.vae.use_tiling
    opened.vae.disable_tiling()
    now = answers(dict(zip(NETS, held, strict=True)))
    assert not any(torch.equal(one, two) for one, two in zip(before, now, strict=True))
    opened.load_weights(opened.place)
    assert all(map(torch.equal, before, answers(dict(zip(NETS, held, strict=True)))))


def test_a_learned_word_stays_when_weights_are_exchanged(sd1: Path, sd1_fast: Path, sd1_tuned: Path, sd1_lora: Path):
    for place in (sd1, sd1_fast):
        opened = tenshot.load(place)
        plain = opened.conditioning(["a cat"], (64, 64))["encoder_hidden_states"]
        rows = {"text_encoder": torch.randn(2, 16, generator=torch.Generator().manual_seed(0))}
        taught = opened.with_word("<az>", rows)
        first = taught.conditioning(["a <az>"], (64, 64))["encoder_hidden_states"]
        taught.load_weights(sd1_tuned)
        taught.set_loras({sd1_lora: 1})
        assert not torch.equal(taught.conditioning(["a <az>"], (64, 64))["encoder_hidden_states"], first)
        taught.load_weights(opened.place)
        assert torch.equal(taught.conditioning(["a <az>"], (64, 64))["encoder_hidden_states"], first)
        assert torch.allclose(taught.conditioning(["a cat"], (64, 64))["encoder_hidden_states"], plain, atol=1e-5)


def test_one_noun_one_shape(sd1: Path, sd1_fast: Path, sd1_lora: Path):
    plain, fast = tenshot.load("pocket"), tenshot.load(sd1_fast)
    names = {name for name in dir(fast) if not name.startswith("_")}
    assert names == {name for name in dir(plain) if not name.startswith("_")}
    assert {"unet", "vae", "load_weights", "set_loras", "clear_loras"} <= names
    with warnings.catch_warnings():
        warnings.simplefilter("error", Slow)
        assert isinstance(generate_one(plain), Image.Image)


def generate_one(opened: CompiledModel) -> Image.Image:
    return pipeline.images(opened, [Request("a cat", 1)], SamplingSettings(steps=1))[0]


def test_what_torch_draws_with_a_lora_is_what_merge_makes(sd1: Path, sd1_lora: Path, tmp_path: Path):
    opened = tenshot.load(sd1)
    opened.set_loras({sd1_lora: 0.6})
    assert all(map(torch.equal, answers(opened), answers(merged(sd1, {sd1_lora: 0.6}, tmp_path / "merged"))))
    given = {
        "model": str(sd1),
        "prompt": ["a cat"],
        "steps": 2,
        "seed": 1,
        "lora": [f"{sd1_lora}=0.4", f"{sd1_lora}=0.2"],
    }
    (told,) = generate.generate(resolve(generate.GenerateOptions, given | {"out": tmp_path / "out"}), Events())[
        "pictures"
    ]
    (wanted,) = pipeline.images(model.load(str(tmp_path / "merged")), [Request("a cat", 1)], SamplingSettings(steps=2))
    assert Image.open(told["file"]).tobytes() == wanted.tobytes()
