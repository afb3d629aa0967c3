"""Processes that each make a part of a batch: DistributedDataParallel averages gradients while backward still runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tenshot.core import distributed
from tenshot.train.engine import sharding
from tenshot.train.engine.rng import CounterRNG

Loss = Callable[[CounterRNG], torch.Tensor]


class _Module(nn.Module):
    """A loss as a module of the parameters that it trains."""

    def __init__(self, loss: Loss, parameters: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.loss, self.trained = loss, nn.ParameterList(parameters)

    def forward(self, rng: CounterRNG) -> torch.Tensor:
        return self.loss(rng)


class AveragedLoss:
    """`loss`, whose gradients are the mean over the processes; FSDP sees to that itself where it splits weights."""

    def __init__(self, loss: Loss, parameters: Sequence[torch.Tensor]) -> None:
        self.loss = loss
        self.ddp: DistributedDataParallel | None = None
        if distributed.world_size() > 1 and not any(map(sharding.is_split, parameters)):
            unread = torch.zeros(1, device=parameters[0].device)  # without any, DDP warns that all are read
            module = _Module(loss, [*parameters, unread])
            # Some layers get no gradients, where nothing reads their answer: the last ones of SDXL's text encoders.
            # As DDP then keeps its buckets, a resumed run sums in the same order.
            self.ddp = DistributedDataParallel(
                module, init_sync=False, find_unused_parameters=True, gradient_as_bucket_view=True
            )

    def accumulating(self, more: bool) -> AbstractContextManager[None]:
        """Around forward and backward of a part of a batch. more: others follow, and the processes wait for them."""
        return self.ddp.no_sync() if self.ddp and more else nullcontext()

    def __call__(self, rng: CounterRNG) -> torch.Tensor:
        return (self.ddp or self.loss)(rng)
