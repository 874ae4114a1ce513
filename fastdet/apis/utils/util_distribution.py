"""A model in the wrapper of its device."""

from __future__ import annotations

from typing import Any

from torch import nn

from fastdet.mmcv.parallel import MMDataParallel, MMDistributedDataParallel
from fastdet.utils.distribution import get_device

__all__ = ["build_ddp", "build_dp", "ddp_factory", "dp_factory", "get_device"]

dp_factory = {"cuda": MMDataParallel, "cpu": MMDataParallel}
ddp_factory = {"cuda": MMDistributedDataParallel, "cpu": MMDistributedDataParallel}


def _known(device: str, factory: dict[str, Any]) -> Any:
    if device not in factory:
        raise ValueError(f"device must be one of {', '.join(factory)}, got {device!r}")
    return factory[device]


def build_dp(model: nn.Module, device: str = "cuda", dim: int = 0, *args: Any,
             **kwargs: Any) -> nn.Module:
    """A model for one process.

    Args:
        model: the model.
        device: ``'cuda'`` or ``'cpu'``.
        dim: the batch dimension.
        args, kwargs: of :class:`MMDataParallel`; ``device_ids`` names the GPUs.
    """
    wrapper = _known(device, dp_factory)
    if device == "cuda":
        model = model.cuda(kwargs["device_ids"][0])
    else:
        kwargs["device_ids"] = [-1]
    return wrapper(model, *args, dim=dim, **kwargs)


def build_ddp(model: nn.Module, device: str = "cuda", *args: Any, **kwargs: Any) -> nn.Module:
    """A model for one of several processes: on the GPU of its own, or all on the CPU.

    Args:
        model: the model.
        device: ``'cuda'`` or ``'cpu'``.
        args, kwargs: of :class:`MMDistributedDataParallel`.
    """
    wrapper = _known(device, ddp_factory)
    return wrapper(model.cuda() if device == "cuda" else model, *args, **kwargs)
