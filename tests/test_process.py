"""Processes against diffusers' schedulers and training scripts, and closed forms."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, training_utils

from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.options import resolve
from tenshot.diffusion import samplers, sampling
from tenshot.diffusion.process import DDPM, PROCESSES, RectifiedFlow
from tenshot.diffusion.samplers import SAMPLERS
from tenshot.families.base import MicroConditioning
from tenshot.generate.generate import generate
from tenshot.generate.options import GenerateOptions
from tenshot.train.engine.denoising import Batch, Objective
from tenshot.train.engine.rng import CounterRNG
from tenshot.train.methods import dreambooth
from tenshot.train.options import DreamBoothOptions, FineTuneOptions

CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
THEIRS = DDPMScheduler.from_config(CONFIG)
EPSILON, V = (DDPM.from_config(CONFIG | {"prediction_type": each}) for each in ("epsilon", "v_prediction"))
TIMES = torch.tensor([0, 17, 500, 999])


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def given(**more: Any) -> SimpleNamespace:
    """Options of a training as they are of themselves, but for some."""
    names = {name for process in PROCESSES for name in process.options}
    return SimpleNamespace(**{name: FineTuneOptions.model_fields[name].default for name in names} | more)


class TestDDPM:
    def test_the_schedule_is_the_closed_form(self):
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        torch.testing.assert_close(EPSILON.alphas_cumprod.double(), (1 - betas).cumprod(0), rtol=1e-4, atol=1e-7)

    def test_noise_is_added_as_diffusers_does(self):
        clean, noise = some(4, 4, 8, 8), some(4, 4, 8, 8, seed=1)
        torch.testing.assert_close(EPSILON.add_noise(clean, noise, TIMES), THEIRS.add_noise(clean, noise, TIMES))

    def test_targets_are_those_of_diffusers(self):
        clean, noise = some(4, 4, 8, 8), some(4, 4, 8, 8, seed=1)
        assert EPSILON.target(clean, noise, TIMES) is noise
        torch.testing.assert_close(V.target(clean, noise, TIMES), THEIRS.get_velocity(clean, noise, TIMES))

    def test_sigmas_are_those_of_the_euler_sampler(self):
        euler = diffusers.EulerDiscreteScheduler.from_config(CONFIG)
        euler.set_timesteps(1000)
        torch.testing.assert_close(EPSILON.sigmas(torch.arange(1000)), euler.sigmas[:-1].flip(0))

    def test_snr_is_the_closed_form(self):
        wanted = [a / (1 - a) for a in THEIRS.alphas_cumprod[TIMES].tolist()]
        assert EPSILON.snr(TIMES).tolist() == pytest.approx(wanted, rel=1e-4)
        torch.testing.assert_close(EPSILON.snr(TIMES), training_utils.compute_snr(THEIRS, TIMES), rtol=1e-4, atol=0)

    @pytest.mark.parametrize("process", [EPSILON, V])
    def test_min_snr_is_the_closed_form(self, process: DDPM):
        wanted = []
        for a in THEIRS.alphas_cumprod[TIMES].tolist():
            snr = a / (1 - a)
            wanted.append(min(snr, 5) / (snr if process is EPSILON else snr + 1))
        weights = process.trained_by(given(snr_gamma=5.0)).weight(TIMES)
        assert weights is not None and weights.tolist() == pytest.approx(wanted, rel=1e-4)
        assert process.trained_by(given()).weight(TIMES) is None

    def test_times_are_all_the_integers_and_each_as_often(self):
        last = 1 - 2.0**-53
        draws = torch.tensor([0, 0.0009999, 0.001, 0.5, 0.9989999, 0.999, last], dtype=torch.float64)
        assert EPSILON.sample_t(Fixed(draws), "timestep").tolist() == [0, 0, 1, 500, 998, 999, 999]
        times = EPSILON.sample_t(CounterRNG(3, range(4096)), "timestep")
        assert torch.bincount(times, minlength=1000).shape == (1000,) and times.dtype == torch.int64
        assert torch.bincount(times // 250).tolist() == [1024] * 4

    @pytest.mark.parametrize("config", [
        {"prediction_type": "epsilon", "rescale_betas_zero_snr": True},
        {"rescale_betas_zero_snr": True},
    ])  # fmt: skip
    def test_nothing_is_told_from_noise_alone(self, config: dict[str, object]):
        (fault,) = DDPM.training_faults(config, given())
        assert fault.where == "scheduler: prediction_type"
        (fault,) = DDPM.training_faults({}, given(rescale_betas_zero_snr=True))
        assert fault.where == "--rescale_betas_zero_snr"

    def test_velocity_goes_with_a_schedule_that_ends_in_pure_noise(self):
        config = CONFIG | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
        assert not list(DDPM.training_faults(config, given()))
        weights = DDPM.from_config(config).trained_by(given(snr_gamma=5.0)).weight(TIMES)
        assert weights is not None and torch.isfinite(weights).all()
        assert weights[-1] == 0 and (weights[:-1] > 0).all()

    @pytest.mark.parametrize("process", [EPSILON, V])
    def test_it_counts_in_float32_and_answers_in_the_kind_and_place_of_the_latents(self, process: DDPM):
        exact = DDPM(process.alphas_cumprod.double(), process.prediction, 5.0)
        for found in (exact.snr(TIMES), exact.sigmas(TIMES), exact.weight(TIMES)):
            assert found is not None and found.dtype == torch.float32
        for dtype in (torch.bfloat16, torch.float64):
            x, noise = some(4, 2, 2).to(dtype), some(4, 2, 2, seed=1).to(dtype)
            assert {exact.add_noise(x, noise, TIMES).dtype, exact.target(x, noise, TIMES).dtype} == {dtype}
        x, t = torch.empty(4, 2, 2, device="meta"), TIMES.to("meta")
        assert process.add_noise(x, x, TIMES).is_meta and process.target(x, x, TIMES).is_meta
        assert process.snr(t).is_meta

    def test_products_are_parts_of_a_signal(self):
        assert not DDPM(torch.tensor([1.0, 0.5, 0.0])).odd() and not EPSILON.odd()
        for wrong in (1.001, -0.001, float("nan"), float("inf")):
            assert DDPM(torch.tensor([0.9, wrong, 0.5])).odd()


class Fixed:
    """Numbers in [0, 1) that another program drew, as if they were drawn here."""

    def __init__(self, numbers: torch.Tensor) -> None:
        self.numbers = numbers

    def stratified(self, purpose: str) -> torch.Tensor:
        return self.numbers


def flow(**more: Any) -> RectifiedFlow:
    return RectifiedFlow.from_config(FLOW).trained_by(given(**more))


class TestRectifiedFlow:
    @pytest.mark.parametrize("scheme", ["none", "logit_normal", "mode", "sigma_sqrt", "cosmap"])
    def test_times_and_weights_are_those_of_diffusers_scripts(self, scheme: str):
        """As train_dreambooth_lora_sd3.py has them, from the same random numbers."""
        settings = {"logit_mean": 0.3, "logit_std": 1.4, "mode_scale": 1.1}
        dice = [torch.Generator().manual_seed(5) for _ in range(2)]
        u = training_utils.compute_density_for_timestep_sampling(scheme, 500, **settings, generator=dice[0])
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(FLOW)
        places = (u * scheduler.config.num_train_timesteps).long()
        wanted, sigmas = scheduler.timesteps[places], scheduler.sigmas[places]

        normal = scheme == "logit_normal"
        drawn = (torch.randn if normal else torch.rand)(500, generator=dice[1]).double()
        below = torch.tensor([NormalDist().cdf(x) for x in drawn.tolist()], dtype=torch.float64) if normal else drawn
        process = flow(weighting_scheme=scheme, **settings)
        times = process.sample_t(Fixed(below), "timestep")
        torch.testing.assert_close(times, wanted, rtol=1e-5, atol=0)
        torch.testing.assert_close(process.sigmas(times), sigmas, rtol=1e-5, atol=0)
        weights = process.weight(times)
        weights = torch.ones(500) if weights is None else weights
        theirs = training_utils.compute_loss_weighting_for_sd3(scheme, sigmas)
        torch.testing.assert_close(weights, theirs, rtol=1e-4, atol=0)

    def test_extreme_draws_stay_within_the_schedule(self):
        times = flow().sample_t(Fixed(torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)), "timestep")
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(FLOW)
        torch.testing.assert_close(times, scheduler.timesteps[[0, -1]])

    def test_times_follow_from_their_draw_alone(self):
        whole = flow().sample_t(CounterRNG(1, range(6)), "timestep")
        parts = [flow().sample_t(CounterRNG(1, [sample]), "timestep") for sample in range(6)]
        assert torch.equal(whole, torch.cat(parts)) and len(set(whole.tolist())) == 6
        assert not torch.equal(whole, flow().sample_t(CounterRNG(1, range(6)), "class timestep"))

    def test_noise_is_added_as_diffusers_does(self):
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(FLOW)
        times = scheduler.timesteps[[0, 10, 500, 999]]
        clean, noise = some(4, 16, 8, 8), some(4, 16, 8, 8, seed=1)
        torch.testing.assert_close(flow().add_noise(clean, noise, times), scheduler.scale_noise(clean, times, noise))

    def test_the_target_is_how_the_sum_moves_with_time(self):
        clean, noise = some(2, 16, 4, 4).double(), some(2, 16, 4, 4, seed=1).double()
        early, late = torch.tensor([250.0, 250.0]), torch.tensor([750.0, 750.0])
        moved = flow().add_noise(clean, noise, late) - flow().add_noise(clean, noise, early)
        torch.testing.assert_close(flow().target(clean, noise, early), moved / 0.5)

    def test_what_is_not_said_is_as_in_diffusers(self):
        theirs = FlowMatchEulerDiscreteScheduler().config
        plain = RectifiedFlow.from_config({})
        assert plain == RectifiedFlow() == plain.trained_by(given())
        assert (plain.shift, plain.steps) == (theirs.shift, theirs.num_train_timesteps) == (1.0, 1000)
        assert (plain.logit_mean, plain.logit_std, plain.mode_scale) == (0.0, 1.0, 1.29)  # of their script
        assert RectifiedFlow.from_config({"num_train_timesteps": 500, "shift": 2}).steps == 500

    def test_it_answers_in_the_kind_and_place_of_the_latents(self):
        for dtype in (torch.bfloat16, torch.float64):
            x = some(2, 4, 2, 2).to(dtype)
            assert flow().add_noise(x, x, torch.tensor([100.0, 250.0])).dtype == dtype
        assert flow().add_noise(*[torch.empty(2, 4, device="meta")] * 2, torch.tensor([100.0, 250.0])).is_meta
        assert flow().sigmas(torch.tensor([500.0], dtype=torch.float64)).dtype == torch.float32

    def test_a_shift_is_a_finite_factor(self):
        assert not any(RectifiedFlow(shift).odd() for shift in (0.5, 1.0, 3.0))
        assert all(RectifiedFlow(shift).odd() for shift in (0.0, -1.0, math.nan, math.inf))

    @pytest.mark.parametrize("shift", [1.0, 3.0])
    def test_larger_shifts_draw_noisier_times(self, shift: float):
        """Half of all draws are above what s = 1/2 becomes: shift / (1 + shift)."""
        process = RectifiedFlow.from_config(FLOW | {"shift": shift})
        middle = process.sigmas(process.sample_t(CounterRNG(0, range(4000)), "timestep")).median()
        assert float(middle) == pytest.approx(shift / (1 + shift), abs=0.02)


SCHEDULES = {
    "ddpm": (DDPM, CONFIG | {"steps_offset": 1}),
    "flow": (RectifiedFlow, FLOW),
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for name, rows in SAMPLERS.items() for kind in rows])
def test_every_sampler_reaches_the_picture_that_the_model_means(kind: str, name: str):
    """A net that knows the clean latents: whatever the sampler, it must end there, for every kind of answer."""
    clean = some(1, 4, 8, 8, seed=1)
    process, schedule = SCHEDULES[kind]
    for prediction in process.predictions():
        config = schedule | {"prediction_type": prediction} if kind == "ddpm" else schedule

        def answer(seen: torch.Tensor, t: float, prediction: str = prediction) -> torch.Tensor:
            if kind == "flow":
                return (seen - clean) / (t / 1000)
            a = interpolated(t)
            noise = (seen - a**0.5 * clean) / (1 - a) ** 0.5
            return noise if prediction == "epsilon" else a**0.5 * noise - (1 - a) ** 0.5 * clean

        drawn = sampled(sampling.sampler(name, 12, config, process), some(1, 4, 8, 8, seed=2), answer)
        assert (drawn - clean).abs().max() < 0.2, (name, prediction)


def sampled(sampler: sampling.Sampler, noise: torch.Tensor, answer: Any) -> torch.Tensor:
    steps = sampler.run(noise, [torch.Generator().manual_seed(3)])
    seen, t = next(steps)
    for _ in range(sampler.evaluations - 1):
        seen, t = steps.send(answer(seen, t).float())
    with pytest.raises(StopIteration) as end:
        steps.send(answer(seen, t).float())
    return end.value.value


def interpolated(timestep: float) -> float:
    """Samplers of Karras' kind ask between the timesteps; the logarithm of sigma is what they interpolate."""
    log_sigma = (((1 - THEIRS.alphas_cumprod) / THEIRS.alphas_cumprod) ** 0.5).log().numpy()
    return 1 / (1 + math.exp(float(np.interp(timestep, np.arange(len(log_sigma)), log_sigma))) ** 2)


def test_euler_of_a_flow_is_the_closed_form():
    """Times as the SD3 pipeline takes them, and x + (s' - s) v."""
    even = torch.linspace(1, 3 * 0.001 / (1 + 2 * 0.001), 4, dtype=torch.float64)
    sigmas = 3 * even / (1 + 2 * even)
    x, v = some(1, 16, 2, 2), some(1, 16, 2, 2, seed=1)
    steps = sampling.sampler(None, 4, FLOW, RectifiedFlow).run(x, [])
    seen, t = next(steps)
    assert torch.equal(seen, x)
    for now, after in pairwise(sigmas):
        assert t == pytest.approx(1000 * float(now), rel=1e-5)
        seen, t = steps.send(v)
        x = x + float(after - now) * v
        torch.testing.assert_close(seen, x)


def test_ddim_and_plms_end_at_time_0_and_begin_with_noise_as_it_is():
    for name, asked in (("DDIM", 6), ("PLMS", 7)):
        made = sampling.sampler(name, 6, CONFIG | {"steps_offset": 1}, DDPM)
        steps = made.run(noise := some(1, 4, 2, 2), [])
        seen, _ = next(steps)
        torch.testing.assert_close(seen, noise)
        assert made.evaluations == asked  # the first step of PLMS looks ahead


def test_a_sampler_says_its_schedule_in_its_name_as_people_wrote_it():
    assert samplers.parted("DPM++ 2M Karras") == ("DPM++ 2M", "karras")
    assert samplers.parted("DPM++ 2M SDE Exponential") == ("DPM++ 2M SDE", "exponential")
    assert samplers.parted("Euler a") == ("Euler a", "automatic")


def test_a_sampler_that_wants_a_package_says_which(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(samplers, "find_spec", lambda name: None)
    with pytest.raises(Refusal, match="torchsde is not installed") as refusal:
        sampling.sampler("DPM++ SDE", 4, CONFIG, DDPM)
    assert "tenshot[samplers]" in refusal.value.faults[0].do
    assert sampling.sampler("DPM++ 2M", 4, CONFIG, DDPM)


@pytest.mark.parametrize("name", [name for name, rows in SAMPLERS.items() if "flow" not in rows])
def test_samplers_of_another_process_are_refused(name: str):
    with pytest.raises(Refusal, match="rectified flow") as refusal:
        sampling.sampler(name, 4, FLOW, RectifiedFlow)
    assert refusal.value.faults[0].fits == ", ".join(samplers.names("flow"))


class Linear:
    """A denoiser whose answer to a sample depends on that sample and its time alone."""

    def __call__(self, noisy: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        return 0.7 * noisy + times.view(-1, 1, 1, 1) / 1000


@pytest.mark.parametrize("scheme", ["logit_normal", "cosmap"])
def test_the_loss_of_a_flow_is_that_of_diffusers_scripts(scheme: str):
    """weighting x (answer - (noise - clean))^2, each sample by itself, with sigmas and weights that diffusers made."""
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(FLOW)
    places = torch.tensor([3, 400, 990])
    times, sigmas = scheduler.timesteps[places], scheduler.sigmas[places].view(-1, 1, 1, 1)
    clean, noise = some(3, 16, 4, 4), some(3, 16, 4, 4, seed=1)
    whole = [MicroConditioning.whole((32, 32))] * 3
    batch = Batch([0, 1, 2], whole, clean, noise, times)
    found = Objective(flow(weighting_scheme=scheme)).per_sample(Linear(), batch, torch.device("cpu"))
    noisy = (1.0 - sigmas) * clean + sigmas * noise
    weights = training_utils.compute_loss_weighting_for_sd3(scheme, sigmas)
    loss = weights.float() * (Linear()(noisy, times) - (noise - clean)) ** 2
    torch.testing.assert_close(found, loss.reshape(3, -1).mean(1))


@pytest.mark.parametrize(("model", "options", "named"), [
    ("sd3", {"snr_gamma": 5.0, "rescale_betas_zero_snr": True}, {"--snr_gamma", "--rescale_betas_zero_snr"}),
    ("sd1", {"weighting_scheme": "mode", "mode_scale": 1.0}, {"--weighting_scheme", "--mode_scale"}),
])  # fmt: skip
def test_options_about_another_process_are_refused(
    model: str, options: dict[str, Any], named: set[str], pictures: Path, tmp_path: Path, request: Any
):
    given = {"pretrained_model_name_or_path": str(request.getfixturevalue(model)), "instance_data_dir": str(pictures)}
    given |= {"instance_prompt": "az", "output_dir": str(tmp_path / "out"), "device": "cpu"}
    with pytest.raises(Refusal) as refusal:
        dreambooth.check(resolve(DreamBoothOptions, given | options), Events())
    assert {fault.where for fault in refusal.value.faults} == named


def test_a_sampler_of_another_process_is_refused_before_anything_is_drawn(sd3: Path, tmp_path: Path):
    given = {"model": str(sd3), "prompt": ["a"], "device": "cpu", "out": str(tmp_path / "out"), "sampler": "Euler a"}
    with pytest.raises(Refusal, match="Euler a") as refusal:
        generate(resolve(GenerateOptions, given), Events())
    assert refusal.value.faults[0].fits == ", ".join(samplers.names("flow")) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [DDPM, RectifiedFlow])
def test_the_signal_of_a_right_answer_is_the_signal(kind: Any):
    for config in (CONFIG, CONFIG | {"prediction_type": "v_prediction"}) if kind is DDPM else (FLOW,):
        process = kind.from_config(config)
        x, noise, t = some(1, 4, 8, 8, seed=1), some(1, 4, 8, 8, seed=2), torch.tensor([500])
        found = process.signal(process.add_noise(x, noise, t), process.target(x, noise, t), 500.0)
        assert torch.allclose(found, x, atol=1e-4)
