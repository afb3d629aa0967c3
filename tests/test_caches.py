"""What lies in the cache is what was put there, or it is made anew, and a line says so."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tenshot.core.errors import Cancelled
from tenshot.diffusion.process import DDPM
from tenshot.io import cache, hashes, tensors
from tenshot.model import model, resolve
from tenshot.train import checks
from tenshot.train.data import prior_images
from tenshot.train.data.latents_cache import TensorCache
from tenshot.train.methods.dreambooth import METHOD
from tests import tiny
from tests.dreambooth_runs import PRIOR, Bench, Ear, files, same_weights
from tests.test_checkpoints import run

UNET = "unet/diffusion_pytorch_model.safetensors"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flip(path: Path) -> None:
    """One bit near the end, where tensors are; size and times stay."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


HARM = (cut, flip, empty, folder, link, pipe, Path.unlink)
Harm = Callable[[Path], None]


@pytest.fixture(scope="module")
def converted(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("converted") / "mine.safetensors"
    run(sd1, file)
    return file


@pytest.fixture
def file(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model file, and a cache that knows nothing yet."""
    monkeypatch.setenv("TENSHOT_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copyfile(converted, tmp_path / converted.name))


def weights(place: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(place).items() if "/" in name or name == "model_index.json"}


@pytest.mark.parametrize(
    ("harm", "part"),
    [
        *((harm, UNET) for harm in HARM),
        *((harm, "vae/config.json") for harm in (cut, Path.unlink)),
        *(pytest.param(harm, "vae/config.json", marks=pytest.mark.slow) for harm in HARM[1:-1]),
    ],
)
def test_a_cached_model_is_whole_or_made_anew(harm: Harm, part: str, file: Path) -> None:
    place = model.find(str(file))
    whole = weights(place)
    harm(place / part)
    ear = Ear()
    assert model.find(str(file), ear) == place
    assert weights(place) == whole
    assert "missing or altered" in " ".join(ear.said)
    model.find(str(file), again := Ear())
    assert not again.said


def test_weights_laid_beside_the_cached_ones_are_not_opened(file: Path) -> None:
    place = model.find(str(file))
    whole = weights(place)
    save_file(load_file(place / UNET), place / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    model.find(str(file))
    assert weights(place) == whole


FOREIGN = (
    "",
    "{",
    "[]",
    *(pytest.param(each, marks=pytest.mark.slow) for each in ("null", '"x"')),
    "[" * 50_000,
    '{"file": 5}',
    '{"content": [], "sha256": ""}',
    '{"file": "\\u0000"}',
)


@pytest.mark.parametrize("text", (*FOREIGN, json.dumps({"file": "x" * 5000, "size": 1, "changed": 2, "tenshot": "0"})))
def test_one_foreign_entry_breaks_no_model(text: str, file: Path) -> None:
    place = model.find(str(file))
    other = place.parent.with_name("0" * 24)
    (other / "model").mkdir(parents=True)
    resolve.stamp_file(other / "any").write_text(text)
    ear = Ear()
    assert model.find(str(file), ear) == place
    assert not ear.said
    whole = weights(place)
    resolve.stamp_file(place).write_text(text)
    assert model.find(str(file), ear) == place
    assert weights(place) == whole
    assert "damaged" in ear.said[0]


@pytest.mark.parametrize("harm", (folder, link, pipe, Path.unlink))
def test_nor_does_one_that_is_no_file(harm: Harm, file: Path) -> None:
    place = model.find(str(file))
    harm(resolve.stamp_file(place))
    assert model.find(str(file)) == place
    assert resolve.model_hash(place)


def test_a_file_changed_in_its_old_size_and_time_is_noticed(file: Path) -> None:
    place = model.find(str(file))
    before = hashes.of_model(place)
    flip(file)
    ear = Ear()
    model.find(str(file), ear)
    assert hashes.of_model(place) != before
    assert "has changed" in ear.said[0]


def test_a_large_model_is_checked_in_sight(bench: Bench, sd1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, ear = hashes.of_model(sd1), Ear()
    checks.check(METHOD, bench.options("out"), ear)
    assert "checking the model" not in ear.jobs
    monkeypatch.setattr(hashes, "BLOCK", 10_000)
    assert hashes.of_model(sd1) == small
    checks.check(METHOD, bench.options("out"), ear)
    assert ear.jobs.count("checking the model") == 1
    with pytest.raises(Cancelled):
        checks.check(METHOD, bench.options("out"), Ear("checking the model"))


def test_a_file_is_hashed_again_only_where_something_says_that_it_changed(file: Path, monkeypatch) -> None:
    place = model.find(str(file))
    hashed = []
    real = cache.hashes.of_file
    monkeypatch.setattr(cache.hashes, "of_file", lambda path: hashed.append(path) or real(path))
    model.find(str(file))
    assert not hashed
    os.utime(file)
    model.find(str(file), ear := Ear())
    model.find(str(file))
    assert hashed == [file]
    assert not ear.said
    assert (place / "unet").is_dir()


def test_a_change_in_the_same_moment_has_another_time(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    first = cache.seen(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(first["facts"][1], first["facts"][1]))
    assert cache.seen(path, first)["sha256"] != first["sha256"]


@pytest.mark.parametrize("harm", HARM)
def test_kept_tensors_are_those_that_were_put_there_or_none(harm: Harm, tmp_path: Path) -> None:
    kept = TensorCache(tmp_path, events=(ear := Ear()))
    for name in ("aa", "ab"):
        kept.write(name, {"mean": torch.full((4, 8, 8), float(ord(name[1])))})
    whole = files(tmp_path)
    harm(kept.path("aa"))
    assert kept.read("aa") is None
    assert [str(kept.path("aa")) in text for text in ear.said] == ([] if harm is Path.unlink else [True])
    kept.write("aa", {"mean": torch.full((4, 8, 8), float(ord("a")))})
    assert files(tmp_path) == whole
    kept.path("aa").write_bytes(kept.path("ab").read_bytes())  # one entry in the place of another
    assert kept.read("aa") is None and kept.read("ab") is not None


GIVEN = PRIOR | {"sample_batch_size": "3", "max_train_steps": "2"}


def test_a_training_is_the_same_whatever_became_of_what_it_kept(sd1: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TENSHOT_CACHE", str(tmp_path / "cache"))
    bench = Bench(sd1, tiny.pictures(tmp_path / "pictures", 3), tmp_path)
    whole = bench.run("whole", **GIVEN)
    cached = tmp_path / "cache" / "tenshot"
    before = files(cached)
    for harm, kept in ((flip, "latents/*/*"), (cut, "texts/*/*"), (Path.unlink, "class/*/*.png")):
        harm(sorted(cached.glob(kept))[1])
    assert same_weights(whole, bench.run("again", ear := Ear(), **GIVEN))
    assert files(cached) == before
    assert sum("made anew" in text or "drawn again" in text for text in ear.said) == 3


@pytest.fixture(scope="module")
def drawn(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, Ear], torch.Tensor]:
    """Ensures four class pictures, drawn three and then one at once; their latents come back."""
    opened = model.load(str(sd1))
    wanted = replace(prior_images.recipe("model", "a photo of baby", tiny.SIDE, DDPM), steps=3)

    def ensured(place: Path, ear: Ear) -> torch.Tensor:
        latents, _ = prior_images.ensure(opened, place, wanted, 4, 0, 3, ear)
        return torch.stack([mean for mean, _ in latents.each])

    return ensured


@pytest.mark.parametrize("place", ("cache/tenshot/class/one", pytest.param("mine", marks=pytest.mark.slow)))
@pytest.mark.parametrize(
    "target",
    [
        "class-0001*",
        ".tenshot-class.json",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("class-0003*", ".tenshot-class.safetensors")),
    ],
)
def test_drawn_class_pictures_are_whole_or_drawn_again(
    place: str, target: str, drawn: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSHOT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / place
    latents = drawn(folder, Ear())
    before = files(folder)
    for harm in HARM if place != "mine" else (cut, flip, empty, Path.unlink):
        harm(next(folder.glob(target)))
        assert torch.equal(drawn(folder, ear := Ear()), latents)
        assert files(folder) == before
        assert "drawn again" in " ".join(ear.said) or (harm is Path.unlink and "json" in target)
        drawn(folder, again := Ear())
        assert not again.jobs


def test_one_that_was_painted_over_is_the_users_own(bench: Bench) -> None:
    given = GIVEN | {"class_data_dir": bench.folder / "class"}
    whole = bench.run("whole", **given)
    mine = sorted((bench.folder / "class").glob("*.png"))[1]
    mine.write_bytes(next(tiny.pictures(bench.folder / "own", 1, seed=5).iterdir()).read_bytes())
    before = files(bench.folder / "class")
    again = bench.run("again", ear := Ear(), **given)
    assert "drawing class pictures" not in ear.jobs
    assert files(bench.folder / "class") == before
    assert not same_weights(whole, again)
    claim = json.loads((again / "run.json").read_text())
    assert list(claim["inputs"]["class_pictures"]) == [mine.name]


def test_what_lies_in_the_way_of_the_cache_goes(file: Path, tmp_path: Path) -> None:
    (tmp_path / "cache" / "tenshot").mkdir(parents=True)
    (tmp_path / "cache" / "tenshot" / "models").write_text("no folder")
    assert tensors.read(model.find(str(file)) / UNET)
