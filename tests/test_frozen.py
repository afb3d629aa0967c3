"""Weights that rest in the forward's format: the same losses, bit for bit, as torch's autocast casting them anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tenshot.core import device
from tenshot.train.engine import frozen
from tests.dreambooth_runs import Bench, losses

HALF = torch.bfloat16


def test_a_frozen_net_answers_the_same_under_autocast():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Linear(6, 4)).requires_grad_(False)
    net[2].bias.requires_grad_()
    pixels = torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", HALF):
        before = net(pixels)
        frozen.cast_frozen(net, HALF)
        assert torch.equal(net(pixels), before)
    types = {name: p.dtype for name, p in net.named_parameters() if p.dtype == HALF}
    assert types.keys() == {"0.weight", "0.bias", "2.weight"}


@pytest.mark.parametrize(("way", "given"), [
    ("lora", {"layers": "all", "train_text_encoder": True}),
    ("lora", {"layers": "transformer", "use_dora": True}),
    ("inversion", {"placeholder_token": ["<az>"], "initializer_token": ["a"], "learning_rate": "5e-3"}),
    ("dreambooth", {}),
], ids=str)  # fmt: skip
def test_training_is_the_same_bit_for_bit(
    way: str, given: dict[str, Any], sd1: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(device, "bf16_is_native", lambda: True)
    bench, rest, rested = Bench(sd1, pictures, tmp_path, way), frozen.cast_frozen, set()

    def look(net: nn.Module, dtype: torch.dtype) -> None:
        rest(net, dtype)
        rested.update(p.dtype for p in net.parameters())

    monkeypatch.setattr(frozen, "cast_frozen", look)
    given = given | {"mixed_precision": "bf16", "max_train_steps": "2"}
    found = losses(bench.run("rested", **given))
    monkeypatch.setattr(frozen, "cast_frozen", lambda net, dtype: None)
    wanted = losses(bench.run("cast anew", **given))
    assert found == wanted
    assert (HALF in rested) is (way != "dreambooth")  # where all trains, nothing rests
