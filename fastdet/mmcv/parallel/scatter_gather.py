"""A batch's parts to the devices, as in ``mmcv.parallel.scatter_gather``."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.parallel._functions import Scatter as _ScatterTensor

from ._functions import Scatter
from .data_container import DataContainer

__all__ = ["scatter", "scatter_kwargs"]


def scatter(inputs: Any, target_gpus: list[int], dim: int = 0) -> Any:
    """Deal out a batch to devices.

    Args:
        inputs: tensors are split along ``dim``, a :class:`DataContainer` gives each device its
            entry, containers are gone through, and anything else is given to every device.
        target_gpus: indices of GPUs, or ``[-1]`` for the host.
        dim: the batch dimension of tensors.

    Returns:
        A sequence with one item for each device.
    """

    def deal(obj: Any) -> Any:
        if isinstance(obj, Tensor):
            if target_gpus != [-1]:
                return _ScatterTensor.apply(target_gpus, None, dim, obj)
            return Scatter.forward(target_gpus, obj)
        if isinstance(obj, DataContainer):
            return obj.data if obj.cpu_only else Scatter.forward(target_gpus, obj.data)
        if isinstance(obj, tuple) and obj:
            return list(zip(*map(deal, obj)))
        if isinstance(obj, list) and obj:
            return list(map(list, zip(*map(deal, obj))))
        if isinstance(obj, dict) and obj:
            return list(map(type(obj), zip(*map(deal, obj.items()))))
        return [obj for _ in target_gpus]

    return deal(inputs)


def scatter_kwargs(inputs: tuple[Any, ...], kwargs: dict[str, Any], target_gpus: list[int],
                   dim: int = 0) -> tuple[tuple[Any, ...], tuple[dict[str, Any], ...]]:
    """Deal out positional and keyword arguments: as many of each, empty ones where they lack."""
    args = list(scatter(inputs, target_gpus, dim)) if inputs else []
    named = list(scatter(kwargs, target_gpus, dim)) if kwargs else []
    n = max(len(args), len(named))
    return (tuple(args + [()] * (n - len(args))), tuple(named + [{}] * (n - len(named))))
