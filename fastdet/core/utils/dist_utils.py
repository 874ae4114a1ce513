"""Numbers that the processes of a distributed run share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["all_reduce_dict", "allreduce_grads", "reduce_mean", "sync_random_seed", "world_size"]


def world_size() -> int:
    """How many processes there are; one outside a distributed run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def reduce_mean(tensor: Tensor) -> Tensor:
    """The mean of ``tensor`` over all processes; itself where there is one."""
    if world_size() == 1:
        return tensor
    tensor = tensor.clone() / world_size()
    dist.all_reduce(tensor)
    return tensor


def allreduce_grads(params: Iterable[nn.Parameter], coalesce: bool = True,
                    bucket_size_mb: int = -1) -> None:
    """Average gradients over all processes, in place.

    Args:
        params: those without a gradient are left out.
        coalesce: reduce many at once.
        bucket_size_mb: at most so much at once; -1 for all of a data type.
    """
    grads = [p.grad.data for p in params if p.requires_grad and p.grad is not None]
    if world_size() == 1 or not grads:
        return
    buckets: list[list[Tensor]] = [[g] for g in grads]
    if coalesce:
        limit = bucket_size_mb * 1024 * 1024 if bucket_size_mb > 0 else float("inf")
        buckets, size, kind = [], 0.0, None
        for grad in sorted(grads, key=lambda g: str(g.dtype)):
            size += grad.numel() * grad.element_size()
            if not buckets or grad.dtype != kind or size > limit:
                buckets.append([])
                size, kind = grad.numel() * grad.element_size(), grad.dtype
            buckets[-1].append(grad)
    for bucket in buckets:
        flat = torch.cat([g.reshape(-1) for g in bucket]) / world_size()
        dist.all_reduce(flat)
        for grad, mean in zip(bucket, flat.split([g.numel() for g in bucket])):
            grad.copy_(mean.view_as(grad))


def all_reduce_dict(py_dict: dict[str, Tensor], op: str = "sum", group: Any = None,
                    to_float: bool = True) -> dict[str, Tensor]:
    """Reduce every tensor of a dict over all processes.

    Args:
        py_dict: the same keys and shapes in every process.
        op: ``'sum'`` or ``'mean'``.
        group: the processes; all by default.
        to_float: convert every tensor to float32 first.

    Raises:
        ValueError: the processes' keys differ, or ``op`` is unknown.
    """
    if op not in ("sum", "mean"):
        raise ValueError(f"all_reduce_dict: op must be sum or mean, got {op!r}")
    if world_size() == 1:
        return py_dict
    keys: list[Any] = [list(py_dict)]
    dist.broadcast_object_list(keys, src=0, group=group)
    if sorted(keys[0]) != sorted(py_dict):
        raise ValueError(f"all_reduce_dict: this process has the keys {sorted(py_dict)}, the "
                         f"first one {sorted(keys[0])}")
    values = [py_dict[k].float() if to_float else py_dict[k] for k in keys[0]]
    flat = torch.cat([v.reshape(-1) for v in values])
    dist.all_reduce(flat, group=group)
    if op == "mean":
        flat = flat / dist.get_world_size(group)
    parts = flat.split([v.numel() for v in values])
    reduced = ((k, p.view_as(v)) for k, p, v in zip(keys[0], parts, values))
    return type(py_dict)(reduced) if isinstance(py_dict, OrderedDict) else dict(reduced)


def sync_random_seed(seed: int | None = None, device: Any = "cuda") -> int:
    """One seed for all processes: ``seed``, or what the first process draws.

    Args:
        seed: where given it is returned as it is.
        device: the device that carries it between processes.
    """
    if seed is None:
        seed = int(np.random.randint(2**31))  # noqa: NPY002 - follows the seed a user has set
    if world_size() == 1:
        return seed
    value = torch.tensor(seed if dist.get_rank() == 0 else 0, dtype=torch.int64, device=device)
    dist.broadcast(value, src=0)
    return int(value.item())
