"""Tests never reach for the network, their output has one width wherever they run, and they share tiny models."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.dreambooth_runs import Bench
    from tests.hub_server import Hub
    from tests.servers import Running

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_COLOR": "1", "COLUMNS": "120"}
os.environ |= {"TENSHOT_CACHE": tempfile.mkdtemp(prefix="tenshot-tests-")}
os.environ |= {"OMP_NUM_THREADS": "1"}  # tiny nets gain nothing by threads
os.fsync = lambda handle: None  # waiting for the disk takes half the time; a test may lose what it wrote


def pytest_collection_finish() -> None:
    gc.freeze()  # torch and the others stay: looking through them for garbage takes most of a second each time


#: How files begin that share what takes long to make, a server or programs: processes apart would each make their own.
TOGETHER = (
    ("test_serve_",),
    ("test_artifact", "test_atomic", "test_compile", "test_controlnet_words", "test_running", "test_swap"),
)


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile`, and files that belong together go to one process."""
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return next((names[0] for names in TOGETHER if Path(file).stem.startswith(names)), file)

    return Together(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture
def hangups() -> Iterator[None]:
    """A closing terminal ends processes, though the tests themselves were begun under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def _made(name: str, factory: pytest.TempPathFactory) -> Path:
    from tests import tiny

    return getattr(tiny, name)(factory.mktemp("models") / name)


@pytest.fixture(scope="session")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Stable Diffusion 1.x. Do not write into it."""
    return _made("sd1", tmp_path_factory)


@pytest.fixture(scope="session")
def sd2_v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Stable Diffusion 2.x that predicts the velocity. Do not write into it."""
    return _made("sd2_v", tmp_path_factory)


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Stable Diffusion XL. Do not write into it."""
    return _made("sdxl", tmp_path_factory)


@pytest.fixture(scope="session")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Stable Diffusion 3 without T5. Do not write into it."""
    return _made("sd3", tmp_path_factory)


@pytest.fixture(scope="session")
def sd35(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Stable Diffusion 3.5 with T5. Do not write into it."""
    return _made("sd35", tmp_path_factory)


@pytest.fixture(scope="session")
def sd1_controlnets(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ControlNets for it, edges5 and edges6. Do not write into it."""
    from tests.test_controlnet import a_controlnet

    folder = tmp_path_factory.mktemp("controlnets")
    for seed in (5, 6):
        a_controlnet(folder / f"edges{seed}", sd1, seed)
    return folder


@pytest.fixture(scope="session")
def server(sd1: Path, sd1_lora: Path, sd1_controlnets: Path) -> Iterator[Running]:
    """A server of the tiny Stable Diffusion 1.x, of pocket, of a LoRA that is called lora, and of ControlNets."""
    from tests.servers import running

    limits = ("--max_queue=40", "--max_body=2", "--grace=1")
    folders = ("--lora_dir", sd1_lora.parent, "--controlnet_dir", sd1_controlnets)
    with running(sd1, "pocket", *folders, *limits) as found:
        yield found


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five pictures. Do not write into it."""
    from tests import tiny

    return tiny.pictures(tmp_path_factory.mktemp("pictures"), 5)


@pytest.fixture(scope="session")
def sd1_tuned(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another fine-tune of the tiny Stable Diffusion 1.x. Do not write into it."""
    from tests.test_swap import tuned

    return tuned(sd1, tmp_path_factory.mktemp("models") / "tuned")


@pytest.fixture(scope="session")
def sd1_lora(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA for it: the UNet's and the text encoder's."""
    from tests.test_swap import a_lora

    return a_lora(sd1, tmp_path_factory.mktemp("loras") / "lora.safetensors")


@pytest.fixture(scope="session")
def sd1_fast(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Stable Diffusion 1.x with its UNet compiled. Do not write into it."""
    from tests import artifacts

    return artifacts.made(sd1, tmp_path_factory.mktemp("models") / "fast", sections=("unet",))


@pytest.fixture
def bench(sd1: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Runs DreamBooth on the tiny Stable Diffusion 1.x."""
    from tenshot.train.data import prior_images
    from tests.dreambooth_runs import Bench

    monkeypatch.setenv("TENSHOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prior_images, "SETTINGS", replace(prior_images.SETTINGS, steps=3))
    return Bench(sd1, pictures, tmp_path)


@pytest.fixture
def sketches(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a training draws on its way takes it three steps."""
    from tenshot.train.engine import validation

    monkeypatch.setattr(validation, "SamplingSettings", partial(validation.SamplingSettings, steps=3))


@pytest.fixture(scope="session")
def guided(sd1: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished DreamBooth run with the guide's options alone. Do not write into it."""
    from tests.dreambooth_runs import Bench

    return Bench(sd1, pictures, tmp_path_factory.mktemp("runs")).run("guided")


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hugging Face hub on this machine, which huggingface_hub takes for the real one."""
    from huggingface_hub import constants

    from tests import hub_server

    monkeypatch.setenv("TENSHOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with hub_server.running() as running:
        told = {
            "ENDPOINT": running.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": running.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
        }
        for name, value in told.items():
            monkeypatch.setattr(constants, name, value)
        yield running
