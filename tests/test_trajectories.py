"""What distillation learns from and by: trajectories against a closed form, the loss against its definition."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tenshot.core.errors import Refusal
from tenshot.core.options import resolve
from tenshot.core.size import Size
from tenshot.diffusion import sampling
from tenshot.model import model
from tenshot.model.model import Model
from tenshot.pipeline import Request
from tenshot.train.data import trajectories
from tenshot.train.data.latents_cache import TensorCache
from tenshot.train.distillation_options import DistillationOptions
from tenshot.train.engine.rng import CounterRNG
from tenshot.train.engine.trajectory_loss import TrajectoryLoss
from tenshot.train.methods import distillation
from tests.dreambooth_runs import Ear

FAMILIES = ["sd1", "sd2_v", "sdxl", "sd3"]
GUIDANCE = 3.0
WANTED = [Request("a cat", 1), Request("a dog", 2), Request("a cat", 3)]


class Certain(nn.Module):
    """A denoiser that takes each picture for one grey, which follows from the text: its trajectories are straight.

    grey: from the mean of the first feature of what the text encoders said.
    """

    def __init__(self, base: Model, grey: Any) -> None:
        super().__init__()
        self.base, self.grey, self.config = base, grey, base.denoiser.config
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def forward(self, x: Any = None, t: Any = None, *, encoder_hidden_states: Any, **more: Any) -> Any:
        x, t = more.get("hidden_states", x), more.get("timestep", t)
        t = t.expand(len(x)).double()
        clean = self.grey(encoder_hidden_states[..., 0].double().mean(1))[:, None, None, None].expand_as(x)
        if self.base.family.denoiser == "transformer":
            answer = (x - clean) / (t / 1000)[:, None, None, None]
        else:
            a = alphas(self.base, t)[:, None, None, None]
            noise = (x - a.sqrt() * clean) / (1 - a).sqrt()
            velocity = a.sqrt() * noise - (1 - a).sqrt() * clean
            answer = velocity if self.base.process.prediction == "v_prediction" else noise
        return SimpleNamespace(sample=answer.float()) if "return_dict" not in more else (answer.float(),)


def alphas(base: Model, t: torch.Tensor) -> torch.Tensor:
    """Between the times of training, the logarithm of sigma is straight."""
    known = base.process.alphas_cumprod.double()
    logs = ((1 - known) / known).log()
    low = t.floor().long().clamp(max=len(known) - 2)
    return 1 / (1 + torch.lerp(logs[low], logs[low + 1], t - low).exp())


def opened(family: str, request: pytest.FixtureRequest) -> Model:
    return model.load(str(request.getfixturevalue(family)))


def said(base: Model, prompt: str) -> float:
    told = distillation._said(base, [prompt], Size.square(64))[prompt]
    return told["encoder_hidden_states"][..., 0].double().mean().item()


def recipe(base: Model, nodes: int = 8) -> trajectories.Recipe:
    return trajectories.Recipe("", trajectories.SAMPLERS[base.family.process.name], 24, nodes, GUIDANCE, 64, "no")


def task(base: Model, folder: Path, nodes: int = 8) -> TrajectoryLoss:
    options = resolve(DistillationOptions, {"pretrained_model_name_or_path": str(base.place), "device": "cpu"})
    ways = trajectories.kept(folder, recipe(base, nodes), WANTED, Ear())
    told = distillation._said(base, ["a cat", "a dog"], Size.square(64))
    trainable: Any = SimpleNamespace(model=base, parts={}, saves_model=False, trains_text_encoder=True)
    return TrajectoryLoss(trainable, options, ways, told, len(WANTED))


@pytest.mark.parametrize("family", FAMILIES)
def test_trajectories_and_their_loss_are_those_of_a_closed_form(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
):
    """x = g + sigma n (of a flow (1 - sigma) g + sigma n): every step along it is exact, also one of eight."""
    base = opened(family, request)
    none = said(base, "")
    teacher = base.with_parts(**{base.family.denoiser: Certain(base, lambda mean: 10 * mean)})
    if base.force_zeros_for_empty_prompt:
        none = 0.0
    ways = trajectories.kept(tmp_path, recipe(base), WANTED, Ear())
    trajectories.ensure(teacher, ways, 2, "no", Ear())
    sigmas = trajectories.sigmas(base.process, 8)
    flow = base.process.name == "flow"
    for way, wanted in zip(ways, WANTED, strict=True):
        grey = 10 * (none + GUIDANCE * (said(base, wanted.prompt) - none))
        noise = torch.randn(way.shape[1:], generator=torch.Generator().manual_seed(wanted.seed))
        noise -= 0 if flow else grey / sigmas[0]  # samplers begin without a signal, whatever their first sigma
        for seen, sigma in zip(way, sigmas, strict=True):
            x = (1 - sigma) * grey + sigma * noise if flow else (grey + sigma * noise) / (1 + sigma**2) ** 0.5
            torch.testing.assert_close(seen.float(), x, atol=4e-3, rtol=2e-3)
    knows = base.with_parts(
        **{base.family.denoiser: Certain(base, lambda mean: 10 * (none + GUIDANCE * (mean - none)))}
    )
    rng = CounterRNG(0, range(24))
    assert task(knows, tmp_path).loss(rng).item() < 1e-4
    steps = torch.tensor(sigmas)
    shares = ((steps[1:] - steps[:-1]) / steps[:-1]).square()  # of the error of what is taken for clean
    shares = shares if flow else shares / (1 + steps[1:].square())
    errors = {text: 10 * (GUIDANCE - 1) * (said(base, text) - none) for text in ("a cat", "a dog")}
    pairs = zip(rng.pick("trajectory", 3), rng.pick("node", 8), strict=True)
    expected = sum(shares[node] * errors[WANTED[row].prompt] ** 2 for row, node in pairs) / 24
    assert task(teacher, tmp_path).loss(rng).item() == pytest.approx(expected.item(), rel=0.02)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_error_of_the_slope_by_the_square_of_the_step_as_it_is_shown(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
):
    """The slope, of noise or velocity, should be (x_next - x) / (sigma_next - sigma); shown is the end of the step."""
    base = opened(family, request)
    ways = trajectories.kept(tmp_path, recipe(base), WANTED, Ear())
    dice = torch.Generator().manual_seed(0)
    shape = (9, base.latent_channels, 8, 8)
    for each in WANTED:
        ways.cache.write(ways.recipe.key(each), {trajectories.KEY: torch.randn(shape, generator=dice).half()})
    sigmas = torch.tensor(trajectories.sigmas(base.process, 8), dtype=torch.float64)
    flow = base.process.name == "flow"
    scales = torch.ones(9).double() if flow else (1 + sigmas**2).sqrt()
    losses = []
    rng = CounterRNG(3, range(8))
    for row, node in zip(rng.pick("trajectory", 3), rng.pick("node", 8), strict=True):
        way, text = ways[row].double(), WANTED[row].prompt
        x, x_next = way[node] * scales[node], way[node + 1] * scales[node + 1]
        time = torch.tensor(base.process.time(sigmas[node].item()))
        with torch.no_grad():
            told = distillation._said(base, [text], Size.square(64))[text]
            answer = base.predict(way[node][None].float(), time, told)[0].double()
        slope = answer
        if base.process.prediction == "v_prediction":
            slope = (way[node] * sigmas[node] + answer) / scales[node]
        step = sigmas[node + 1] - sigmas[node]
        losses.append(((step / scales[node + 1]) ** 2 * (slope - (x_next - x) / step) ** 2).mean())
    found = task(base, tmp_path).loss(rng)
    assert found.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("steps", [4, 8])
def test_a_student_visits_nodes_of_its_teacher(family: str, steps: int, request: pytest.FixtureRequest):
    """At the same times as `generate --sampler Euler --schedule sgm_uniform` does."""
    base = opened(family, request)
    usage = resolve(DistillationOptions, {"pretrained_model_name_or_path": "pocket", "steps": steps}).usage
    times = []
    for name, count in ((trajectories.SAMPLERS[base.family.process.name], 24), (usage.sampler, usage.steps)):
        made = sampling.sampler(name, count, base.scheduler_config, base.family.process, usage.schedule)
        x = torch.ones(1, 4, 8, 8)
        steps_of = made.run(x, [torch.Generator()], None)
        seen, time = next(steps_of)
        visited = [time]
        while True:
            try:
                seen, time = steps_of.send(torch.zeros_like(seen))
                visited.append(time)
            except StopIteration:
                break
        times.append(visited)
    assert times[0][:: 24 // steps] == pytest.approx(times[1], abs=1e-6)
    assert times[1] == pytest.approx([base.process.time(s) for s in trajectories.sigmas(base.process, steps)[:-1]])


def test_prompts_of_different_lengths_learn_together(sd1: Path, tmp_path: Path):
    base = model.load(str(sd1))
    found = task(base, tmp_path)
    long = " ".join(["cat"] * 60)
    found.said = distillation._said(base, ["a cat", long, "a dog"], Size.square(64))  # type: ignore[misc]
    seen, times = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([999.0, 500, 9])
    with torch.no_grad():
        together = found._answers(seen, times, ["a cat", long, "a dog"])
        for row, text in enumerate(["a cat", long, "a dog"]):
            alone = found._answers(seen[row : row + 1], times[row : row + 1], [text])
            torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-4)


def test_few_are_kept_in_memory_and_many_are_read(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    base = model.load(str(sd1))
    ways = trajectories.kept(tmp_path, recipe(base), WANTED, Ear())
    way = torch.zeros(9, 4, 8, 8).half()
    for each in WANTED:
        ways.cache.write(ways.recipe.key(each), {trajectories.KEY: way})
    monkeypatch.setattr(trajectories, "IN_MEMORY", 2 * way.nbytes)
    again = trajectories.kept(tmp_path, recipe(base), WANTED, Ear())
    assert again.missing() == [] and len(again.near) == 2
    assert all(torch.equal(again[row], way) for row in range(3))
    TensorCache(tmp_path, 0).trim(())
    with pytest.raises(Refusal, match="is gone"):
        again[2]
