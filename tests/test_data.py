"""From pictures to latents: shapes, mirrors, masks, the cache; and the order in which they are learned."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from tenshot.core import distributed
from tenshot.core.errors import Fault, Refusal
from tenshot.core.events import Events, track
from tenshot.core.size import Size
from tenshot.families.base import MicroConditioning
from tenshot.families.sdxl import SDXL
from tenshot.io import dataset
from tenshot.io.hashes import of_values
from tenshot.io.image_folder import read_folder
from tenshot.io.images import as_tensor
from tenshot.model import model
from tenshot.model.model import Model
from tenshot.train.data import image_latents, latents_cache
from tenshot.train.data.captions import Captions
from tenshot.train.data.latents_cache import TensorCache
from tenshot.train.data.text_embeddings import TextEmbeddingCache
from tenshot.train.engine.denoising import Latents, Objective
from tenshot.train.engine.rng import CounterRNG
from tests import tiny
from tests.dreambooth_runs import Bench, Ear, losses, same_weights

WHOLE = MicroConditioning.whole(Size(64, 64))


@pytest.fixture(scope="module")
def base(sd1: Path) -> Model:
    return model.load(str(sd1))


def posterior(base: Model, image: Image.Image) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        found = base["vae"].encode(as_tensor(image)[None]).latent_dist
    return tuple(part[0] * base["vae"].config.scaling_factor for part in (found.mean, found.std))


def test_latents_are_those_of_the_very_pictures(base: Model, pictures: Path, tmp_path: Path):
    examples = read_folder(pictures)
    for order in (examples, examples[::-1]):
        latents, shown = image_latents.encode(
            base, order, image_latents.squares(64, flip=True), Events(), TensorCache(tmp_path)
        )
        assert shown == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
        for row, number in enumerate(shown):
            image = Image.open(order[number].path).convert("RGB")
            wanted = posterior(base, ImageOps.mirror(image) if row % 2 else image)
            assert all(torch.equal(a, b) for a, b in zip(latents.each[row], wanted, strict=True))


def test_another_vae_another_cut_or_other_bytes_are_never_found(
    base: Model, sdxl: Path, pictures: Path, tmp_path: Path
):
    cache, examples = TensorCache(tmp_path), read_folder(pictures)[:1]
    for other, views in (
        (base, image_latents.squares(64)),
        (base, image_latents.squares(32)),
        (model.load(str(sdxl)), image_latents.squares(64)),
    ):
        image_latents.encode(other, examples, views, Events(), cache)
    assert len(list(tmp_path.glob("*/*.safetensors"))) == 3


def test_a_cache_is_bounded_and_keeps_what_was_used_last(tmp_path: Path):
    cache = TensorCache(tmp_path, limit=5000)
    one = {"mean": torch.zeros(4, 8, 8), "std": torch.zeros(4, 8, 8)}  # 2 KiB
    for when, name in enumerate("abcd"):
        cache.write(of_values(name), one)
        os.utime(cache.path(of_values(name)), (when, when))
    cache.trim({of_values("a")})
    assert [cache.read(of_values(name)) is not None for name in "abcd"] == [True, False, False, True]


def test_what_is_lost_or_damaged_is_encoded_again(base: Model, pictures: Path, tmp_path: Path):
    examples = read_folder(pictures)
    latents, _ = image_latents.encode(base, examples, image_latents.squares(64), Events(), TensorCache(tmp_path))
    first, second = sorted(tmp_path.glob("*/*.safetensors"))[:2]
    first.unlink()
    second.write_bytes(second.read_bytes()[:100])
    plain, _ = image_latents.encode(base, examples, image_latents.squares(64), Events())
    assert all(
        torch.equal(a, b)
        for one, two in zip(latents.each, plain.each, strict=True)
        for a, b in zip(one, two, strict=True)
    )


def test_a_picture_that_changed_meanwhile_never_passes_for_the_old_one(base: Model, tmp_path: Path):
    examples = read_folder(tiny.pictures(tmp_path / "own", 1))
    tiny.pictures(tmp_path / "own", 1, seed=7)
    with pytest.raises(Refusal, match="changed"):
        image_latents.encode(base, examples, image_latents.squares(64), Events(), TensorCache(tmp_path / "cache"))
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def _write(folder: str) -> None:
    for number in range(100):
        TensorCache(Path(folder)).write(of_values(number), {"mean": torch.full((4, 8, 8), number)})


def test_two_processes_share_a_cache(tmp_path: Path):
    writers = [multiprocessing.get_context("fork").Process(target=_write, args=(str(tmp_path),)) for _ in range(2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        for number in range(100):
            found = TensorCache(tmp_path).read(of_values(number))
            assert found is None or bool((found["mean"] == number).all())
    assert all(TensorCache(tmp_path).read(of_values(number)) for number in range(100))


@pytest.mark.parametrize("size", [(64, 64), (200, 100), (100, 200), (640, 480), (5000, 100)])
def test_shapes_are_the_nearest_that_fit(size: tuple[int, int]):
    (view,) = image_latents.buckets(512, 64)(Size.from_pillow(size))
    width, height = view.size.pillow
    assert width % 64 == height % 64 == 0
    assert 512 * 512 * 0.75 <= width * height <= 512 * 512
    limited = min(max(size[0] / size[1], 0.5), 2)
    assert 0.8 < (width / height) / limited < 1.25


@pytest.mark.parametrize(("views", "own", "wanted"), [
    # scaled to 128 x 64, and 32 columns are cropped at either end
    (image_latents.squares(64), (100, 50), [[50, 100, 0, 32, 64, 64]]),
    # half as large, 64 x 128: the top, the middle, the bottom
    (image_latents.squares(64, center_crop=False), (128, 256), [[256, 128, top, 0, 64, 64] for top in (0, 32, 64)]),
    # of the mirrored picture, what was the left end is the right one
    (image_latents.squares(64, False, flip=True), (192, 64), [[64, 192, 0, left, 64, 64] for left in (0, 128, 64, 64, 128, 0)]),  # noqa: E501
    # too small: enlarged to 64 x 96, and what it was is told
    (image_latents.squares(64), (20, 30), [[30, 20, 16, 0, 64, 64]]),
    # 80 x 48 pixels are the nearest shape; the picture is scaled to 96 x 48, and eight columns go at either end
    (image_latents.buckets(64, 8, flip=True), (176, 88), [[88, 176, 0, 8, 48, 80]] * 2),
    (image_latents.squares(64, flip=True), (64, 64), [[64, 64, 0, 0, 64, 64]] * 2),
], ids=["middle", "ends", "mirrored", "small", "shapes", "as it is"])  # fmt: skip
def test_sdxl_is_told_what_was_cropped_of_what(
    views: image_latents.Views, own: tuple[int, int], wanted: list[list[int]], sdxl: Path, tmp_path: Path
):
    """original height and width, cropped above and at the left after scaling, height and width (arXiv 2307.01952)."""
    Image.new("RGB", own, "red").save(tmp_path / "a.png")
    base = model.load(str(sdxl))
    latents, _ = image_latents.encode(base, read_folder(tmp_path), views, Events())
    said = TextEmbeddingCache(base).of(["a"] * len(latents))
    assert base.family.micro_conditioned(said, latents.frames)["added_cond_kwargs"]["time_ids"].tolist() == wanted


def test_sizes_that_half_precision_does_not_know_are_told():
    added = {"text_embeds": torch.zeros(1, 8, dtype=torch.bfloat16)}
    frame = MicroConditioning(Size(3023, 4031), (0, 171), Size(1024, 1024))
    (ids,) = SDXL.micro_conditioned({"added_cond_kwargs": added}, [frame])["added_cond_kwargs"]["time_ids"].tolist()
    assert ids == [3023, 4031, 0, 171, 1024, 1024]


def test_a_batch_has_one_shape_and_an_epoch_has_every_picture():
    sizes = [(8, 8)] * 5 + [(6, 10)] * 3 + [(10, 6)] * 1
    latents = Latents(
        [(torch.zeros(4, *s), torch.zeros(4, *s)) for s in sizes], sizes, [WHOLE] * 9, repeats=[1] * 8 + [4]
    )
    batches = [latents.pick(CounterRNG(3, [2 * n, 2 * n + 1]), "picture") for n in range(14)]
    assert all(len({sizes[row] for row in rows}) == 1 for rows in batches)
    epoch = Counter(row for rows in batches[:7] for row in rows)
    assert set(epoch) == set(range(9)) and epoch[8] == 4
    assert batches[:7] != batches[7:]
    assert batches == [latents.pick(CounterRNG(3, [2 * n, 2 * n + 1]), "picture") for n in range(14)]


def test_repeats_count(tmp_path: Path):
    tiny.pictures(tmp_path / "3_az baby", 1)
    tiny.pictures(tmp_path / "1_baby", 2, seed=4)
    found = dataset.read(tmp_path, option="")
    latents = Latents(
        [(torch.zeros(4, 8, 8),) * 2] * 3, [(8, 8)] * 3, [WHOLE] * 3, repeats=[each.repeats for each in found]
    )
    assert latents.epoch == 5
    rows = [row for n in range(5) for row in latents.pick(CounterRNG(0, [n]), "picture")]
    assert {found[row].path.parent.name: count for row, count in Counter(rows).items() if count > 1} == {"3_az baby": 3}


def test_captions_stay_with_their_pictures_under_shuffling(bench: Bench, sd1: Path):
    """Pictures of one shade each; the clean latents and the caption of every sample of a batch agree."""
    folder = bench.folder / "shades"
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (64, 48 if number % 2 else 64), (number * 40, 0, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"shade {number}")
    base, examples = model.load(str(sd1)), read_folder(folder)
    latents, shown = image_latents.encode(
        base, examples, image_latents.buckets(64, 16), Events(), TensorCache(bench.folder / "cache")
    )
    captions = Captions([examples[number].caption or "" for number in shown])
    for step in range(20):
        rng = CounterRNG(1, [2 * step, 2 * step + 1])
        rows = latents.pick(rng, "picture")
        for row, text in zip(rows, captions.of(rows, rng), strict=True):
            size = Size.from_pillow(Image.open(folder / f"{text[-1]}.png").size)
            (view,) = image_latents.buckets(64, 16)(size)
            wanted = posterior(base, view.of(Image.open(folder / f"{text[-1]}.png").convert("RGB")))
            assert torch.equal(latents.each[row][0], wanted[0])


def test_captions_are_left_out_and_mixed_as_often_as_asked():
    captions = Captions(["a, b, c, d"] * 2, empty=0.25, tags=True, keep=1)
    said = [text for n in range(400) for text in captions.of([0, 1], CounterRNG(0, [2 * n, 2 * n + 1]))]
    assert 0.2 < said.count("") / len(said) < 0.3
    orders = Counter(text for text in said if text)
    assert all(text.startswith("a, ") and sorted(text.split(", ")) == ["a", "b", "c", "d"] for text in orders)
    assert len(orders) == 6 and min(orders.values()) > 50


def test_what_is_masked_out_is_not_learned(bench: Bench, pictures: Path):
    masks = bench.folder / "masks"
    masks.mkdir()
    for path in pictures.glob("*.png"):
        Image.fromarray(np.pad(np.full((64, 32), 255, np.uint8), ((0, 0), (0, 32)))).save(masks / path.name)
    whole = losses(bench.run("whole"))
    assert losses(bench.run("half", mask_dir=str(masks))) != pytest.approx(whole, rel=1e-3)
    for path in masks.glob("*.png"):
        Image.new("L", (64, 64), 255).save(path)
    assert losses(bench.run("all", mask_dir=str(masks))) == pytest.approx(whole, rel=1e-5)


def test_shapes_repeats_and_flips_go_through_a_whole_run(bench: Bench):
    own = bench.folder / "own"
    tiny.pictures(own / "2_az baby", 2)
    Image.new("RGB", (128, 64), "red").save(own / "2_az baby" / "wide.png")
    given = {
        "instance_data_dir": str(own),
        "aspect_ratio_buckets": True,
        "bucket_step": "16",
        "random_flip": True,
        "train_batch_size": "2",
        "with_prior_preservation": True,
        "class_prompt": "baby",
        "num_class_images": "2",
        "max_train_steps": "8",
    }
    one, other = bench.run("one", **given), bench.run("other", **given)
    assert same_weights(one, other)
    plan = json.loads((one / "manifest.json").read_text())["plan"]
    assert "2 shapes" in plan and "12 pairs an epoch" in plan


def test_a_job_without_work_is_none():
    ear = Ear()
    assert list(track([], "resting", 0, ear)) == [] and ear.jobs == []
    assert list(track("ab", "working", 2, ear)) == ["a", "b"] and ear.jobs == ["working"]


def test_what_the_next_step_wants_is_read_while_this_one_is_made(
    base: Model, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(latents_cache, "IN_MEMORY", 0)
    examples, views = read_folder(pictures), image_latents.squares(64)
    cache = TensorCache(tmp_path)
    latents, _ = image_latents.encode(base, examples, views, Events(), cache)
    plain, _ = image_latents.encode(base, examples, views, Events())
    readers: list[bool] = []
    read = cache.read

    def noted(key: str):
        readers.append(threading.current_thread() is threading.main_thread())
        return read(key)

    monkeypatch.setattr(cache, "read", noted)
    aim = Objective(base.process)
    for step in range(10):
        rng = CounterRNG(3, [step])
        one, other = aim.draw(latents, rng), aim.draw(plain, rng)
        assert one.rows == other.rows and torch.equal(one.clean, other.clean)
    assert readers[:10] == [True] + [False] * 9  # all but the first step's


def test_pictures_are_opened_while_the_vae_looks_at_others_and_faults_come_through():
    opened: list[int] = []

    def make(row: int) -> torch.Tensor:
        if row == 9:
            raise Refusal(Fault("picture 9", "has changed"))
        opened.append(row)
        return torch.full((), row)

    for row, made in (ahead := image_latents.made_ahead(make, range(30))):
        assert made == row
        if row == 8:
            break
    with pytest.raises(Refusal, match="picture 9"):
        next(ahead)
    assert set(range(9)) <= {*opened}
    assert max(opened) <= 9 + image_latents.AHEAD


def test_every_process_encodes_its_share(base: Model, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    examples, views, encoded = read_folder(pictures), image_latents.squares(64), []
    encode = image_latents._encoded
    monkeypatch.setattr(image_latents, "_encoded", lambda *given: encoded.append(1) or encode(*given))
    plain, _ = image_latents.encode(base, examples, views, Events())
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "wait_for_everyone", lambda: None)
    for number, share in enumerate((3, 2)):
        encoded.clear()
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        latents, _ = image_latents.encode(base, examples, views, Events(), TensorCache(tmp_path))
        assert len(encoded) == share
    for one, other in zip(latents.each, plain.each, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert len(encoded) == 2
