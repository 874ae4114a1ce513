"""Layers one after another, those that have a faster form together in it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from fastdet.kernels.linear import linear
from fastdet.runner import Sequential

from .drop import DropPath

__all__ = ["is_gelu", "is_idle", "run_layers"]


def _plain(layer: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a layer is of one of these classes, and calling it does what they say and no more:
    no subclass, no hook, no other forward."""
    return type(layer) in kinds and "forward" not in layer.__dict__ and not (
        layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks
        or layer._backward_pre_hooks or torch_module._has_any_global_hook())


def is_idle(layer: nn.Module) -> bool:
    """Whether a layer gives back what it is given."""
    if _plain(layer, nn.Dropout, DropPath):
        rate = layer.p if isinstance(layer, nn.Dropout) else layer.drop_prob
        return not layer.training or not rate
    return _plain(layer, nn.Identity)


def is_gelu(layer: nn.Module) -> bool:
    """Whether a layer is the exact GELU."""
    return _plain(layer, nn.GELU) and layer.approximate == "none"


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
        if not _plain(layer, nn.Linear):
            x = layer(x)
            continue
        gelu = bool(todo) and is_gelu(todo[0])
        if gelu:
            todo.pop(0)
        added, residual = (None, residual) if todo else (residual, None)
        x = linear(x, layer.weight, layer.bias, gelu=gelu, residual=added)  # type: ignore[arg-type]
    return x if residual is None else residual + x
