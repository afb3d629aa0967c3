"""Models, LoRAs, VAEs and words by their names on the Hugging Face hub, from a server that speaks its protocol."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file

import tenshot
from tenshot.adapters import embedding
from tenshot.cli.main import main
from tenshot.core.errors import Cancelled, Refusal
from tenshot.core.events import Events
from tenshot.core.options import gather
from tenshot.core.shipped import ASSETS
from tenshot.generate.options import GenerateOptions
from tenshot.model import hub, model
from tenshot.train.options import LoraOptions
from tests.dreambooth_runs import TEXT, UNET
from tests.hub_server import TOKEN, Hub

SHORT = ["--prompt", "a bear", "--steps", "2", "--seed", "1", "--width", "64", "--height", "64", "--device", "cpu"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def drawn(target: Path, *words: object) -> Image.Image:
    assert main(["generate", *map(str, words), *SHORT, "--out", str(target)]) == 0
    return Image.open(target)


def faults(*words: object) -> dict[str, str]:
    """What `generate` refuses, by option."""
    with pytest.raises(Refusal) as caught:
        hub.fetched(gather(GenerateOptions, ["--prompt", "a", *map(str, words)]), Events())
    found: dict[str, str] = {}
    for fault in caught.value.faults:
        found[fault.where] = found.get(fault.where, "") + str(fault)
    return found


def test_a_model_by_its_name_draws_what_its_folder_draws(served: Hub, sd1: Path, tmp_path: Path):
    own = contents(sd1)
    litter = {
        "README.md": b"# tiny",
        "tiny.ckpt": b"a" * 30_000,
        "flax_model.msgpack": b"b",
        "unet/diffusion_pytorch_model.bin": b"c" * 30_000,
        "unet/model.onnx": b"d",
        "safety_checker/config.json": b"{}",
        "safety_checker/model.safetensors": b"e" * 30_000,
        "../outside.txt": b"f",
        "tokenizer/..\\outside.json": b"g",
    }
    commit = served.add("somebody/tiny-model", {**own, **litter})
    one = drawn(tmp_path / "one.png", "--model", "somebody/tiny-model")
    assert one.tobytes() == drawn(tmp_path / "other.png", "--model", sd1).tobytes()
    assert f"Model: tiny-model, Model source: somebody/tiny-model@{commit}," in one.info["parameters"]
    assert set(served.fetched()) == own.keys()
    served.asked.clear()
    drawn(tmp_path / "again.png", "--model", "somebody/tiny-model")
    assert not served.fetched()


def test_a_name_without_a_network(served: Hub, sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    served.add("somebody/tiny", sd1)
    before = drawn(tmp_path / "before.png", "--model", "somebody/tiny")
    asked = len(served.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert drawn(tmp_path / "offline.png", "--model", "somebody/tiny").tobytes() == before.tobytes()
    assert len(served.asked) == asked
    assert "HF_HUB_OFFLINE" in faults("--model", "somebody/else")["--model"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for status in (401, 404, 503):
        served.status = status
        assert drawn(tmp_path / f"{status}.png", "--model", "somebody/tiny").tobytes() == before.tobytes()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert drawn(tmp_path / "away.png", "--model", "somebody/tiny").tobytes() == before.tobytes()
    assert "cannot be reached" in faults("--model", "somebody/else")["--model"]
    for path in (tmp_path / "hub").rglob("diffusion_pytorch_model.safetensors"):
        path.unlink()
    assert "no .safetensors in" in faults("--model", "somebody/tiny")["--model"]


def test_a_revision_stays_when_the_main_branch_moves(served: Hub, sd1: Path, sd1_tuned: Path):
    first = served.add("somebody/tiny", sd1)
    served.add("somebody/tiny", sd1, "v1")
    assert model.find("somebody/tiny").name == first
    second = served.add("somebody/tiny", sd1_tuned)
    assert first != second
    for name, commit in {"": second, "@v1": first, f"@{first}": first, f"@{second}": second}.items():
        found = model.find(f"somebody/tiny{name}")
        assert found.name == commit
        assert contents(found) == contents(sd1 if commit == first else sd1_tuned)


def test_a_torn_download_goes_on_where_it_stopped(served: Hub, sd1: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # a second before each start
    served.add("somebody/tiny", sd1)
    size = (sd1 / UNET).stat().st_size
    served.cut[UNET] = [size // 3, size // 3]
    assert contents(model.find("somebody/tiny")) == contents(sd1)
    assert served.ranges(UNET) == ["bytes=0-", f"bytes={size // 3}-", f"bytes={2 * (size // 3)}-"]


def test_a_stopped_download_goes_on_where_it_stopped(served: Hub, sd1: Path, tmp_path: Path):
    served.add("somebody/tiny", sd1)

    class Impatient(Events):
        def cancelled(self) -> bool:
            return any(path.stat().st_size > 100_000 for path in tmp_path.rglob("*.incomplete"))

    with pytest.raises(Cancelled, match="goes on"):
        model.find("somebody/tiny", Impatient())
    (part,) = tmp_path.rglob("*.incomplete")
    have, digest = part.stat().st_size, part.stem
    served.asked.clear()
    assert contents(model.find("somebody/tiny")) == contents(sd1)
    stopped = next(path for path, data in contents(sd1).items() if hashlib.sha256(data).hexdigest() == digest)
    assert have < len(contents(sd1)[stopped]) and served.ranges(stopped) == [f"bytes={have}-"]
    assert not [*tmp_path.rglob("*.incomplete")]


def test_what_comes_over_damaged_is_refused_and_not_kept(served: Hub, sd1: Path, tmp_path: Path):
    served.add("somebody/tiny", sd1)
    served.false.add(UNET)
    with pytest.raises(Refusal, match="came over damaged"):
        model.find("somebody/tiny")
    assert not [*tmp_path.rglob("*.incomplete")]
    served.false.clear()
    assert contents(model.find("somebody/tiny")) == contents(sd1)


def test_a_gated_model_wants_a_token_which_goes_nowhere_else(served: Hub, sd1: Path, monkeypatch: pytest.MonkeyPatch):
    served.add("somebody/gated", sd1, gated=True)
    served.add("somebody/private", sd1, private=True)
    told = faults("--model", "somebody/gated", "--vae", "somebody/private:vae")
    assert f"agree at {served.url}/somebody/gated" in told["--model"] and "HF_TOKEN" in told["--model"]
    assert "shows no repository of that name" in told["--vae"] and "HF_TOKEN" in told["--vae"]
    assert not served.fetched()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name in ("somebody/gated", "somebody/private"):
        assert contents(model.find(name)) == contents(sd1)
    elsewhere = [about for _, path, about in served.asked if path.startswith("/elsewhere/")]
    assert elsewhere and not [about for about in elsewhere if "authorization" in {name.lower() for name in about}]


def test_everything_wrong_is_told_at_once_before_anything_is_fetched(served: Hub, sd1: Path, tmp_path: Path):
    served.add("somebody/tiny", sd1)
    served.add("somebody/files", {"one.safetensors": b"1", "more/two.ckpt": b"2", "README.md": b"3"})
    (tmp_path / "file").write_text("no folder")
    words = ["--lora", "somebody/files", "some/none=0.5", "some/up:../../x", "--out", tmp_path / "file" / "x.png"]
    told = faults(
        "--model", "somebody/tiny@v9", *words, "--embedding", "somebody/files:one.safetensor", "--vae", "no/vae"
    )
    assert "no revision v9" in told["--model"]
    assert "is no path within a repository" in told["--lora"]
    assert "is a file" in told["--out"] and "no/vae: no such" in told["--vae"]
    assert "somebody/files:one.safetensors" in told["--embedding"]
    told = faults("--lora", "somebody/files", "--model", "somebody/files", "--vae", "somebody/tiny")
    for option in ("--lora", "--model"):
        assert "somebody/files:more/two.ckpt, somebody/files:one.safetensors" in told[option]
    assert "somebody/tiny:vae" in told["--vae"]
    assert not served.fetched()
    options = GenerateOptions(prompt=["a"], model="somebody/none", out=tmp_path / "file" / "x", device="cuda:77")
    with pytest.raises(Refusal) as caught:
        hub.fetched(options, Events())
    assert [fault.where for fault in caught.value.faults] == ["--model", "--out", "--device"]
    assert main(["generate", "--model", "somebody/none", *SHORT, "--out", str(tmp_path / "no.png")]) == 2
    assert not (tmp_path / "no.png").exists()


def test_a_path_that_is_there_is_no_name(served: Hub, sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    served.add("somebody/tiny", {"README.md": b"another"})
    shutil.copytree(sd1, tmp_path / "somebody" / "tiny")
    monkeypatch.chdir(tmp_path)
    assert model.find("somebody/tiny") == Path("somebody/tiny")
    assert not served.asked


def variant(folder: Path, target: Path, name: str | None = "fp16", shard: str = "1TB") -> Path:
    """The same model with its nets' weights as a variant, in shards."""
    opened = model.load(str(folder))
    shutil.copytree(folder, target)
    for part in ("unet", "vae", "text_encoder"):
        (target / TEXT if part == "text_encoder" else target / part / "diffusion_pytorch_model.safetensors").unlink()
        opened[part].to(torch.float16 if name else None).save_pretrained(
            target / part, variant=name, max_shard_size=shard
        )
    return target


def test_weights_in_half_precision_are_taken_for_drawing_and_full_ones_for_training(
    served: Hub, sd1: Path, pictures: Path, tmp_path: Path
):
    half = variant(sd1, tmp_path / "half")
    served.add("somebody/both", {**contents(half), **contents(sd1)})
    served.add("somebody/half", half)
    hub.fetched(gather(GenerateOptions, ["--prompt", "a", "--model", "somebody/both"]), Events())
    assert {"unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.fp16.safetensors"} <= {
        *served.fetched()
    }
    assert not {UNET, TEXT} & {*served.fetched()}
    train = ["--instance_data_dir", str(pictures), "--instance_prompt", "az", "--pretrained_model_name_or_path"]
    place = hub.fetched(gather(LoraOptions, [*train, "somebody/both"]), Events()).pretrained_model_name_or_path
    assert {UNET, TEXT} <= {*served.fetched()} and (Path(place) / UNET).is_file()
    place = hub.fetched(gather(LoraOptions, [*train, "somebody/half"]), Events()).pretrained_model_name_or_path
    assert model.load(place).dtype == torch.float32
    served.add("somebody/full-first", {**contents(half), **contents(sd1)})
    model.find("somebody/full-first")
    served.asked.clear()
    tenshot.load("somebody/full-first")
    assert not served.fetched()


@pytest.mark.parametrize("name", [None, "fp16"])
def test_a_model_in_shards(served: Hub, sd1: Path, tmp_path: Path, name: str | None):
    shards = variant(sd1, tmp_path / "shards", name, "1MB")
    assert len([*(shards / "unet").glob("*-of-*.safetensors")]) > 1
    served.add("somebody/shards", {**contents(shards), "unet/diffusion_pytorch_model.bin.index.json": b"{}"})
    ours, theirs = tenshot.load("somebody/shards"), model.load(str(sd1))
    for part in ("unet", "vae", "text_encoder"):
        for one, other in zip(ours[part].parameters(), theirs[part].parameters(), strict=True):
            assert torch.equal(one, other.half().float() if name else other)


def test_a_lora_a_vae_and_a_word_by_name(served: Hub, sd1: Path, sd1_lora: Path, tmp_path: Path):
    served.add("somebody/tiny-lora", {"pytorch_lora_weights.safetensors": sd1_lora.read_bytes(), "README.md": b""})
    served.add("somebody/loras", {"sub/az.safetensors": sd1_lora.read_bytes(), "other.safetensors": b""})
    served.add("somebody/tiny", sd1)
    local = drawn(tmp_path / "local.png", "--model", sd1, "--lora", f"{sd1_lora}=0.5", "--vae", sd1 / "vae")
    for name, called in {"tiny-lora": "tiny-lora", "loras:sub/az.safetensors": "az"}.items():
        words = ["--lora", f"somebody/{name}=0.5", "--vae", "somebody/tiny:vae"]
        found = drawn(tmp_path / f"{called}.png", "--model", "somebody/tiny", *words)
        assert found.tobytes() == local.tobytes()
        assert f"<lora:{called}:0.5>" in found.info["parameters"]
    assert served.fetched().count("vae/diffusion_pytorch_model.safetensors") == 1


def test_a_checkpoint_file_of_a_repository(served: Hub, sd1: Path, tmp_path: Path):
    assert main(["convert", str(sd1), str(tmp_path / "v1-5.safetensors")]) == 0
    content = (tmp_path / "v1-5.safetensors").read_bytes()
    commit = served.add("somebody/files", {"models/v1-5.safetensors": content, "other.ckpt": b"a" * 30_000})
    found = drawn(tmp_path / "one.png", "--model", "somebody/files:models/v1-5.safetensors")
    assert found.tobytes() == drawn(tmp_path / "other.png", "--model", tmp_path / "v1-5.safetensors").tobytes()
    source = f'Model source: "somebody/files@{commit}:models/v1-5.safetensors"'
    assert "Model: v1-5, " in found.info["parameters"] and source in found.info["parameters"]
    assert served.fetched() == ["models/v1-5.safetensors"]


def test_a_hub_that_is_none(served: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "ENDPOINT", f"{served.url}/elsewhere")
    assert "answers 404" in faults("--model", "somebody/tiny")["--model"]
    monkeypatch.setattr(constants, "ENDPOINT", served.url)
    served.add("somebody/odd", {"model_index.json": b"{}"})
    kept = served.repositories["somebody/odd"]
    kept.commits["../../../x"] = kept.commits.pop(kept.revisions["main"])
    kept.revisions["main"] = "../../../x"
    assert "names no commit" in faults("--model", "somebody/odd")["--model"]


def test_what_huggingface_hub_fetched_itself_is_found(served: Hub, sd1: Path):
    served.add("somebody/tiny", sd1)
    place = huggingface_hub.snapshot_download("somebody/tiny")
    served.asked.clear()
    assert model.find("somebody/tiny") == Path(place)
    assert not served.fetched()
    assert huggingface_hub.snapshot_download("somebody/tiny", local_files_only=True) == place


def test_a_word_by_name(served: Hub, sd1: Path, tmp_path: Path):
    rows = {"<az>": torch.ones(1, model.load(str(sd1))["text_encoder"].config.hidden_size)}
    save_file(rows, tmp_path / "learned_embeds.safetensors")
    content = (tmp_path / "learned_embeds.safetensors").read_bytes()
    served.add("somebody/az", {"learned_embeds.safetensors": content, "learned_embeds.bin": b"a pickle"})
    place = hub.find("somebody/az", "word")
    assert embedding.read(place)[0] == "<az>"
    assert served.fetched() == ["learned_embeds.safetensors"]


@pytest.mark.slow
def test_a_killed_download_goes_on_where_it_stopped(served: Hub, tmp_path: Path):
    """In a process of its own, which takes the address, the cache and the token from the environment."""
    served.add("somebody/pocket", ASSETS / "pocket", private=True)
    served.hangs[UNET] = 20_000_000
    environment = {
        **os.environ,
        "HF_ENDPOINT": served.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
    }
    command = [sys.executable, "-m", "tenshot", "inspect", "somebody/pocket", "--json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not any(each.stat().st_size >= 19_000_000 for each in tmp_path.rglob("*.incomplete")):
            assert process.poll() is None
            time.sleep(0.1)
        process.kill()
    have = next(tmp_path.rglob("*.incomplete")).stat().st_size
    served.go_on.set()
    served.hangs.clear()
    served.asked.clear()
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert served.ranges(UNET) == [f"bytes={have}-"]
    assert json.loads(done.stdout)["parameters"]["unet"] > 10_000_000
    assert (tmp_path / "home" / "hub" / "models--somebody--pocket" / "refs" / "main").is_file()
