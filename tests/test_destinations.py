"""What lies where a result goes: replaced only where it is of our own kind, and never what is being read."""

from __future__ import annotations

import os
import shutil
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from tenshot.cli.main import main
from tests.test_adapter_files import a_lora


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture(scope="module")
def stock(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model m, its copy m2, a file a.safetensors with it, a LoRA, and folders of the user's."""
    folder = tmp_path_factory.mktemp("stock")
    for name in ("m", "m2", "models/m", "with-notes", "deep"):
        shutil.copytree(sd1, folder / name)
    assert main(["convert", str(sd1), str(folder / "a.safetensors")]) == 0
    shutil.copyfile(folder / "a.safetensors", folder / "models" / "a.safetensors")
    a_lora(sd1, folder / "lora.safetensors")
    (folder / "with-notes" / "notes.txt").write_text("mine")
    (folder / "deep" / "unet" / "notes.txt").write_text("mine")
    (folder / "run" / "checkpoint-2").mkdir(parents=True)
    (folder / "run" / "checkpoint-2" / "unet.safetensors").write_bytes(b"hours of work")
    shutil.copyfile(folder / "m" / "model_index.json", folder / "run" / "model_index.json")
    (folder / "diary.safetensors").write_text("dear diary, nothing of this is a tensor")
    (folder / "diary.txt").write_text("dear diary")
    (folder / "site").mkdir()
    (folder / "site" / "index.html").write_text("mine")
    (folder / "site" / "manifest.json").write_text('{"name": "a page", "files": ["index.html", "manifest.json"]}')
    shutil.copytree(sd1 / "vae", folder / "net")
    assert main(["convert", str(sd1 / "vae"), str(folder / "vae.safetensors")]) == 0
    (folder / "loop").symlink_to("loop")
    (folder / "nothing").symlink_to("unplugged/disk")
    (folder / "linked").symlink_to("m", target_is_directory=True)
    os.link(folder / "a.safetensors", folder / "same.safetensors")
    return folder


REFUSED = {
    "a folder with the source in it": "convert models/a.safetensors models",
    "the same by another way": "convert models/a.safetensors m/../models",
    "the source itself": "convert m m",
    "the source by a link": "convert m linked",
    "a file, itself": "convert a.safetensors a.safetensors --dtype fp16",
    "a file by another name of it": "convert a.safetensors same.safetensors --dtype fp16",
    "inside the source": "convert m m/unet",
    "a new place inside the source": "convert m m/new",
    "a file of the source": "convert m m/unet/diffusion_pytorch_model.safetensors",
    "where one stands": "convert a.safetensors .",
    "above": "convert m ..",
    "a model with notes in it": "convert a.safetensors with-notes",
    "a model with notes deep in it": "convert a.safetensors deep",
    "a training's folder": "convert a.safetensors run",
    "a file for a folder": "convert a.safetensors diary.txt",
    "a folder for a file": "convert m models",
    "no tensors": "convert m diary.safetensors",
    "merge into its base": "merge --sd_model m --models lora.safetensors --save_to m",
    "merge into the folder of all": "merge --sd_model models/m --models lora.safetensors --save_to models",
    "merge into a training's folder": "merge --sd_model m --models lora.safetensors --save_to run",
    "merge into one of the models": "merge --sd_model m --models m2 --ratios 0.5 --save_to m2",
    "merge over its LoRA": "merge --models lora.safetensors --save_to lora.safetensors",
    "merge over the config": "merge --sd_model a.safetensors --config m --models lora.safetensors --save_to m",
    "extract over the model": "extract m --base m2 --out m2/unet/diffusion_pytorch_model.safetensors",
    "extract over a diary": "extract m --base m2 --out diary.safetensors",
    "resize onto itself": "resize lora.safetensors --rank 1 --out lora.safetensors",
    "resize over a diary": "resize lora.safetensors --rank 1 --out diary.safetensors",
    "compile into the model": "compile m --out m",
    "compile over a model": "compile m --out m2",
    "compile above the model": "compile models/m --out models",
    "compile over a page whose manifest names its files": "compile m --out site",
    "the VAE that is taken": "convert a.safetensors m2/vae --vae m2/vae",
    "above the VAE that is taken": "convert a.safetensors m2 --vae m2/vae",
    "above the VAE that is merged with": "merge --sd_model m --models lora.safetensors --vae m2/vae --save_to m2",
    "the VAE that is extracted with": "extract m --base a.safetensors --vae vae.safetensors --out vae.safetensors",
    "the configuration of a LoRA": "resize lora.safetensors --rank 1 --config a.safetensors --out a.safetensors",
    "the preview": "convert lora.safetensors cat.png --preview cat.png",
    "a model's part": "merge --sd_model m --models lora.safetensors --save_to m2/unet",
    "a part by a part": "convert vae.safetensors m2/vae",
    "a file of a model": "resize lora.safetensors --rank 1 --out m2/vae/diffusion_pytorch_model.safetensors",
    "a file of a net": "resize lora.safetensors --rank 1 --out net/diffusion_pytorch_model.safetensors",
    "a link to itself": "convert m loop",
    "a link to nothing": "convert m nothing",
    "within a link to itself": "convert m loop/new",
    "what is swept away": "convert m .tenshot-new.part",
}


@pytest.mark.parametrize("line", REFUSED.values(), ids=REFUSED)
def test_nothing_of_the_users_is_replaced(line: str, stock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stock)
    before = everything(stock)
    assert main([*line.split(), "--overwrite"]) == 2
    assert everything(stock) == before


REPLACED = {
    "a model folder": ("convert a.safetensors m2", "m2"),
    "an empty folder": ("convert a.safetensors empty", "empty"),
    "a file": ("convert m models/a.safetensors", "models/a.safetensors"),
    "a merged model": ("merge --sd_model m --models lora.safetensors --save_to models/m", "models/m"),
    "a link to a file": ("convert m link.safetensors", "link.safetensors"),
}


@pytest.mark.parametrize(("line", "place"), REPLACED.values(), ids=REPLACED)
def test_a_former_result_is_replaced(line: str, place: str, stock: Path, tmp_path: Path, monkeypatch) -> None:
    shutil.copytree(stock, tmp_path / "stock", symlinks=True)
    monkeypatch.chdir(tmp_path / "stock")
    Path("empty").mkdir()
    Path("link.safetensors").symlink_to("lora.safetensors")
    before = everything(Path())
    assert main(line.split()) == 2  # it says how: --overwrite
    assert everything(Path()) == before
    assert main([*line.split(), "--overwrite"]) == 0
    after = everything(Path())
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert all(name == place or name.startswith(f"{place}/") for name in changed)


def test_a_picture_of_ours_is_drawn_anew_and_no_other(
    sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["generate", "--model", str(sd1), "--prompt", "a cat", "--steps", "1", "--out", "cat.png"]
    assert main([*line, "--seed", "1"]) == 0
    first = Path("cat.png").read_bytes()
    assert main([*line, "--seed", "2"]) == 0
    assert Path("cat.png").read_bytes() != first
    for other in (b"", b"no picture", _photo()):
        Path("cat.png").write_bytes(other)
        assert main(line) == 2
        assert Path("cat.png").read_bytes() == other


def _photo() -> bytes:
    kept = BytesIO()
    Image.new("RGB", (8, 8)).save(kept, "PNG")
    return kept.getvalue()


@pytest.mark.parametrize("suffix", (".json", ".png", ".yaml"))
def test_what_lies_beside_is_not_replaced_either(suffix: str, stock: Path, tmp_path: Path, monkeypatch) -> None:
    shutil.copyfile(stock / "lora.safetensors", tmp_path / "mine.safetensors")
    shutil.copytree(stock / "m", tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    beside = Path("ui/models/Lora/mine").with_suffix(suffix)
    beside.parent.mkdir(parents=True)
    beside.write_text("the user's own")
    for line in (
        "convert mine.safetensors --to webui ui --config m",
        "merge --models mine.safetensors --save_to out/mine.safetensors --config m --export webui:ui",
    ):
        assert main(line.split()) == 2
    assert beside.read_text() == "the user's own"
    assert [path.name for path in beside.parent.iterdir()] == [beside.name]
