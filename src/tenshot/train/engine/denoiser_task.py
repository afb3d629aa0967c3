"""What every training of a denoiser has in common, whatever its loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from tenshot.core import device
from tenshot.families.components import Denoiser, Net
from tenshot.train.engine import frozen, loop
from tenshot.train.engine.trainable import Trainable
from tenshot.train.options import TrainOptions


class DenoiserTask(loop.TrainingTask):
    """The denoiser as it trains: compiled where the options say so, its frozen weights in the precision of the steps.

    What draws meanwhile is not compiled.
    """

    def __init__(self, trainable: Trainable, options: TrainOptions) -> None:
        self.trainable = trainable
        if options.gradient_checkpointing:
            self.checkpoint_gradients()
        self.denoiser: Denoiser = trainable.model.denoiser
        if options.torch_compile:
            self.denoiser = torch.compile(self.denoiser, backend=options.torch_compile_backend)
        self.precision = device.precision(options.mixed_precision, trainable.model.device)
        if self.precision != "no" and not trainable.saves_model:
            for part in self._stepped:
                frozen.cast_frozen(trainable.model[part], device.DTYPES[self.precision])

    @property
    def _stepped(self) -> set[str]:
        """The parts that gradients come through."""
        return {self.trainable.model.family.denoiser, *self.trainable.parts}

    def checkpoint_gradients(self) -> None:
        """Less memory for more time."""
        for part in self._stepped:
            _checkpoint_gradients(self.trainable.model[part])

    def heaviest_step(self, batch: int, pieces: int) -> int:
        """All are alike."""
        return 0

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        return self.trainable.parts

    def lr_multiplier(self, part: str, name: str) -> float:
        return self.trainable.lr_multiplier(part, name)

    def gather(self) -> None:
        pass


def _checkpoint_gradients(net: Net) -> None:
    """diffusers and transformers, before version 6 and after, have three names for it."""
    names = ("enable_gradient_checkpointing", "activation_checkpointing_enable", "gradient_checkpointing_enable")
    next(getattr(net, name) for name in names if hasattr(net, name))()
    net.train()
