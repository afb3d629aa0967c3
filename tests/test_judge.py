"""The judge, with a tiny random pair in place of the one that ships: its figures against plain loops."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tenshot.core.errors import Refusal
from tenshot.evaluate import judge
from tenshot.evaluate.judge import PATCH, Judge, Pair
from tenshot.io import tensors
from tenshot.model import model

SIDE, WIDTH = 32, 16
TEXTS = ("a red bear", "a cat", "a green hill at night")


@pytest.fixture(scope="module")
def net(sd1: Path) -> Pair:
    """Random towers; the text tower is that of the tiny model, as the shipped judge's is the pocket model's."""
    encoder = model.load(str(sd1))["text_encoder"]
    torch.manual_seed(0)
    return Pair(encoder, side=SIDE, width=WIDTH).eval()


@pytest.fixture(scope="module")
def eye(sd1: Path, net: Pair) -> Judge:
    return Judge(net, model.load(str(sd1))["tokenizer"])


def noise(count: int, seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> list[Image.Image]:
    dice = np.random.default_rng(seed)
    small = [Image.fromarray(dice.integers(0, 256, (3, 3, 3), dtype=np.uint8)) for _ in range(count)]
    return [image.resize(size, Image.Resampling.NEAREST) for image in small]


def features(net: Pair, image: Image.Image) -> np.ndarray:
    """The picture tower step by step; every PATCH x PATCH pixels of a channel become channels, as numpy does it."""
    pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1
    n = SIDE // PATCH
    patches = pixels.reshape(3, n, PATCH, n, PATCH).transpose(0, 2, 4, 1, 3).reshape(3 * PATCH**2, n, n)
    with torch.no_grad():
        seen = net.eye(torch.tensor(patches)[None])[0].numpy().mean((1, 2))
        return net.from_eye.weight.numpy().astype(np.float64) @ seen


def words(net: Pair, eye: Judge, text: str) -> np.ndarray:
    """Without padding: what follows the end of a text must not count."""
    ids = torch.tensor([eye.tokenizer(text).input_ids])
    with torch.no_grad():
        out = net.words(ids).last_hidden_state[0, -1].numpy()
    return net.from_words.weight.detach().numpy().astype(np.float64) @ out


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / math.sqrt(sum(one**2) * sum(other**2))


def test_likeness_is_the_mean_cosine_of_all_pairs(eye: Judge, net: Pair):
    images, others = noise(3, 1), noise(4, 2)
    pairs = [cosine(features(net, a), features(net, b)) for a in images for b in others]
    assert eye.likeness(images, others) == pytest.approx(sum(pairs) / 12, abs=1e-5)
    assert eye.likeness(images, others) == pytest.approx(eye.likeness(others, images), abs=1e-6)


def test_likeness_within_leaves_a_picture_with_itself_out(eye: Judge, net: Pair):
    images = noise(4, 3)
    seen = [features(net, image) for image in images]
    pairs = [cosine(seen[a], seen[b]) for a in range(4) for b in range(4) if a != b]
    assert eye.likeness_within(images) == pytest.approx(sum(pairs) / 12, abs=1e-5)
    assert eye.diversity(images) == pytest.approx(1 - sum(pairs) / 12, abs=1e-5)
    assert eye.diversity([images[0]] * 3) == pytest.approx(0, abs=1e-5)
    assert math.isnan(eye.likeness_within(images[:1]))


def test_prompt_likeness_takes_each_picture_with_its_own_text(eye: Judge, net: Pair):
    images = noise(3, 4)
    own = [cosine(features(net, image), words(net, eye, text)) for image, text in zip(images, TEXTS, strict=True)]
    assert eye.prompt_likeness(images, TEXTS) == pytest.approx(sum(own) / 3, abs=1e-5)


def test_the_nearest_text(eye: Judge, net: Pair):
    images = noise(8, 5)
    figures = [[cosine(features(net, image), words(net, eye, text)) for text in TEXTS] for image in images]
    assert eye.nearest(images, TEXTS) == [row.index(max(row)) for row in figures]


def test_pictures_of_any_size_and_kind_are_seen(eye: Judge):
    (image,) = noise(1, 6)
    larger = image.resize((SIDE * 4, SIDE * 4), Image.Resampling.NEAREST)
    assert eye.likeness([image], [larger]) > 0.98
    assert eye.see([image, larger.convert("RGBA"), larger.crop((0, 0, 60, 100)).convert("L")]).shape == (3, WIDTH)


@pytest.fixture
def assets(sd1: Path, net: Pair, tmp_path: Path) -> Path:
    """The judge's folder as it ships: in float16, without the text tower."""
    named = {name: t.half() for name, t in net.state_dict().items() if not name.startswith("words.")}
    tensors.write(tmp_path / "judge" / "model.safetensors", named)
    model.save(model.load(str(sd1)), tmp_path / "words")
    return tmp_path


def test_the_judge_that_ships_is_put_together_from_two_folders(eye: Judge, assets: Path):
    loaded = judge.load(assets / "judge", assets / "words", SIDE, WIDTH)
    images = noise(3, 7)
    assert torch.allclose(loaded.see(images), eye.see(images), atol=5e-3)
    assert torch.allclose(loaded.read(TEXTS), eye.read(TEXTS), atol=5e-3)
    assert {tensor.dtype for tensor in loaded.net.state_dict().values()} == {torch.float32}


def test_a_judge_that_is_not_there_is_a_refusal(assets: Path):
    (assets / "judge" / "model.safetensors").unlink()
    with pytest.raises(Refusal, match="no such file"):
        judge.load(assets / "judge", assets / "words")
