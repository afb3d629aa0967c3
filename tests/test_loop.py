"""The loop against a plain one, and against itself interrupted."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn

from tenshot.core import device
from tenshot.core.errors import Cancelled, Refusal
from tenshot.core.events import Events
from tenshot.core.options import resolve
from tenshot.train.engine import checkpoint, loop
from tenshot.train.engine.rng import CounterRNG
from tenshot.train.options import LoopOptions, Schedule

WILD = 1e38  # a learning rate that no option takes, but that ruins the weights at once
TABLE = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))


class Regression(loop.TrainingTask):
    """A net learns a table of five rows; one of its parameters is frozen. poisoned: samples whose loss is NaN."""

    def __init__(self, poisoned: Collection[int] = ()) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        self.net[2].bias.requires_grad_(False)
        self.poisoned = poisoned

    @property
    def parts(self) -> dict[str, nn.Module]:
        return {"net": self.net}

    def loss(self, rng: CounterRNG) -> torch.Tensor:
        wanted = TABLE[rng.pick("picture", len(TABLE))]
        error = (self.net(rng.noise("x", (6,))).float() - wanted).square().mean()
        return error * math.nan if set(self.poisoned) & set(rng.samples) else error


class Ear(Events):
    """Hears everything; asks to stop after step `last`."""

    def __init__(self, last: int = 0) -> None:
        self.last = last
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.saved: list[int] = []

    def step(self, step: int, **figures: float) -> None:
        self.steps.append(step)
        self.losses.append(figures["loss"])

    def checkpoint(self, step: int) -> None:
        self.saved.append(step)

    def cancelled(self) -> bool:
        return bool(self.steps) and self.steps[-1] == self.last


def options(folder: Path, **given: Any) -> LoopOptions:
    base = {"output_dir": folder, "max_train_steps": 12, "learning_rate": 0.01, "seed": 5, "checkpointing_steps": 100}
    wild = {name: value for name, value in given.items() if value == WILD}
    return resolve(LoopOptions, {n: v for n, v in (base | given).items() if n not in wild}).model_copy(update=wild)


def weights(method: Regression) -> dict[str, list[float]]:
    return {name: tensor.flatten().tolist() for name, tensor in method.net.state_dict().items()}


def trained(folder: Path, ear: Ear | None = None, **given: Any) -> tuple[dict[str, list[float]], loop.FitResult]:
    method = Regression()
    fit = loop.fit(method, options(folder, **given), ear or Ear())
    return weights(method), fit


def close(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[name] == pytest.approx(other[name], rel=1e-5, abs=1e-7) for name in one.keys() | other.keys())


def rate(schedule: str, step: int, warmup: int, total: int, cycles: int) -> float:
    """The factor on the learning rate, as diffusers' example scripts define it."""
    if step < warmup:
        return step / warmup
    progress = (step - warmup) / (total - warmup)
    if schedule == "linear":
        return 1 - progress
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * cycles * 2 * progress))
    if schedule == "cosine_with_restarts":
        return 0.5 * (1 + math.cos(math.pi * (cycles * progress % 1.0)))
    return 1.0


def plain(o: LoopOptions) -> tuple[nn.Module, dict[str, torch.Tensor], list[float]]:
    """What the loop should do, in one function: AdamW from its paper (arXiv 1711.05101), averaged by hand."""
    method = Regression()
    named = {name: p for name, p in method.net.named_parameters() if p.requires_grad}
    first = {name: torch.zeros_like(p) for name, p in named.items()}
    second = {name: torch.zeros_like(p) for name, p in named.items()}
    average = {name: p.detach().clone() for name, p in named.items()}
    losses, sample = [], 0
    for step in range(o.max_train_steps):
        lr = o.learning_rate * rate(o.lr_scheduler, step, o.lr_warmup_steps, o.max_train_steps, o.lr_num_cycles)
        total = 0.0
        for _ in range(o.gradient_accumulation_steps):
            loss = method.loss(CounterRNG(o.seed, range(sample, sample + o.train_batch_size)))
            (loss / o.gradient_accumulation_steps).backward()
            total += loss.item() / o.gradient_accumulation_steps
            sample += o.train_batch_size
        losses.append(total)
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in named.values()))
        with torch.no_grad():
            for name, p in named.items():
                gradient = p.grad * min(1.0, o.max_grad_norm / norm)
                first[name] = o.adam_beta1 * first[name] + (1 - o.adam_beta1) * gradient
                second[name] = o.adam_beta2 * second[name] + (1 - o.adam_beta2) * gradient**2
                m = first[name] / (1 - o.adam_beta1 ** (step + 1))
                v = second[name] / (1 - o.adam_beta2 ** (step + 1))
                p -= lr * o.adam_weight_decay * p
                p -= lr * m / (v.sqrt() + o.adam_epsilon)
                decay = min(o.ema_decay, (1 + step) / (10 + step))
                average[name] = decay * average[name] + (1 - decay) * p
                p.grad = None
    return method.net, average, losses


@pytest.mark.parametrize("given", [
    {},
    {"train_batch_size": 3},
    {"gradient_accumulation_steps": 4, "train_batch_size": 2},
    {"max_grad_norm": 0.05},
    {"max_grad_norm": 1e6, "adam_weight_decay": 0.5, "adam_beta1": 0.5, "adam_beta2": 0.7, "adam_epsilon": 1e-3},
    {"lr_scheduler": "linear", "lr_warmup_steps": 3},
    {"lr_scheduler": "cosine_with_restarts", "lr_num_cycles": 2},
    {"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 5},
    {"lr_warmup_steps": 5},
    {"use_ema": True, "ema_decay": 0.8},
    {"seed": 2**40},
], ids=str)  # fmt: skip
def test_the_loop_is_a_plain_loop(tmp_path: Path, given: dict[str, Any]):
    ear = Ear()
    found, fit = trained(tmp_path, ear, **given)
    net, average, losses = plain(options(tmp_path, **given))
    assert fit.step == 12
    assert ear.losses == pytest.approx(losses, rel=1e-5)
    wanted = {**net.state_dict(), **(average if "use_ema" in given else {})}
    assert close(found, {name: tensor.flatten().tolist() for name, tensor in wanted.items()})
    assert fit.ema.keys() == ({"net"} if "use_ema" in given else set())
    for name, shadow in fit.ema.get("net", {}).items():
        torch.testing.assert_close(shadow, average[name])


def test_training_lowers_the_loss_and_leaves_what_is_frozen(tmp_path: Path):
    ear, before = Ear(), weights(Regression())
    found, _ = trained(tmp_path, ear, max_train_steps=150, train_batch_size=8)
    assert sum(ear.losses[-20:]) < 0.8 * sum(ear.losses[:20])
    assert found["2.bias"] == before["2.bias"]
    assert all(found[name] != before[name] for name in found if name != "2.bias")


def test_accumulating_two_batches_of_one_is_a_batch_of_two(tmp_path: Path):
    two, _ = trained(tmp_path / "a", train_batch_size=2)
    one, _ = trained(tmp_path / "b", gradient_accumulation_steps=2)
    assert close(one, two)


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_resumed_is_uninterrupted_bit_for_bit(tmp_path: Path, schedule: str, precision: str):
    given = {"lr_scheduler": schedule, "lr_warmup_steps": 3, "mixed_precision": precision, "max_train_steps": 8}
    given |= {"use_ema": True, "ema_decay": 0.9, "gradient_accumulation_steps": 2}
    wanted, whole = trained(tmp_path / "whole", **given)
    heard = Ear()
    for last in (1, 3, 4, 7):
        ear = Ear(last)
        with pytest.raises(Cancelled, match=f"step {last};"):
            trained(tmp_path / "cut", ear, **given)
        heard.steps += ear.steps
    found, fit = trained(tmp_path / "cut", heard, **given)
    assert heard.steps == [1, 2, 3, 4, 5, 6, 7, 8]
    assert found == wanted
    assert fit.step == whole.step == 8
    assert all(torch.equal(fit.ema["net"][name], shadow) for name, shadow in whole.ema["net"].items())


def test_checkpoints_come_when_told_and_at_the_end(tmp_path: Path):
    ear = Ear()
    trained(tmp_path, ear, max_train_steps=7, checkpointing_steps=3, checkpoints_total_limit=2)
    assert ear.saved == [3, 6, 7]
    assert [checkpoint.steps(place) for place in checkpoint.found(tmp_path)] == [6, 7]


class Validator:
    """Draws before the first step and after every second, and notes which checkpoint was whole by then."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, []

    def due(self, step: int) -> bool:
        return step % 2 == 0

    def done(self, step: int) -> bool:
        return False

    def validate(self, step: int) -> None:
        self.seen.append((step, checkpoint.read(checkpoint.found(self.folder)[-1]).step if step else 0))


def test_a_checkpoint_is_written_before_its_pictures_are_drawn(tmp_path: Path):
    validator = Validator(tmp_path)
    loop.fit(Regression(), options(tmp_path, max_train_steps=5), Ear(), validator)
    assert validator.seen == [(0, 0), (2, 2), (4, 4), (5, 5)]


def test_cancelled_means_checkpoint_then_cancelled(tmp_path: Path):
    ear = Ear(last=2)
    with pytest.raises(Cancelled):
        trained(tmp_path, ear)
    assert ear.saved == [2]
    found = checkpoint.read(tmp_path / "checkpoint-2").groups["net"]
    reached, _ = trained(tmp_path / "other", max_train_steps=2)
    assert {name: tensor.flatten().tolist() for name, tensor in found.items()} == {
        name: values for name, values in reached.items() if name != "2.bias"
    }


def test_a_wish_to_stop_at_the_last_step_comes_too_late(tmp_path: Path):
    assert trained(tmp_path, Ear(last=12))[1].step == 12


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_loss_that_stays_nan_stops_the_run_and_leaves_the_checkpoint(tmp_path: Path):
    given = {"max_train_steps": 30, "checkpointing_steps": 4}
    ear = Ear()
    with pytest.raises(Cancelled):
        trained(tmp_path, Ear(last=4), **given)
    before = files(tmp_path)
    method = Regression(poisoned=range(4, 100))
    with pytest.raises(Refusal, match="5 steps in a row"):
        loop.fit(method, options(tmp_path, **given | {"checkpointing_steps": 100}), ear)
    assert len(ear.steps) == loop.PATIENCE - 1
    assert files(tmp_path) == before
    assert weights(method) == trained(tmp_path / "other", max_train_steps=4)[0]


def test_a_nan_now_and_then_is_passed_over(tmp_path: Path):
    method = Regression(poisoned=[sample for sample in range(12) if sample % loop.PATIENCE])
    loop.fit(method, options(tmp_path), Ear())
    after = weights(method)
    assert after != weights(Regression())
    assert all(math.isfinite(value) for values in after.values() for value in values)


def test_nans_in_a_row_are_counted_across_a_resume(tmp_path: Path):
    given = options(tmp_path, checkpointing_steps=1)
    with pytest.raises(Cancelled):
        loop.fit(Regression(poisoned=range(1, 100)), given, Ear(last=4))
    ear = Ear()
    with pytest.raises(Refusal):
        loop.fit(Regression(poisoned=range(1, 100)), given, ear)
    assert ear.steps == [5]


def test_without_one_finite_step_nothing_was_learned_and_nothing_is_kept(tmp_path: Path):
    given = options(tmp_path, max_train_steps=4, checkpointing_steps=2)
    with pytest.raises(Refusal, match="nothing was learned"):
        loop.fit(Regression(poisoned=range(4)), given, Ear())
    assert [place.name for place in checkpoint.found(tmp_path)] == ["checkpoint-2"]  # before any step was finite
    loop.fit(Regression(poisoned=[2]), given, Ear())


@pytest.mark.parametrize("given", [{"learning_rate": WILD}, {"learning_rate": WILD, "use_ema": True, "ema_decay": 0.9}])
def test_weights_that_are_not_finite_are_never_kept(given: dict[str, Any], tmp_path: Path):
    with pytest.raises(Refusal, match=r"after step 1 .* not finite, as net: 0.weight does(.|\n)*lower --learning_rate"):
        trained(tmp_path, max_train_steps=3, checkpointing_steps=1, **given)
    assert not list(tmp_path.iterdir())
    with pytest.raises(Refusal, match="after step 3"):
        trained(tmp_path, max_train_steps=3, **given)


def test_a_damaged_checkpoint_is_told_and_the_run_ends_as_if_nothing_had_been(tmp_path: Path):
    wanted, _ = trained(tmp_path / "whole", checkpoints_total_limit=1)
    trained(tmp_path / "cut", max_train_steps=8, checkpointing_steps=4)
    (tmp_path / "cut" / "checkpoint-8" / "optimizer.safetensors").write_bytes(b"")
    ear = Ear()
    found, _ = trained(tmp_path / "cut", ear, checkpointing_steps=1, checkpoints_total_limit=1)
    assert found == wanted
    assert ear.steps[0] == 5
    left = sorted(path.name for path in (tmp_path / "cut").iterdir())
    assert left == ["checkpoint-12", "checkpoint-8.damaged"]


def test_a_checkpoint_of_other_tensors_is_refused(tmp_path: Path):
    trained(tmp_path, max_train_steps=1)
    method = Regression()
    method.net[2].bias.requires_grad_(True)
    with pytest.raises(Refusal, match="other tensors"):
        loop.fit(method, options(tmp_path), Ear())


class Overflowing(torch.amp.GradScaler):
    """Looks for its scale: at the steps `at` the gradients are infinite."""

    def __init__(self, at: Collection[int], scale: float) -> None:
        super().__init__("cpu", init_scale=scale, growth_interval=10**6)
        self.at, self.step_number = at, 0

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        if self.step_number in self.at:
            for group in optimizer.param_groups:
                group["params"][0].grad.fill_(math.inf)
        self.step_number += 1
        super().unscale_(optimizer)


def overflowing(folder: Path, at: Collection[int], poisoned: Collection[int], scale: float = 2.0**40) -> loop._Trainer:
    run = loop._Trainer(Regression(poisoned), options(folder))
    run.scaler = Overflowing(at, scale)
    return run


def test_a_scaler_looking_for_its_scale_neither_counts_nor_forgives(tmp_path: Path):
    run = overflowing(tmp_path, at=range(3, 7), poisoned=(1, 2, 7, 8, 9))
    run.step(0)
    counted = []
    for step in range(1, 9):
        before = weights(run.task)
        run.step(step)
        assert weights(run.task) == before
        counted.append(run.nonfinite)
    assert counted == [1, 2, 2, 2, 2, 2, 3, 4]
    with pytest.raises(Refusal, match="5 steps in a row"):
        run.step(9)


def test_a_scaler_that_has_nowhere_left_to_go_is_given_up(tmp_path: Path):
    run = overflowing(tmp_path, at=range(1, 100), poisoned=(), scale=4.0)
    with pytest.raises(Refusal, match="5 steps in a row"):
        for step in range(100):
            run.step(step)
    assert step == 3 + loop.PATIENCE  # at scales 4, 2 and 1 it was still looking


def test_a_finite_step_forgives(tmp_path: Path):
    run = overflowing(tmp_path, at=(2,), poisoned=(1,))
    run.step(0)
    before = weights(run.task)
    for step in (1, 2):
        run.step(step)
    assert (run.nonfinite, weights(run.task)) == (1, before)
    run.step(3)
    assert run.nonfinite == 0
    assert weights(run.task) != before


def test_a_gpu_computes_in_sixteen_bits_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    gpu = torch.device("cuda")
    for native, halves in ((True, ["fp16", "bf16"]), (False, ["fp16"])):
        monkeypatch.setattr(device, "bf16_is_native", lambda native=native: native)
        assert device.halves(gpu) == halves
        assert device.precision(None, gpu) == halves[-1]
        assert device.precision("no", gpu) == "no"
    assert device.precision(None, torch.device("cpu")) == "no"


def test_tf32_is_allowed_on_a_gpu_and_said(tmp_path: Path):
    torch.backends.cuda.matmul.allow_tf32 = False  # as it is by itself
    assert not device.allow_tf32(torch.device("cpu"))
    assert not torch.backends.cuda.matmul.allow_tf32
    assert device.allow_tf32(torch.device("cuda"))
    assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    said: list[str] = []
    run = loop._Trainer(Regression(), options(tmp_path))
    run.tf32, run.precision, ear = True, "bf16", Ear()
    ear.say = said.append  # type: ignore[method-assign]
    run.tell_precision(ear)
    assert "computing in bf16, chosen for this GPU" in said[0] and "TF32" in said[0]


def test_the_forecast_leaves_no_trace(tmp_path: Path):
    method, untouched = Regression(), weights(Regression())
    told = loop.forecast(method, options(tmp_path, use_ema=True), 0, Events())
    assert told.seconds_per_step > 0
    assert told.peak_bytes > 0
    assert weights(method) == untouched
    assert all(p.grad is None for p in method.net.parameters())
    assert not any(tmp_path.iterdir())
    loop.fit(method, options(tmp_path), Ear())
    assert weights(method) == trained(tmp_path / "other")[0]
