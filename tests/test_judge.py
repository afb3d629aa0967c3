"""The judge, with a tiny random net in place of the one that ships: its figures against plain loops."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tenshot.core.errors import Refusal
from tenshot.evaluate import pocket_judge
from tenshot.evaluate.judge import Judge
from tenshot.evaluate.pocket_judge import PATCH, JudgeNet, PocketJudge
from tenshot.io import tensors

SIDE, WIDTH = 32, 16
WORDS = {word: number for number, word in enumerate(("a", "at", "bear", "cat", "green", "hill", "night", "red"))}
TEXTS = ("a red bear", "A cat!", "a green, green hill at night")


@pytest.fixture(scope="module")
def net() -> JudgeNet:
    torch.manual_seed(0)
    return JudgeNet(len(WORDS), side=SIDE, width=WIDTH).eval()


@pytest.fixture(scope="module")
def eye(net: JudgeNet) -> Judge:
    return PocketJudge(net, WORDS)


def noise(count: int, seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> list[Image.Image]:
    dice = np.random.default_rng(seed)
    small = [Image.fromarray(dice.integers(0, 256, (3, 3, 3), dtype=np.uint8)) for _ in range(count)]
    return [image.resize(size, Image.Resampling.NEAREST) for image in small]


def features(net: JudgeNet, image: Image.Image, head: str = "subject") -> np.ndarray:
    """The picture tower step by step; every PATCH x PATCH pixels of a channel become channels, as numpy does it."""
    pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1
    n = SIDE // PATCH
    patches = pixels.reshape(3, n, PATCH, n, PATCH).transpose(0, 2, 4, 1, 3).reshape(3 * PATCH**2, n, n)
    with torch.no_grad():
        seen = net.tower(torch.tensor(patches)[None])[0].numpy().mean((1, 2))
        return getattr(net, head).weight.numpy().astype(np.float64) @ seen


def words(net: JudgeNet, text: str) -> np.ndarray:
    """The sum of the vectors of the words."""
    known = [WORDS[word.strip("!,").lower()] for word in text.split() if word.strip("!,").lower() in WORDS]
    return net.words.weight.detach().numpy().astype(np.float64)[known].sum(0)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / math.sqrt(sum(one**2) * sum(other**2))


def test_likeness_is_the_mean_cosine_of_all_pairs(eye: Judge, net: JudgeNet):
    images, others = noise(3, 1), noise(4, 2)
    pairs = [cosine(features(net, a), features(net, b)) for a in images for b in others]
    assert eye.likeness(images, others) == pytest.approx(sum(pairs) / 12, abs=1e-5)
    assert eye.likeness(images, others) == pytest.approx(eye.likeness(others, images), abs=1e-6)


def test_likeness_within_leaves_a_picture_with_itself_out(eye: Judge, net: JudgeNet):
    images = noise(4, 3)
    seen = [features(net, image) for image in images]
    pairs = [cosine(seen[a], seen[b]) for a in range(4) for b in range(4) if a != b]
    assert eye.likeness_within(images) == pytest.approx(sum(pairs) / 12, abs=1e-5)
    assert eye.diversity(images) == pytest.approx(1 - sum(pairs) / 12, abs=1e-5)
    assert eye.diversity([images[0]] * 3) == pytest.approx(0, abs=1e-5)
    assert math.isnan(eye.likeness_within(images[:1]))


def test_prompt_likeness_takes_each_picture_with_its_own_text(eye: Judge, net: JudgeNet):
    images = noise(3, 4)
    own = [cosine(features(net, image, "content"), words(net, text)) for image, text in zip(images, TEXTS, strict=True)]
    assert eye.prompt_likeness(images, TEXTS) == pytest.approx(sum(own) / 3, abs=1e-5)


def test_the_nearest_text(eye: Judge, net: JudgeNet):
    images = noise(8, 5)
    figures = [[cosine(features(net, image, "content"), words(net, text)) for text in TEXTS] for image in images]
    assert eye.nearest(images, TEXTS) == [row.index(max(row)) for row in figures]


def test_pictures_of_any_size_and_kind_are_seen(eye: Judge):
    (image,) = noise(1, 6)
    larger = image.resize((SIDE * 4, SIDE * 4), Image.Resampling.NEAREST)
    assert eye.likeness([image], [larger]) > 0.98
    assert eye.see([image, larger.convert("RGBA"), larger.crop((0, 0, 60, 100)).convert("L")]).shape == (3, WIDTH)


@pytest.fixture
def assets(net: JudgeNet, tmp_path: Path) -> Path:
    """The judge's folder as it ships: in float16, with its words."""
    tensors.write(tmp_path / "model.safetensors", {name: t.half() for name, t in net.state_dict().items()})
    (tmp_path / "words.txt").write_text("\n".join(WORDS) + "\n")
    return tmp_path


def test_the_judge_that_ships_is_read_from_its_folder(eye: Judge, assets: Path):
    loaded = pocket_judge.load(assets, SIDE)
    images = noise(3, 7)
    assert torch.allclose(loaded.see(images), eye.see(images), atol=5e-3)
    assert torch.allclose(loaded.read(TEXTS), eye.read(TEXTS), atol=5e-3)
    assert {tensor.dtype for tensor in loaded.net.state_dict().values()} == {torch.float32}


def test_a_word_that_it_does_not_know_counts_for_nothing(eye: Judge):
    assert torch.equal(eye.read(["a cat"]), eye.read(["a sksk cat"]))
    assert not eye.read(["zzz"]).any()


@pytest.mark.parametrize("missing", ["model.safetensors", "words.txt"])
def test_a_judge_that_is_not_there_is_a_refusal(missing: str, assets: Path):
    (assets / missing).unlink()
    with pytest.raises(Refusal, match="no such file"):
        pocket_judge.load(assets, SIDE)
