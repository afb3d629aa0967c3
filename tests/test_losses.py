"""The objective against diffusers, closed forms, and plain python."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from tenshot.diffusion import losses
from tenshot.diffusion.process import DDPM
from tenshot.families.base import MicroConditioning
from tenshot.train.engine.denoising import Batch, Latents, Objective
from tenshot.train.engine.rng import CounterRNG
from tenshot.train.options import FineTuneOptions

CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
THEIRS = DDPMScheduler.from_config(CONFIG)
PLAIN = DDPM.from_config(CONFIG)


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_errors_are_one_number_a_sample_in_float32():
    answer, wanted = some(3, 4, 2, 2).bfloat16(), some(3, 4, 2, 2, seed=1).bfloat16()
    for one, other in ((answer, wanted), (answer.double(), wanted), (answer, wanted.double())):
        found = losses.errors(one, other)
        assert found.dtype == torch.float32
        singly = [((a.double() - w.double()) ** 2).mean().item() for a, w in zip(answer, wanted, strict=True)]
        assert found.tolist() == pytest.approx(singly, rel=1e-6)


@pytest.mark.parametrize("per_sample, is_prior, weight, wanted", [
    ([1.0, 3.0], [False, False], 0.5, 2.0),
    ([1.0, 3.0], [False, True], 0.5, 2.5),
    ([1.0, 3.0, 5.0], [False, True, True], 0.25, 2.0),
    ([4.0, 1.0, 3.0, 2.0], [True, False, False, True], 2.0, 8.0),
    ([1.0, 3.0], [False, True], 0.0, 1.0),
])  # fmt: skip
def test_combine(per_sample: list[float], is_prior: list[bool], weight: float, wanted: float):
    assert losses.combine(torch.tensor(per_sample), is_prior, weight).item() == wanted


class Toy(nn.Module):
    """A denoiser whose answer to a sample depends on that sample and its timestep alone."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor):
        return noisy * self.scale + timesteps.view(-1, 1, 1, 1) / 1000


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_min_snr_with_prior_preservation_weighs_each_sample_by_its_own_timestep(count: int, prediction: str):
    """Elsewhere the weights of 2N timesteps met a loss of N samples: wrong at N = 1, an error above."""
    n = 2 * count
    clean, noise = some(n, 4, 4, 4), some(n, 4, 4, 4, seed=1)
    steps = torch.randint(0, 1000, (n,), generator=torch.Generator().manual_seed(count))
    batch = Batch(list(range(n)), [MicroConditioning.whole((16, 16))] * n, clean, noise, steps)
    aim = Objective(DDPM(PLAIN.alphas_cumprod, prediction, 5.0))
    per_sample = aim.per_sample(Toy(), batch, torch.device("cpu"))
    assert per_sample.shape == (n,)
    found = losses.combine(per_sample, [row >= count for row in range(n)], 0.5)

    total = 0.0
    for row in range(n):
        a = float(THEIRS.alphas_cumprod[steps[row]])
        snr = a / (1 - a)
        noisy = a**0.5 * clean[row] + (1 - a) ** 0.5 * noise[row]
        answer = 0.7 * noisy + float(steps[row]) / 1000
        velocity = a**0.5 * noise[row] - (1 - a) ** 0.5 * clean[row]
        wanted = noise[row] if prediction == "epsilon" else velocity
        weight = min(snr, 5) / (snr if prediction == "epsilon" else snr + 1)
        total += (0.5 if row >= count else 1.0) * weight * ((answer - wanted) ** 2).mean().item() / count
    assert found.item() == pytest.approx(total, rel=1e-4)


def test_a_drawn_batch_shows_each_picture_with_its_own_noise():
    latents = Latents.of(some(3, 4, 2, 2), some(3, 4, 2, 2, seed=1).abs())
    aim = Objective(PLAIN)
    batch = aim.draw(latents, CounterRNG(5, range(6)))
    dice = CounterRNG(5, range(6)).noise("posterior", (4, 2, 2))
    for row, picture in enumerate(batch.rows):
        mean, std = latents.each[picture]
        torch.testing.assert_close(batch.clean[row], mean + std * dice[row])
    assert sorted(batch.rows[:3]) == sorted(batch.rows[3:]) == [0, 1, 2]
    classes = aim.draw(latents, CounterRNG(5, range(6)), "class ")
    assert not torch.equal(classes.noise, batch.noise)
    assert not torch.equal(classes.timesteps, batch.timesteps)


@pytest.mark.parametrize(("kind", "closed"), [
    ("huber", lambda e, c: 2 * c * ((e * e + c * c) ** 0.5 - c)),
    ("smooth_l1", lambda e, c: 2 * ((e * e + c * c) ** 0.5 - c)),
    ("l2", lambda e, c: e * e),
])  # fmt: skip
def test_errors_that_bend_are_the_closed_form(kind: str, closed):
    answer, wanted = some(2, 1, 1, 3), some(2, 1, 1, 3, seed=1)
    found = losses.errors(answer, wanted, kind, 0.3)
    apart = (answer - wanted).flatten(1).tolist()
    assert found.tolist() == pytest.approx([sum(closed(e, 0.3) for e in row) / 3 for row in apart], rel=1e-5)


def test_errors_bend_at_a_tenth_unless_told():
    answer, wanted = some(2, 1, 1, 3), some(2, 1, 1, 3, seed=1)
    assert torch.equal(losses.errors(answer, wanted, "huber"), losses.errors(answer, wanted, "huber", 0.1))
    assert Objective(PLAIN).bend == 0.1 == FineTuneOptions.model_fields["huber_c"].default


def test_the_mean_is_over_what_a_mask_lets_count():
    answer, wanted = some(2, 4, 2, 2), some(2, 4, 2, 2, seed=1)
    mask = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).expand(2, 1, 2, 2)
    found = losses.errors(answer, wanted, mask=mask)
    torch.testing.assert_close(found, (answer - wanted)[:, :, 0, 0].square().mean(1))
    torch.testing.assert_close(losses.errors(answer, wanted, mask=mask * 3e-7), found)
    assert losses.errors(answer, wanted, mask=mask * 0).tolist() == [0, 0]


def test_offset_noise_shifts_whole_channels():
    latents = Latents.of(torch.zeros(4, 4, 8, 8), torch.zeros(4, 4, 8, 8))
    rng = CounterRNG(0, range(4))
    plain = Objective(PLAIN).draw(latents, rng)
    shifted = Objective(PLAIN, noise_offset=0.1).draw(latents, rng)
    apart = (shifted.noise - plain.noise).flatten(2)
    torch.testing.assert_close(apart, apart.mean(2, keepdim=True).expand_as(apart), atol=1e-6, rtol=1e-4)
    wanted = 0.1 * rng.noise("offset", (4, 1, 1)).flatten(2)
    torch.testing.assert_close(apart.mean(2, keepdim=True), wanted, atol=1e-6, rtol=1e-4)
