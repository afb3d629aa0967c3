"""Our own gains: the same answers by less work, whatever the weights, on top of every backend."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from tenshot.autotune import search, trial
from tenshot.autotune.calibration import Calls
from tenshot.autotune.trial import Trial, TrialResult
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.model import model
from tenshot.runtime import compiled_model, rewrites
from tenshot.runtime.backend import Candidate, Job
from tenshot.runtime.flat_modules import Flat, flat
from tests import artifacts, tiny
from tests.test_backends import FIRSTS, QUICK, WITHIN, apart, copies, other, plain

CPU = torch.device("cpu")
LATENTS = {"decoder": (1, 4, 8, 8), "unet": (2, 4, 16, 16)}


def net_of(family: str, section: str, folder: Path) -> Flat:
    whole = model.load(str(getattr(tiny, family)(folder / family)))
    return flat(section, whole["vae" if section == "decoder" else section]).eval()


def given(net: Flat, section: str) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(3)
    sample = torch.randn(LATENTS[section])
    if section == "decoder":
        return (sample,)
    config = net.net.config
    inputs = [sample, torch.tensor([981.0, 13.0]), torch.randn(2, 77, config.cross_attention_dim)]
    return (*inputs, torch.randn(2, 32), torch.full((2, 6), 61.0)) if config.addition_embed_type else tuple(inputs)


@pytest.mark.parametrize(("family", "section"), [("sd1", "unet"), ("sdxl", "unet"), ("sd1", "decoder")])
@torch.no_grad()
def test_a_rewritten_net_answers_as_the_plain_one_and_its_weights_follow(family, section, tmp_path):
    net = net_of(family, section, tmp_path)
    inputs = given(net, section)
    names = rewrites.fitting(net)
    assert names == (["upsampling", "gates"] if section == "unet" else ["upsampling"])
    rewritten = rewrites.applied(net, names)
    torch.testing.assert_close(rewritten(*inputs), net(*inputs), rtol=1e-4, atol=1e-5)

    weights = other(copies(net))
    rewritten.load(rewrites.derived(rewritten, weights))
    torch.testing.assert_close(list(rewritten(*inputs)), plain(net, weights, inputs), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_upsampling_is_less_than_half_the_work(tmp_path):
    net = net_of("sd1", "decoder", tmp_path)
    inputs = given(net, "decoder")
    whole, less = (_work(each, inputs) for each in (net, rewrites.applied(net, ["upsampling"])))
    convolved = sum(_work_of_upsampling(net, inputs))
    assert whole - less == pytest.approx(convolved * 5 / 9)


def _work(net: Flat, inputs: tuple[torch.Tensor, ...]) -> int:
    with FlopCounterMode(display=False) as counter:
        net(*inputs)
    return counter.get_total_flops()


def _work_of_upsampling(net: Flat, inputs: tuple[torch.Tensor, ...]) -> list[int]:
    """By the closed form: 2 x 9 x in x out for every pixel."""
    found = []
    hooks = [
        each.register_forward_hook(lambda m, _, out: found.append(18 * m.in_channels * out[0].numel()))
        for path, each in net.named_modules()
        if path.endswith("upsamplers.0.conv")
    ]
    net(*inputs)
    for hook in hooks:
        hook.remove()
    return found


def test_what_is_not_rewritten_shares_its_memory(tmp_path):
    net = net_of("sd1", "unet", tmp_path)
    rewritten = rewrites.applied(net, ["upsampling", "gates"])
    own, new = net.weights(), rewritten.weights()
    assert all(new[name] is own[name] for name in new.keys() & own.keys())
    halves = new["down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.gate.weight"]
    whole = own["down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj.weight"]
    assert halves.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
    assert torch.equal(F.linear(torch.eye(halves.shape[1]), halves).T, whole[len(whole) // 2 :])


@torch.no_grad()
def test_sides_that_are_not_doubled_are_refused(tmp_path):
    rewritten = rewrites.applied(net_of("sd1", "unet", tmp_path), ["upsampling"])
    odd = (torch.randn(1, 4, 9, 8), torch.tensor([5.0]), torch.randn(1, 77, rewritten.net.config.cross_attention_dim))
    with pytest.raises(Refusal, match="twice the sides"):
        rewritten(*odd)
    with pytest.raises(Refusal, match="upsampling, gates"):
        rewrites.applied(rewritten, ["speed"])


EVERY = [
    pytest.param(each, id=each.backend, marks=pytest.mark.slow if each.backend in QUICK else ()) for each in FIRSTS
]


@pytest.mark.parametrize("first", EVERY)
@torch.no_grad()
def test_every_backend_runs_a_rewritten_net_and_swaps_its_weights(first, tmp_path):
    net = net_of("sd1", "decoder", tmp_path)
    inputs = given(net, "decoder")
    candidate = Candidate(first.backend, first.precision, first.variant, ("upsampling",))
    own = copies(net)
    rewrites.build(Job(net, [inputs]), candidate, tmp_path)
    net.load(own)
    runner = rewrites.load_program(tmp_path, candidate, net, CPU)
    another = other(own)
    answers = []
    for weights in (own, another, own):
        runner.load(weights)
        answers.append(runner(*inputs)[0].clone())
        torch.testing.assert_close(answers[-1], plain(net, weights, inputs)[0], rtol=1e-3, atol=1e-4)
    assert torch.equal(answers[0], answers[2])


@pytest.mark.slow
@pytest.mark.skipif(not (find_spec("openvino") and find_spec("nncf")), reason="needs tenshot[openvino]")
@torch.no_grad()
def test_a_rewritten_net_in_eight_bits_follows_its_weights(tmp_path):
    """Upsampling uses one bias four times."""
    net = net_of("sd1", "decoder", tmp_path)
    inputs, candidate, own = given(net, "decoder"), Candidate("openvino", "int8", rewrites=("upsampling",)), copies(net)
    rewrites.build(Job(net, [inputs]), candidate, tmp_path)
    net.load(own)
    runner = rewrites.load_program(tmp_path, candidate, net, CPU)
    answers = []
    for weights in (own, other(own), own):
        runner.load(weights)
        answers.append(runner(*inputs)[0].clone())
        assert 1e-4 < apart([answers[-1]], [plain(net, weights, inputs)[0]]) < WITHIN["int8"]
    assert torch.equal(answers[0], answers[2]) and not torch.equal(answers[0], answers[1])


@torch.no_grad()
def test_an_artifact_with_gains_answers_as_torch_does_and_follows_a_swap(tmp_path):
    place = tiny.sd1(tmp_path / "model")
    tuned = model.load(str(place))
    for each in tuned["unet"].parameters():
        each.mul_(1.05)
    model.save(tuned, tmp_path / "tuned")
    candidate = Candidate("eager", "fp32", rewrites=("upsampling", "gates"))
    opened = compiled_model.load(artifacts.made(place, tmp_path / "fast", candidate, ["unet"]))
    sample, states = torch.randn(2, 4, 8, 8), torch.randn(2, 77, opened.unet.config.cross_attention_dim)
    first = opened.unet(sample, 500, states).sample
    torch.testing.assert_close(first, model.load(str(place))["unet"](sample, 500, states).sample, rtol=1e-4, atol=1e-5)
    opened.load_weights(tmp_path / "tuned")
    torch.testing.assert_close(
        opened.unet(sample, 500, states).sample, tuned["unet"](sample, 500, states).sample, rtol=1e-4, atol=1e-5
    )
    opened.load_weights(place)
    assert torch.equal(opened.unet(sample, 500, states).sample, first)


@pytest.mark.parametrize("wanted", [True, False])
def test_gains_are_tried_on_the_best_and_kept_where_they_measure_faster(wanted, tmp_path, monkeypatch):
    seconds = {(): 0.5, ("upsampling",): 0.6, ("gates",): 0.4}
    tried = []

    def run(given: Trial, *_: object) -> TrialResult:
        tried.append(given.candidate.rewrites)
        return TrialResult(given.candidate, seconds=seconds[given.candidate.rewrites], plain=1.0, folder=given.folder)

    monkeypatch.setattr(trial, "run", run)
    place = tiny.sd1(tmp_path / "artifact" / "model")
    calls = {"unet": Calls([(torch.zeros(1),)], [(torch.zeros(1),)])}
    options = artifacts.options(place, tmp_path / "out", rewrites=wanted)
    (contest,) = search.search(options, tmp_path / "artifact", calls, CPU, Events())
    assert [each for each in tried if each] == ([("upsampling",), ("gates",)] if wanted else [])
    assert contest.chosen.candidate.rewrites == (("gates",) if wanted else ())
    assert str(contest.chosen.candidate).endswith("with our gates") is wanted
