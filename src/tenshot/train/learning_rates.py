"""The learning rate that a training has where none is given, and what is said of one that is far from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.families import validate
from tenshot.model import model
from tenshot.train.engine import optimizers
from tenshot.train.options import TrainOptions

Options = TypeVar("Options", bound=TrainOptions)

SMALL = 100_000_000  # numbers of a denoiser; the pocket model's has 12 million, that of SD 1.5 860
SMALL_RATES = {"dreambooth": 3e-4, "full": 3e-4, "lora": 2e-3, "textual-inversion": 1e-3, "distillation": 1e-3}
FAMILY_RATES = {"sd3": {"dreambooth": 1e-4, "lora": 4e-4}}  # diffusers' README_sd3; elsewhere an option's default


def usual(kind: type[TrainOptions], method: str, family: str, numbers: int) -> float:
    """With what `method` usually learns on a denoiser of so many numbers."""
    default: float = kind.model_fields["learning_rate"].default
    return SMALL_RATES.get(method, default) if numbers < SMALL else FAMILY_RATES.get(family, {}).get(method, default)


def settled(method: str, options: Options, events: Events) -> Options:
    """`options` with the usual learning rate where none is given; as they are where the model is none to be had."""
    if "learning_rate" in options.model_fields_set:
        return options
    try:
        place = model.find(options.pretrained_model_name_or_path, events, options.vae)
        family = validate.family_of(place)
    except Refusal:
        return options
    rate = usual(type(options), method, family.name, validate.numbers(place / family.denoiser))
    if rate == options.learning_rate:
        return options
    events.say(f"--learning_rate {rate:g}, usual for {method} of such a model; none was given")
    return options.model_copy(update={"learning_rate": rate})


def far_off(given: TrainOptions, method: str, family: str, numbers: int) -> Iterator[str]:
    """A learning rate ten times off what the method, the family and the size of its denoiser usually learn with."""
    wanted = usual(type(given), method, family, numbers)
    if optimizers.chosen(given) == "prodigy":
        wanted = 1.0  # it finds the rate by itself and multiplies it
    off = given.learning_rate / wanted
    if not 0.1 <= off <= 10:
        by, risk = (
            (f"{1 / off:.0f} times below", "learn nothing") if off < 1 else (f"{off:.0f} times above", "spoil it")
        )
        what = f"{method} of a {family} model of this size ({numbers / 1e6:,.0f} million numbers)"
        yield f"--learning_rate {given.learning_rate:g} may {risk}: {by} {wanted:g}, usual for {what}"
