"""Weights exchanged in a running compiled model: right, reversible to the bit, and refused as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tenshot
from tenshot.adapters import lora
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.merge import merge
from tenshot.merge.merge import MergeOptions
from tenshot.model import model
from tenshot.model.model import Model
from tenshot.runtime.backend import Candidate
from tests import artifacts

WAYS = [Candidate("openvino", "fp32"), Candidate("eager", "bf16", "channels_last")]
CLOSE = {"fp32": 1e-4, "bf16": 3e-2}
SECTIONS = ("unet", "decoder", "text_encoder")


def tuned(place: Path, folder: Path, seed: int = 7) -> Path:
    """Another fine-tune: every weight a little different."""
    opened = model.load(str(place))
    dice = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in ("unet", "vae", "text_encoder"):
            for tensor in opened[part].parameters():
                tensor.mul_(1 + 0.2 * torch.randn(tensor.shape, generator=dice)).add_(0.01)
    model.save(opened, folder)
    return folder


def a_lora(place: Path, file: Path, seed: int = 8, rank: int = 2, ends: tuple[str, ...] = ("to_q", "conv1")) -> Path:
    """Of the UNet and the text encoder, linear layers and convolutions."""
    opened = model.load(str(place))
    settings = {"unet": _settings(rank, list(ends)), "text_encoder": _settings(rank, ["q_proj", "fc1"])}
    torch.manual_seed(seed)
    fresh = lora.new(settings)
    lora.attach(opened, fresh)
    with torch.no_grad():
        for part in settings:
            for name, tensor in opened[part].named_parameters():
                if "lora_" in name:
                    tensor.normal_(std=0.2)
    lora.write(file, lora.current(opened, settings), opened.parts)
    return file


def _settings(rank: int, ends: list[str]) -> dict[str, object]:
    return {"r": rank, "lora_alpha": 3, "target_modules": ends}


def answers(opened: Model) -> list[torch.Tensor]:
    """Of the UNet, the decoder and the text encoder, to fixed questions."""
    dice = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=dice)
    context = torch.randn(2, 77, opened["unet"].config.cross_attention_dim, generator=dice)
    ids = torch.randint(0, 400, (1, 77), generator=dice)
    with torch.no_grad():
        unet = opened["unet"](latents, 300, context).sample
        return [unet, opened["vae"].decode(latents[:1]).sample, opened["text_encoder"](ids).last_hidden_state]


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def close(found: list[torch.Tensor], wanted: list[torch.Tensor], most: float) -> bool:
    return all(apart(a, b) < most for a, b in zip(found, wanted, strict=True))


def same(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def merged(place: Path, loras: dict[Path, float], out: Path) -> Model:
    """What `tenshot merge` makes of them: an independent way to the same weights."""
    given = {"sd_model": place, "models": list(loras), "ratios": list(loras.values()), "save_to": out}
    merge.merge(MergeOptions.model_validate(given), Events())
    return model.load(str(out))


@pytest.fixture(scope="module")
def other(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tuned(sd1, tmp_path_factory.mktemp("tuned") / "other")


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_weights_come_and_go(way: Candidate, sd1: Path, other: Path, tmp_path: Path):
    opened = tenshot.load(artifacts.made(sd1, tmp_path / "fast", way, SECTIONS))
    before = answers(opened)
    assert close(before, answers(model.load(str(sd1))), CLOSE[way.precision])
    opened.load_weights(other)
    theirs = answers(model.load(str(other)))
    assert close(answers(opened), theirs, CLOSE[way.precision])
    assert not close(before, theirs, 2 * CLOSE["bf16"])
    first, second = a_lora(sd1, tmp_path / "first.safetensors"), a_lora(sd1, tmp_path / "second.safetensors", 9, 4)
    loras = {first: 0.8, second: -0.4}
    opened.set_loras(loras)
    wanted = answers(merged(other, loras, tmp_path / "merged"))
    assert close(answers(opened), wanted, CLOSE[way.precision])
    opened.set_loras({second: 1.0})
    opened.clear_loras()
    assert close(answers(opened), theirs, CLOSE[way.precision])
    opened.load_weights(sd1)
    assert same(answers(opened), before)


@pytest.mark.slow
def test_rounding_follows_the_weights(sd1: Path, tmp_path: Path):
    """int8 rounds between bounds of the weights that are there, not of those it was compiled with.

    What goes into a norm twice as large comes out of it the same: so does the whole answer, unless weights were cut.
    """
    opened = tenshot.load(artifacts.made(sd1, tmp_path / "fast", Candidate("openvino", "int8"), ("unet",)))
    before = answers(opened)[0]
    larger = model.load(str(sd1))
    with torch.no_grad():
        for name, tensor in larger["unet"].named_parameters():
            if ".resnets." in name and (".conv1." in name or ".time_emb_proj." in name):
                tensor.mul_(2)
    model.save(larger, tmp_path / "larger")
    opened.load_weights(tmp_path / "larger")
    assert apart(answers(opened)[0], before) < 0.06
    eights = opened.programs["unet"].buckets[0].runner.places.eights
    assert {each.weight for each in eights} >= {"up_blocks.0.resnets.0.conv1.weight"}
    opened.load_weights(sd1)
    assert torch.equal(answers(opened)[0], before)


@pytest.fixture(scope="module")
def running(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tenshot.load(artifacts.made(sd1, tmp_path_factory.mktemp("fast") / "sd1", sections=SECTIONS))


def test_a_set_of_loras_replaces_the_former(running: Model, sd1: Path, tmp_path: Path):
    first, second = a_lora(sd1, tmp_path / "first.safetensors"), a_lora(sd1, tmp_path / "second.safetensors", 9)
    plain = answers(running)
    running.set_loras({first: 1})
    alone = answers(running)
    running.set_loras({first: 1, second: 1})
    running.set_loras({first: 1})
    assert same(answers(running), alone)
    assert not close(alone, plain, 1e-3)
    running.clear_loras()
    assert same(answers(running), plain)


def test_what_does_not_fit_is_refused_as_a_whole(running: Model, sd1: Path, sd2_v: Path, sdxl: Path, tmp_path: Path):
    good, strange = a_lora(sd1, tmp_path / "good.safetensors"), a_lora(sd2_v, tmp_path / "strange.safetensors")
    before = answers(running)
    with pytest.raises(Refusal) as refused:
        running.set_loras({good: 1, strange: 1, tmp_path / "missing.safetensors": 1})
    assert len(refused.value.faults) == 2
    for place in (sd2_v, sdxl):
        with pytest.raises(Refusal, match="same architecture"):
            running.load_weights(place)
    assert same(answers(running), before)


def test_one_file_checkpoints_are_weights_too(running: Model, sd1: Path, other: Path, tmp_path: Path):
    from tenshot.model import checkpoint

    file = tmp_path / "other.safetensors"
    checkpoint.write(checkpoint.read(other), file, Events())
    before = answers(running)
    running.load_weights(file)
    assert close(answers(running), answers(model.load(str(other))), 1e-4)
    running.load_weights(sd1)
    assert same(answers(running), before)
