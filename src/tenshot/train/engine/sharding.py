"""Weights, gradients and optimizer states split over the processes (FSDP), by torch's fully_shard.

A split tensor is a DTensor; everything that talks of whole ones must be done by all processes together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tenshot.core import distributed


def shard(net: nn.Module) -> None:
    """Split `net`, in place, block by block: a block is whole only while it computes. Gradients are averaged."""
    where = next(net.parameters()).device
    mesh = init_device_mesh(where.type, (distributed.world_size(),))
    for block in _blocks(net):
        fully_shard(block, mesh=mesh)
    fully_shard(net, mesh=mesh)
    for module in net.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other


def _blocks(net: nn.Module) -> list[nn.Module]:
    """The elements of the outermost lists."""
    found: list[nn.Module] = []
    for child in net.children():
        found += list(child) if isinstance(child, nn.ModuleList) else _blocks(child)
    return found


def is_split(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, DTensor)


def own(tensor: torch.Tensor) -> torch.Tensor:
    """This process's share, which changes with the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of it, in every process."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: torch.Tensor, value: Any) -> Any:
    """`value`, split as `tensor` is where it has its shape."""
    if not isinstance(tensor, DTensor) or not isinstance(value, torch.Tensor) or value.shape != tensor.shape:
        return value
    return distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements)
