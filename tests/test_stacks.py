"""Factors of query, key and value as one, and of norms whose halves are swapped: what they add is what they added."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tenshot.adapters import stacks
from tenshot.adapters.factors import Factors
from tenshot.families import keymaps


def made(rank: int, alpha: float, magnitude: bool = False, seed: int = 0) -> Factors:
    torch.manual_seed(seed)
    size = torch.rand(6, dtype=torch.float64) if magnitude else None
    return Factors(torch.randn(rank, 5, dtype=torch.float64), torch.randn(6, rank, dtype=torch.float64), alpha, size)


@pytest.mark.parametrize(
    "three",
    [
        (made(2, 2), made(2, 2, seed=1), made(2, 2, seed=2)),
        (made(2, 1), made(3, 4, seed=1), made(1, 1, seed=2)),
        (None, made(2, 3, seed=1), None),
    ],
)
def test_stacked(three: tuple[Any, ...]):
    one = stacks.theirs("stacked", three, (6, 6, 6))
    assert one is not None
    expected = [each.difference() if each else torch.zeros(6, 5) for each in three]
    assert torch.allclose(one.difference(), torch.cat(expected), atol=1e-6)
    for found, each in zip(stacks.ours("stacked", one, 3), three, strict=True):
        wanted = each.difference() if each else torch.zeros(6, 5)
        assert torch.allclose(found.difference(), wanted, atol=1e-6)
        assert each is None or found.rank == each.rank


def test_of_one_scale_there_and_back_to_the_bit():
    three = [made(2, 4, seed=seed) for seed in range(3)]
    one = stacks.theirs("stacked", three, (6, 6, 6))
    assert one is not None
    for found, each in zip(stacks.ours("stacked", one, 3), three, strict=True):
        assert torch.equal(found.up, each.up) and torch.equal(found.down, each.down) and found.alpha == each.alpha


def test_a_new_one_keeps_its_rank():
    zeros = Factors(torch.randn(2, 5), torch.zeros(18, 2), 2.0)
    assert [each.rank for each in stacks.ours("stacked", zeros, 3)] == [2, 2, 2]


def test_swapped():
    each = made(2, 1)
    one = stacks.theirs("swapped", [each], (6,))
    assert one is not None
    assert torch.equal(one.difference(), keymaps.theirs_of("swapped", [each.difference()]))
    assert torch.equal(stacks.ours("swapped", one, 1)[0].up, each.up)


def test_magnitudes_go_with_their_rows_or_not_at_all():
    three = [made(2, 2, magnitude=True, seed=seed) for seed in range(3)]
    weight = torch.randn(18, 5, generator=torch.Generator().manual_seed(9))
    one = stacks.theirs("stacked", three, (6, 6, 6))
    assert one is not None
    parts = [each.change(rows) for each, rows in zip(three, weight.chunk(3), strict=True)]
    assert torch.allclose(one.change(weight), torch.cat(parts), atol=1e-6)
    assert stacks.theirs("same", three[:1], (6,)) is three[0]
    turned = stacks.theirs("swapped", three[:1], (6,))
    assert turned is not None
    swapped = keymaps.theirs_of("swapped", [weight[:6]])
    assert torch.allclose(turned.change(swapped), keymaps.theirs_of("swapped", [parts[0]]), atol=1e-6)
    assert stacks.theirs("stacked", [*three[:2], None], (6, 6, 6)) is None
    assert stacks.theirs("stacked", [*three[:2], made(2, 2)], (6, 6, 6)) is None
