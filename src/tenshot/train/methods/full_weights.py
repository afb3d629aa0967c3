"""The model's own weights train: full fine-tuning and DreamBooth. What comes out is a model folder, as went in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from tenshot.core.errors import Fault, Refusal
from tenshot.export.install import Result
from tenshot.families import conversion, validate
from tenshot.model import model
from tenshot.model.model import Model
from tenshot.train import finetune
from tenshot.train.options import FineTuneOptions


def every(name: str) -> bool:
    return True


class FullWeightsTrainable:
    """The denoiser, and the text encoders where the options say so. trains: which weights of the denoiser, by name.

    What one file of the family cannot say does not train, or user interfaces would draw with something else.
    """

    saves_model = True

    def __init__(self, base: Model, options: FineTuneOptions, trains: Callable[[str], bool] = every) -> None:
        self.model = base
        self.trains_text_encoder = options.train_text_encoder
        encoders = base.family.encoders if options.train_text_encoder else ()
        self.parts: Mapping[str, nn.Module] = {part: base[part] for part in (base.family.denoiser, *encoders)}
        self.text_encoder_lr_ratio = (options.text_encoder_lr or options.learning_rate) / options.learning_rate
        for part in base.family.nets:
            base[part].requires_grad_(part in self.parts)
        for name, parameter in base.denoiser.named_parameters():
            parameter.requires_grad_(trains(name))
        for part in encoders:
            for name in conversion.silent(base.family, part):
                base[part].get_parameter(name).requires_grad_(False)

    def lr_multiplier(self, part: str, name: str) -> float:
        return 1.0 if part == self.model.family.denoiser else self.text_encoder_lr_ratio

    def check(self, folder: Path) -> None:
        pass

    def save(self, folder: Path) -> None:
        model.write_into(self.model, folder)

    def verify(self, folder: Path) -> None:
        """What was written must be bit for bit what was trained."""
        again = model.load(str(folder))
        for part in self.model.family.nets:
            live, read = self.model[part].state_dict(), again[part].state_dict()
            wrong = [name for name, tensor in live.items() if not torch.equal(tensor.cpu(), read[name].cpu())]
            if wrong:
                found = f"{len(wrong)} tensors differ after writing"
                raise Refusal(Fault(str(folder / part), found, do="check the disk"))


def trained(options: FineTuneOptions, place: Path, trains: Callable[[str], bool] = every) -> int:
    """How many numbers train. trains: which weights of the denoiser."""
    denoiser, *encoders = finetune.parts(options, place)
    family = validate.family_of(place)

    def learns(part: str) -> Callable[[str], bool]:
        return lambda name: name not in conversion.silent(family, part)

    texts = sum(validate.numbers(place / part, learns(part)) for part in encoders)
    return validate.numbers(place / denoiser, trains) + texts


def results(options: FineTuneOptions, trigger: str = "") -> list[Result]:
    """The output folder is a model."""
    return [Result("checkpoint", options.output_dir, options.output_dir.resolve().name, trigger)]
