"""Layers one after another, those that have a faster form together in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from fastdet.kernels.linear import linear
from fastdet.runner import Sequential

from .drop import DropPath
from .fused import bare

__all__ = ["convolve_to_tokens", "is_gelu", "is_idle", "run_layers"]


def _plain(layer: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a layer is of one of these classes itself, and calling it does what they say."""
    return type(layer) in kinds and bare(layer)


def is_idle(layer: nn.Module) -> bool:
    """Whether a layer gives back what it is given."""
    if _plain(layer, nn.Dropout, DropPath):
        rate = layer.p if isinstance(layer, nn.Dropout) else layer.drop_prob
        return not layer.training or not rate
    return _plain(layer, nn.Identity)


def is_gelu(layer: nn.Module) -> bool:
    """Whether a layer is the exact GELU."""
    return _plain(layer, nn.GELU) and layer.approximate == "none"


def convolve_to_tokens(layer: Any, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """A convolution's result as tokens ``(B, h * w, C)``, and ``(h, w)``.

    Tokens are a map that is channels last. torch's CPU convolution gives that where the weight
    is, and else copies the map from and to the other layout; so the smaller of the two is copied.
    """
    if (not torch.compiler.is_compiling() and x.device.type == "cpu" and _plain(layer, nn.Conv2d)
            and layer.padding_mode == "zeros" and layer.weight.numel() < x.numel()
            and not torch.is_autocast_enabled("cpu")):
        weight = layer.weight.to(memory_format=torch.channels_last)
        x = F.conv2d(x, weight, layer.bias, layer.stride, layer.padding, layer.dilation,
                     layer.groups)
    else:
        x = layer(x)
    return x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3])


def _flat(layers: Iterable[nn.Module]) -> Iterable[nn.Module]:
    for layer in layers:
        if _plain(layer, nn.Sequential, Sequential):
            yield from _flat(layer)  # type: ignore[arg-type]
        elif not is_idle(layer):
            yield layer


def run_layers(layers: Iterable[nn.Module], x: Tensor, residual: Tensor | None = None) -> Tensor:
    """Run layers in order and add ``residual`` to the result.

    Linear layers run with the GELU or the residual behind them in one operator,
    :func:`fastdet.kernels.linear.linear`; a layer that anyone hooked or replaced is called.
    """
    if torch.compiler.is_compiling():  # which fuses by itself
        for layer in layers:
            x = layer(x)
        return x if residual is None else residual + x
    todo = list(_flat(layers))
    while todo:
        layer = todo.pop(0)
        if not _plain(layer, nn.Linear, NonDynamicallyQuantizableLinear):
            x = layer(x)
            continue
        gelu = bool(todo) and is_gelu(todo[0])
        if gelu:
            todo.pop(0)
        added, residual = (None, residual) if todo else (residual, None)
        x = linear(x, layer.weight, layer.bias, gelu=gelu, residual=added)  # type: ignore[arg-type]
    return x if residual is None else residual + x
