"""Pictures enlarged by ESRGAN and its kin: small random nets of spandrel's own classes, against their own forward."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tenshot.cli.main import main
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.options import gather
from tenshot.core.size import Size
from tenshot.generate import generate
from tenshot.generate.options import GenerateOptions
from tenshot.io.images import open_picture
from tenshot.io.png import read_infotext
from tenshot.model import upscaler
from tests.hub_server import Hub
from tests.test_inspect import told as told


@contextmanager
def without_torchvision() -> Iterator[None]:
    """spandrel wants it for two nets that are not tried here, and there is not one for every build of torch."""
    if find_spec("torchvision"):
        yield
        return
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    made = {name: ModuleType(name) for name in names}
    for wanted in ("InterpolationMode", "rotate", "normalize"):
        setattr(made[names[2]], wanted, None)
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


with without_torchvision():
    from spandrel.architectures.Compact import Compact
    from spandrel.architectures.ESRGAN import ESRGAN


def random(net: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for each in net.parameters():
            each.copy_(torch.randn(each.shape, generator=generator) * (0.3 / max(1, each[0].numel()) ** 0.5))
    return net.eval()


def esrgan(scale: int = 4) -> torch.nn.Module:
    return random(ESRGAN(num_filters=8, num_blocks=2, scale=scale))


def compact(channels: int = 3) -> torch.nn.Module:
    return random(Compact(num_in_ch=channels, num_out_ch=channels, num_feat=8, num_conv=2, upscale=2))


def picture(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@torch.no_grad()
def by_hand(net: torch.nn.Module, image: Image.Image) -> np.ndarray:
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 255
    return (net(pixels)[0].clamp(0, 1) * 255).permute(1, 2, 0).numpy()


def near(image: Image.Image, expected: np.ndarray) -> bool:
    return image.size == expected.shape[1::-1] and np.abs(np.asarray(image) - expected).max() <= 0.51


def saved(net: torch.nn.Module, name: str = "net.safetensors") -> Path:
    save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, name)
    return Path(name)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("make", [esrgan, compact, lambda: esrgan(1)], ids=["ESRGAN", "Compact", "of scale 1"])
def test_a_net_enlarges_as_it_does_by_hand(make: Callable[[], torch.nn.Module]):
    net, image = make(), picture(24, 16)
    expected = by_hand(net, image)
    assert expected.std() > 5
    height, width = expected.shape[:2]
    assert near(upscaler.read(saved(net))(image, Size(height, width)), expected)


@pytest.mark.parametrize("around", [{}, {"params": None}, {"params": None, "params_ema": 1}, {"net": None, "epoch": 1}])
def test_pickles_are_read_through_the_narrow_door(around: dict[str, Any]):
    net, image = compact(), picture(24, 16)
    inner, other = net.state_dict(), random(compact(), 1).state_dict()
    content = inner if not around else dict.fromkeys(around, inner) | {"epoch": 3}
    if "params_ema" in around:
        content["params"] = other
    torch.save(content, "net.pth")
    assert near(upscaler.read(Path("net.pth"))(image, Size(32, 48)), by_hand(net, image))


def test_from_the_net_to_the_size_as_in_webui():
    """Through the net until it is as large, three times at most, and by Lanczos from there."""
    net, image = compact(), picture(24, 16)
    read = upscaler.read(saved(net))
    once = read(image, Size(32, 48))
    assert read(image, Size(24, 36)) == once.resize((36, 24), Image.Resampling.LANCZOS)
    twice = read(once, Size(64, 96))
    assert read(image, Size(60, 90)) == twice.resize((90, 60), Image.Resampling.LANCZOS)
    thrice = read(twice, Size(128, 192))
    assert read(image, Size(400, 600)) == thrice.resize((600, 400), Image.Resampling.LANCZOS)


@pytest.mark.parametrize("size", [(40, 40), (41, 40), (100, 70), (64, 33)])
def test_tiles_are_the_whole_where_a_net_sees_less_than_their_seams(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
):
    for name, pixels in (("TILE", 40), ("OVERLAP", 24), ("CUT", 8)):
        monkeypatch.setattr(upscaler, name, pixels)
    net, image = compact(), picture(*(side + 4 for side in size)).crop((0, 0, *size))
    read = upscaler.read(saved(net))
    calls: list[tuple[int, ...]] = []
    monkeypatch.setattr(type(read.net), "__call__", counted(type(read.net).__call__, calls))
    assert near(read(image, Size(size[1] * 2, size[0] * 2)), by_hand(net, image))
    assert len(calls) == {40: 1, 41: 2, 100: 15, 64: 3}[size[0]] and max(max(each) for each in calls) == 40


def counted(call: Any, calls: list[tuple[int, ...]]) -> Any:
    def called(self: Any, pixels: torch.Tensor) -> torch.Tensor:
        calls.append(tuple(pixels.shape))
        return call(self, pixels)

    return called


def test_seams_of_a_net_that_sees_far_do_not_show(monkeypatch: pytest.MonkeyPatch):
    net, image = esrgan(2), picture(160, 96)
    read = upscaler.read(saved(net))
    whole = read(image, Size(192, 320))
    for name, pixels in (("TILE", 64), ("OVERLAP", 32), ("CUT", 8)):
        monkeypatch.setattr(upscaler, name, pixels)
    apart = np.abs(np.asarray(read(image, Size(192, 320)), dtype=float) - np.asarray(whole, dtype=float))
    assert apart.max() <= 3


def drawn(*words: str) -> Path:
    (made,) = generate.generate(gather(GenerateOptions, [*words]), Events())["pictures"]
    return Path(made["file"])


def test_a_second_pass_begins_with_what_the_net_made(sd1: Path, told: Any):
    Path("models/upscale_models").mkdir(parents=True)
    file = str(saved(esrgan()).rename("models/upscale_models/4x-Tiny.safetensors"))
    words = ["--model", str(sd1), "--prompt", "a bear", "--seed", "1", "--sampler", "Euler"]
    first = drawn(*words, "--steps", "2", "--out", "first.png")
    upscaler.read(Path(file))(open_picture(first), Size(128, 128)).save("larger.png")
    hires = ["--hires_scale", "2", "--hires_strength", "0.6", "--hires_steps", "5", "--hires_upscaler", file]
    found = drawn(*words, "--steps", "2", *hires, "--out", "found.png")
    size = ["--width", "128", "--height", "128", "--init_image", "larger.png", "--strength", "0.6"]
    expected = drawn(*words, "--steps", "8", *size, "--out", "expected.png")
    assert open_picture(found) == open_picture(expected)
    assert "Hires upscaler: 4x-Tiny" in (read_infotext(found) or "")
    looked = told(found)
    (row,) = [each for each in looked["resources"] if each["what"] == "upscaler"]
    assert row == {"what": "upscaler", "name": "4x-Tiny", "at_hand": True, "file": file}
    assert looked["next"][0].endswith(f"--hires_upscaler {file}")
    again = ["--model", str(sd1), "--from", str(found)]
    assert open_picture(drawn(*again, *hires[-2:], "--out", "b.png")) == open_picture(found)
    assert open_picture(drawn(*again, "--out", "c.png")) != open_picture(found)  # by Lanczos


def test_an_upscaler_of_the_hub(served: Hub, sd1: Path):
    served.add("somebody/nets", {"4x.safetensors": saved(compact()).read_bytes(), "README.md": b"#"})
    words = ["--model", str(sd1), "--prompt", "a", "--steps", "1", "--hires_scale", "2", "--hires_steps", "1"]
    found = drawn(*words, "--hires_upscaler", "somebody/nets:4x.safetensors", "--out", "a.png")
    assert "Hires upscaler: 4x," in (read_infotext(found) or "")


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def files() -> dict[str, Any]:
    state = esrgan().state_dict()
    bomb = {**state, "model.1.sub.900000.RDB1.conv1.0.weight": torch.zeros(1)}
    part = {name: tensor for name, tensor in state.items() if "RDB2" not in name}
    return {"bomb": bomb, "part": part, "other": {"a": torch.zeros(2)}, "grey": compact(1).state_dict()}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("bomb", "higher than there are tensors"),
        ("part", "no whole net"),
        ("other", "no net that is known to enlarge"),
        ("grey", "takes 1 channels"),
        ("evil", "system"),
        ("cut", "cut"),
        ("Latnet", "no such file"),
        ("none.pth", "no such file"),
    ],
)
def test_what_is_no_upscaler_is_refused_before_anything_is_drawn(
    name: str, found: str, sd1: Path, capsys: pytest.CaptureFixture
):
    if name in files():
        save_file({key: tensor.contiguous() for key, tensor in files()[name].items()}, name)
    if name == "evil":
        torch.save({"params": Evil()}, name)
    if name == "cut":
        Path(name).write_bytes(saved(esrgan()).read_bytes()[:-9])
    words = ["--model", str(sd1), "--prompt", "a", "--hires_scale", "2", "--hires_upscaler", name]
    assert main(["generate", *words, "--lora", "no.safetensors"]) == 2
    told = capsys.readouterr().err
    assert found in told and "no.safetensors" in told and not Path("ran").exists() and not Path("out").exists()
    assert ("did you mean Latent?" in told) == (name == "Latnet")
    if "." not in name and name != "Latnet":
        assert main(["generate", *words]) == 2 and found in capsys.readouterr().err


def test_without_spandrel_or_with_a_broken_one_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    file = saved(compact())
    with monkeypatch.context() as patched, pytest.raises(Refusal, match=r"not installed[\s\S]*tenshot\[upscalers\]"):
        patched.setattr(upscaler, "find_spec", lambda name: None)
        upscaler.read(file)
    for name in [name for name in sys.modules if name.partition(".")[0] == "spandrel"]:
        monkeypatch.delitem(sys.modules, name)
    Path("spandrel.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(Path().absolute())
    upscaler._read.cache_clear()
    with pytest.raises(Refusal, match=r"cannot be imported: operator torchvision[\s\S]*tenshot\[upscalers\]"):
        upscaler.read(file)
