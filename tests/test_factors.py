"""Factors and differences of adapters against closed forms, entry by entry, and singular values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tenshot.adapters import factors, weight_delta
from tenshot.adapters.factors import Factors
from tenshot.adapters.loha_lokr import Hadamard, Kronecker, Pair, hadamard, kronecker
from tenshot.adapters.weight_delta import alike, misfits, summed
from tenshot.core.errors import Refusal

LAYER = ("unet", "mid_block.attn.to_q")


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(rank: int = 3, alpha: float = 5.0, **more: torch.Tensor) -> Factors:
    return Factors(some(rank, 6), some(7, rank, seed=1), alpha, **more)


def convolution(rank: int = 3, alpha: float = 5.0, **more: torch.Tensor) -> Factors:
    return Factors(some(rank, 4, 3, 3), some(7, rank, 1, 1, seed=1), alpha, **more)


class TestFactors:
    def test_a_linear_layers_entries(self):
        each = linear()
        assert (each.shape, each.rank, each.scale) == ((7, 6), 3, 5 / 3)
        found = each.difference()
        for o in range(7):
            for i in range(6):
                wanted = 5 / 3 * sum(each.up[o, r].item() * each.down[r, i].item() for r in range(3))
                assert found[o, i].item() == pytest.approx(wanted, rel=1e-4, abs=1e-6)

    def test_a_convolutions_entries_are_those_of_two_convolutions(self):
        each, picture = convolution(), some(2, 4, 5, 5, seed=2)
        assert each.shape == (7, 4, 3, 3)
        through = torch.conv2d(torch.conv2d(picture, each.down), each.up) * 5 / 3
        torch.testing.assert_close(torch.conv2d(picture, each.difference()), through, rtol=1e-4, atol=1e-4)

    def test_halves_are_multiplied_in_float32(self):
        each = replace(linear(), down=linear().down.half(), up=linear().up.double())
        assert each.difference().dtype == torch.float32
        each = replace(linear(), down=linear().down.double(), up=linear().up.half())
        assert each.difference().dtype == torch.float32

    def test_the_magnitude_as_peft_keeps_it(self):
        assert linear().magnitude_vector is None and convolution().magnitude_vector is None
        numbers = some(7)
        for shape in ((7,), (7, 1)):
            assert torch.equal(linear(magnitude=numbers.reshape(shape)).magnitude_vector, numbers)
        for shape in ((7,), (7, 1, 1, 1)):
            found = convolution(magnitude=numbers.reshape(shape)).magnitude_vector
            assert torch.equal(found, numbers.reshape(1, 7, 1, 1))

    def test_kernels_come_and_go_with_the_layer(self):
        shapes = {LAYER: (7, 4, 3, 3)}
        whole = convolution()
        flat = replace(whole, down=whole.down.flatten(1), up=whole.up.flatten(1))
        for given in (whole, flat, replace(whole, up=whole.up.flatten(1))):
            made = factors.as_in(shapes, {LAYER: given})[LAYER]
            assert torch.equal(made.down, whole.down) and torch.equal(made.up, whole.up)
        thin = Factors(some(3, 6, 1, 1), some(7, 3, 1, 1, seed=1), 5.0)
        made = factors.as_in({LAYER: (7, 6)}, {LAYER: thin})[LAYER]
        assert torch.equal(made.down, thin.down.flatten(1)) and torch.equal(made.up, thin.up.flatten(1))
        back = factors.as_in({LAYER: (7, 6, 1, 1)}, {LAYER: made})[LAYER]
        assert torch.equal(back.down, thin.down) and torch.equal(back.up, thin.up)
        narrow = factors.as_in({LAYER: (7, 3, 1, 2)}, {LAYER: Factors(some(3, 6), some(7, 3), 5.0)})[LAYER]
        assert (narrow.down.shape, narrow.up.shape) == ((3, 3, 1, 2), (7, 3, 1, 1))
        assert factors.as_in({}, {LAYER: whole})[LAYER].down.shape == whole.down.shape

    @pytest.mark.parametrize("shape", [(7, 5, 3, 3), (7, 36, 2, 2), (7, 36)])
    def test_what_cannot_be_shaped_stays_as_it_is(self, shape: tuple[int, ...]):
        """A 3x3 kernel for a layer of another kernel or of none; flat factors that no whole kernels come out of."""
        whole = convolution()
        given = replace(whole, down=whole.down[:, :, :1].contiguous()) if shape == (7, 5, 3, 3) else whole
        assert factors.as_in({LAYER: shape}, {LAYER: given})[LAYER] is given
        odd = Factors(some(3, 10), some(7, 3, seed=1), 5.0)
        assert factors.as_in({LAYER: (7, 1, 3, 3)}, {LAYER: odd})[LAYER] is odd


class TestFewerRanks:
    @pytest.mark.parametrize("each", [linear(5), convolution(5)], ids=["linear", "convolution"])
    @pytest.mark.parametrize("rank", [1, 2, 5, 9])
    def test_it_is_the_best_there_is(self, each: Factors, rank: int):
        """Eckart and Young: what is lost are the smaller singular values."""
        u, s, v = torch.linalg.svd(each.difference().flatten(1).double(), full_matrices=False)
        kept = min(rank, 5)
        wanted = ((u[:, :kept] * s[:kept]) @ v[:kept]).reshape(each.shape).float()
        for made in (factors.truncated(each, rank), factors.nearest(each.difference(), kept)):
            assert made.rank == kept and made.alpha == kept and made.scale == 1
            assert made.down.is_contiguous() and made.up.is_contiguous()
            assert (made.down.shape[1:], made.up.shape[0], made.up.shape[2:]) == (
                each.down.shape[1:],
                each.up.shape[0],
                each.up.shape[2:],
            )
            torch.testing.assert_close(made.difference(), wanted, rtol=1e-3, atol=1e-4)
            balanced = made.down.flatten(1).norm(dim=1), made.up.flatten(1).norm(dim=0)
            torch.testing.assert_close(*balanced, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize(("keep", "wanted"), [(0.5, 1), (0.64, 1), (0.7, 2), (0.98, 3), (0.99, 4)])
    def test_as_few_as_keep_a_share_of_the_energy(self, keep: float, wanted: int):
        """Singular values 8, 5, 3, 1.2: 64, 25, 9 and 1.44 of 99.44."""
        left, right = (torch.linalg.qr(some(6, 6, seed=seed)).Q[:, :4] for seed in (1, 2))
        values = torch.tensor([8.0, 5.0, 3.0, 1.2])
        difference, whole = (left * values) @ right.T, Factors(right.T.contiguous(), left * values, 4.0)
        assert factors.nearest(difference, 6, keep).rank == factors.truncated(whole, 4, keep).rank == wanted
        assert factors.nearest(difference, 1, keep).rank == 1 and factors.truncated(whole, 4).rank == 4
        assert factors.nearest(2 * torch.eye(2), 2, 0.5).rank == 1  # exactly its share

    def test_it_reads_halves_in_float32_and_keeps_a_magnitude(self):
        each = replace(linear(magnitude=some(7)), down=linear().down.half(), up=linear().up.half())
        made = factors.truncated(each, 3)
        assert made.down.dtype == torch.float32 and made.magnitude is each.magnitude
        torch.testing.assert_close(made.difference(), each.difference(), rtol=1e-3, atol=1e-4)
        assert factors.nearest(each.difference().half(), 2).down.dtype == torch.float32


@pytest.mark.parametrize("spoiled", [float("nan"), float("inf"), 3e38])
def test_one_number_that_is_none_is_refused(spoiled: float):
    each = linear()
    each.up[2, 1] = spoiled
    with pytest.raises(Refusal, match="NaN or infinite"):
        factors.nearest(each.difference(), 2)


def test_how_far_apart_two_are():
    one, other = (
        {LAYER: linear(), ("unet", "b"): convolution()},
        {LAYER: linear(alpha=4.0), ("unet", "b"): convolution()},
    )
    a, b = linear().difference(), convolution().difference()
    away, whole = (a / 5).square().sum(), a.square().sum() + b.square().sum()
    assert factors.apart(one, other) == pytest.approx(float(away / whole) ** 0.5, rel=1e-4)
    none = {LAYER: Factors(torch.zeros(3, 6), torch.zeros(7, 3), 3.0)}
    assert factors.apart(none, {LAYER: linear()}) == 0
    quarter = {LAYER: Factors(torch.full((1, 1), 0.25), torch.ones(1, 1), 1.0)}
    assert factors.apart(quarter, {LAYER: replace(quarter[LAYER], alpha=2.0)}) == 1


def test_the_most_frequent_number_is_the_usual_one():
    assert factors.usual([4, 8, 8, 16, 8, 4]) == 8


def test_facts_of_an_adapter():
    found = {LAYER: linear(), ("unet", "b"): linear(), ("unet", "c"): convolution(2, 1.0)}
    told = factors.facts(Path("a.safetensors"), found)
    assert told == {"written": "a.safetensors", "layers": 3, "rank": 3, "alpha": 5.0}


def test_magnitudes_have_the_sides_that_programs_expect():
    numbers = some(7)
    found = {LAYER: linear(magnitude=numbers), ("unet", "b.conv1"): convolution(magnitude=numbers)}
    named = factors.to_kohya(found, None)
    shapes = {tensor.shape for name, tensor in named.items() if name.endswith("dora_scale")}
    assert shapes == {(7, 1), (7, 1, 1, 1)}
    by_input = {LAYER: linear(magnitude=some(1, 6))}
    assert [tensor.shape for name, tensor in factors.to_kohya(by_input, None).items() if "dora" in name] == [(1, 6)]


class TestWhatItAdds:
    @pytest.mark.parametrize("ratio", [1.0, 0.6, -0.3])
    @pytest.mark.parametrize("each", [linear(), convolution()], ids=["linear", "convolution"])
    def test_without_a_magnitude_it_is_the_difference(self, each: Factors, ratio: float):
        weight = some(*each.shape, seed=3)
        torch.testing.assert_close(each.change(weight, ratio), ratio * each.difference())
        assert torch.equal(each.change(weight), each.change(weight, 1.0))

    @pytest.mark.parametrize("ratio", [1.0, 0.6])
    @pytest.mark.parametrize("each", [linear(), convolution()], ids=["linear", "convolution"])
    @pytest.mark.parametrize("axis", [0, 1])
    def test_dora_is_the_papers(self, each: Factors, ratio: float, axis: int):
        """arXiv 2402.09353, equation 5: every output's weight (or input's) has the length that was learned."""
        weight = some(*each.shape, seed=3).double()
        numbers = some(each.shape[axis], seed=4).abs() + 0.5
        sides = [-1 if place == axis else 1 for place in range(weight.ndim)]
        dora = replace(each, magnitude=numbers.reshape(sides))
        assert dora.by_input == (axis == 1) and dora.fits(each.shape)
        new = weight + dora.change(weight, ratio)
        straight = weight + ratio * each.difference()
        for place in range(each.shape[axis]):
            row, wanted = (tensor.select(axis, place).flatten() for tensor in (new, straight))
            assert row.norm().item() == pytest.approx(numbers[place].item(), rel=1e-6)
            torch.testing.assert_close(row / row.norm(), wanted / wanted.norm())

    def test_a_row_of_nothing_has_no_direction(self):
        dora = replace(linear(), up=torch.zeros(7, 3), magnitude=torch.ones(7))
        assert torch.equal(dora.change(torch.zeros(7, 6)), torch.zeros(7, 6))
        least = torch.finfo(torch.float32).eps
        faint = torch.zeros(7, 6).index_put((torch.tensor(2), torch.tensor(3)), torch.tensor(least))
        assert dora.change(faint)[2, 3].item() == pytest.approx(0.5)  # the length that it has is doubled

    def test_magnitudes_that_do_not_fit(self):
        assert linear(magnitude=some(7)).fits((7, 6)) and not linear(magnitude=some(6)).fits((7, 6))
        assert linear(magnitude=some(1, 6)).fits((7, 6)) and not linear(magnitude=some(1, 7)).fits((7, 6))
        assert linear(magnitude=some(7, 1)).fits((7, 6)) and not linear().fits((6, 7))
        assert not linear().by_input
        assert not Factors(some(3, 6), some(1, 3), 5.0, some(1)).by_input
        flat = Factors(some(3, 36), some(7, 3), 5.0)
        assert flat.fits((7, 4, 3, 3)) and not convolution().fits((7, 36))

    def test_it_counts_in_the_weights_kind(self):
        for kind in (torch.float16, torch.float64):
            assert linear(magnitude=some(7).to(kind)).change(some(7, 6)).dtype == torch.float32

    def test_the_tensor_that_it_changes(self):
        assert weight_delta.parameter("a.to_q") == "a.to_q.weight" and weight_delta.parameter("a.bias") == "a.bias"

    def test_a_sum_is_of_all_at_their_ratios_and_in_float32(self):
        weight, one, other = some(7, 6, seed=3).half(), linear(), linear(alpha=1.0)
        found = summed(weight, [(one, 0.5), (other, -2.0), (linear(alpha=float("nan")), 0.0)])
        wanted = weight.float() + 0.5 * one.difference() - 2 * other.difference()
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted)
        assert summed(weight.double(), []).dtype == torch.float64 and summed(weight, []).dtype == torch.float32

    def test_each_magnitude_is_told_of_the_weight_alone(self):
        weight, dora = some(7, 6, seed=3), linear(magnitude=some(7).abs())
        found = summed(weight, [(linear(), 1.0), (dora, 1.0)])
        torch.testing.assert_close(found, weight + linear().difference() + dora.change(weight))

    def test_tensors_go_where_the_weight_is(self):
        loha = Hadamard(Pair(some(7, 2), some(2, 6)), Pair(some(7, 2), some(2, 6)), 1.0, some(7))
        moved = weight_delta.on(torch.device("meta"), loha)
        assert {moved.one.left.device.type, moved.other.right.device.type, moved.magnitude.device.type} == {"meta"}
        assert summed(torch.empty(7, 6, device="meta"), [(linear(), 1.0)]).device.type == "meta"

    @pytest.mark.parametrize(("mine", "weight", "wanted"), [
        ((7, 6), (7, 6), True), ((7, 6), (6, 7), False), ((7, 6, 1, 1), (7, 6), True), ((7, 6), (7, 6, 1, 1), True),
        ((7, 36), (7, 4, 3, 3), True), ((7, 36), (7, 4, 3, 2), False), ((7, 4), (7, 4, 3, 3), False),
        ((7, 4, 3, 3), (7, 36), False), ((7, 4, 1, 3), (7, 4), False), ((6, 36), (7, 4, 3, 3), False),
    ])  # fmt: skip
    def test_the_same_shape(self, mine: tuple[int, ...], weight: tuple[int, ...], wanted: bool):
        assert alike(mine, weight) == wanted

    def test_what_does_not_fit_is_counted(self):
        found = {(part, f"l{number}"): linear() for number in range(5) for part in ("unet",)}
        assert not list(misfits("it", found, dict.fromkeys(found, (7, 6))))
        (fault,) = misfits("it", found, {("unet", "l0"): (7, 6)})
        assert fault.found == "4 of its 5 layers are not in the model: unet l1, unet l2, unet l3"
        (fault,) = misfits("it", found, dict.fromkeys(found, (7, 6)) | {("unet", "l2"): (7, 5), ("unet", "l4"): (7, 5)})
        assert fault.found == "2 of its 5 layers have other shapes: unet l2: [7, 6], the model has [7, 5]"


class TestProducts:
    def test_a_pair_with_a_core_entry_by_entry(self):
        """Tucker: sum over both ranks, for each place of the kernel."""
        pair = Pair(some(3, 5), some(2, 4, seed=1), some(3, 2, 3, 1, seed=2))
        assert (pair.shape, pair.rank, pair.whole) == ((5, 4, 3, 1), 2, True)
        found = pair.product()
        for o in range(5):
            for i in range(4):
                for k in range(3):
                    terms = (
                        pair.core[a, b, k, 0] * pair.left[a, o] * pair.right[b, i] for a in range(3) for b in range(2)
                    )
                    assert found[o, i, k, 0].item() == pytest.approx(sum(term.item() for term in terms), abs=1e-5)

    def test_a_pair_without_a_core(self):
        pair = Pair(some(5, 2).half(), some(2, 4, seed=1).double())
        assert (pair.shape, pair.rank, pair.whole) == ((5, 4), 2, True)
        assert pair.product().dtype == torch.float32
        assert Pair(pair.right.T.contiguous(), pair.left.T.contiguous()).product().dtype == torch.float32
        core = Pair(some(3, 5).half(), some(2, 4).double(), some(3, 2, 3, 3).double())
        assert core.product().dtype == torch.float32
        torch.testing.assert_close(pair.product(), pair.left.float() @ pair.right.float())

    @pytest.mark.parametrize("pair", [
        Pair(some(5, 2), some(3, 4)), Pair(some(5), some(2, 4)), Pair(some(5, 2), some(2)),
        Pair(some(5, 0), some(0, 4)), Pair(some(3, 5), some(2, 4), some(3, 2, 3)),
        Pair(some(3, 5), some(2, 4), some(2, 3, 3, 3)), Pair(some(3, 5), some(2, 4), some(2, 2, 3, 3)),
    ])  # fmt: skip
    def test_factors_that_do_not_belong_together(self, pair: Pair):
        assert not pair.whole

    def test_loha_entry_by_entry(self):
        one, other = Pair(some(5, 2), some(2, 4, seed=1)), Pair(some(5, 2, seed=2), some(2, 4, seed=3))
        each = Hadamard(one, other, 3.0)
        assert (each.shape, each.rank) == ((5, 4), 2)
        wanted = 3 / 2 * (one.left @ one.right) * (other.left @ other.right)
        torch.testing.assert_close(each.difference(), wanted)

    def test_lokr_entry_by_entry(self):
        outer, inner = some(2, 3), Pair(some(5, 2, seed=1), some(2, 4, seed=2))
        each = Kronecker(outer, inner, 3.0)
        assert (each.shape, each.rank) == ((10, 12), 2)
        found, small = each.difference(), inner.left @ inner.right
        for row in range(10):
            for column in range(12):
                wanted = 3 / 2 * outer[row // 5, column // 4] * small[row % 5, column % 4]
                assert found[row, column].item() == pytest.approx(wanted.item(), abs=1e-5)

    def test_lokr_of_a_kernel(self):
        outer, inner = some(2, 3).half(), some(5, 4, 3, 3, seed=1).double()
        each = Kronecker(outer, inner, 0.5)
        assert (each.shape, each.rank) == ((10, 12, 3, 3), 0)
        found = each.difference()
        assert found.dtype == torch.float32
        wanted = torch.stack([torch.kron(outer.float(), inner.float()[:, :, *place]) for place in _places()], 2)
        torch.testing.assert_close(found, 0.5 * wanted.reshape(10, 12, 3, 3))
        assert Kronecker(outer.double(), inner.half(), 0.5).difference().dtype == torch.float32
        assert Kronecker(Pair(some(2, 1), some(1, 3)), some(5, 4), 3.0).rank == 1

    def test_what_a_file_says_is_put_together(self):
        tensors = {"hada_w1_a": some(5, 2), "hada_w1_b": some(2, 4), "hada_w2_a": some(5, 3), "hada_w2_b": some(3, 4)}
        made = hadamard(tensors | {"magnitude": some(5)}, lambda rank: rank + 0.5)
        assert made is not None and made.alpha == 2.5 and made.magnitude is not None
        torch.testing.assert_close(made.one.product(), tensors["hada_w1_a"] @ tensors["hada_w1_b"])
        torch.testing.assert_close(made.other.product(), tensors["hada_w2_a"] @ tensors["hada_w2_b"])
        assert hadamard(tensors, float) is not None
        for lost in tensors:
            assert hadamard({name: each for name, each in tensors.items() if name != lost}, float) is None
        for spoiled in ({"hada_w1_a": some(5, 3)}, {"hada_w2_a": some(5, 2)}, {"hada_w2_a": some(6, 3)}):
            assert hadamard(tensors | spoiled, float) is None

    def test_what_a_file_says_of_a_kronecker_product(self):
        pair = {"lokr_w2_a": some(5, 2), "lokr_w2_b": some(2, 4)}
        made = kronecker({"lokr_w1": some(2, 3), **pair}, lambda rank: rank + 0.5)
        assert made is not None and (made.alpha, made.rank, made.shape) == (2.5, 2, (10, 12))
        assert (
            kronecker(pair, float) is None
            and kronecker({"lokr_w1": some(2, 3), "lokr_w2_a": some(5, 2)}, float) is None
        )
        for one, other in (((2, 3, 1), (5, 4)), ((2, 3), (5, 4, 3)), ((2,), (5, 4)), ((2, 3), (5,))):
            assert kronecker({"lokr_w1": some(*one), "lokr_w2": some(*other)}, float) is None
        assert kronecker({"lokr_w1": some(2, 3), "lokr_w2": some(5, 4, 3, 3)}, float).alpha == 0
        torn = {"lokr_w1": some(2, 3), "lokr_w2_a": some(5, 2), "lokr_w2_b": some(3, 4)}
        assert kronecker(torn, float) is None


def _places() -> list[tuple[int, int]]:
    return [(row, column) for row in range(3) for column in range(3)]
