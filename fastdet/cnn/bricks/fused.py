"""What transformer blocks compute in one pass, where nothing looks in between."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from fastdet.kernels.add_layer_norm import add_layer_norm
from fastdet.kernels.common import autocasting
from fastdet.kernels.gelu_linear import gelu_linear
from fastdet.kernels.merge_layer_norm import merge_layer_norm

from .drop import DropPath

__all__ = ["add_gelu_linear", "add_norm", "bare", "cast_dtype", "casts", "is_layer_norm",
           "merge_norm"]


def bare(*modules: nn.Module) -> bool:
    """Whether calling each module runs its class's ``forward`` and nothing else.

    False with hooks of any kind, on one of them or on all modules there are, and with a
    ``forward`` of an instance's own: whoever put it there wants to see the call.
    """
    if (hooks._global_forward_hooks or hooks._global_forward_pre_hooks
            or hooks._global_backward_hooks or hooks._global_backward_pre_hooks):
        return False
    return not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks
                   or m._backward_pre_hooks or "forward" in m.__dict__ for m in modules)


def casts(reader: nn.Module) -> bool:
    """Whether a module reads its input as autocast casts it, and nobody sees it before that."""
    return type(reader) in (nn.Linear, nn.Conv2d) and bare(reader)


def cast_dtype(x: Tensor) -> torch.dtype:
    """The type that autocast casts ``x`` to where a product reads it; without autocast, its own."""
    return torch.get_autocast_dtype(x.device.type) if autocasting(x.device) else x.dtype


def is_layer_norm(norm: nn.Module | None) -> TypeGuard[nn.LayerNorm]:
    """Whether a norm is the layer norm of a last dimension, with weight and bias, and bare."""
    return (type(norm) is nn.LayerNorm and norm.weight is not None and norm.bias is not None
            and len(norm.normalized_shape) == 1 and bare(norm))


def _normed_dtype(x: Tensor, cast: bool) -> torch.dtype | None:
    """The type that a norm is asked for: where autocast would cast it next, that; else its own."""
    return cast_dtype(x) if cast and cast_dtype(x) != x.dtype else None


def add_norm(norm: nn.Module, x: Tensor, branch: Tensor | None = None,
             drop: nn.Module | None = None, *, cast: bool = False) -> tuple[Tensor, Tensor]:
    """``x + drop(branch)``, and ``norm`` of it.

    A layer norm is fused with the sum, with stochastic depth and with the cast that autocast would
    do next; another norm, or one with hooks, is called on the sum.

    Args:
        norm: the norm.
        x: ``(B, ..., C)``.
        branch: ``(B, ..., C)`` to add; nothing if ``None``.
        drop: stochastic depth or another dropout of the branch.
        cast: whether only linear layers and convolutions read the normalised tensor (see
            :func:`casts`), which is then handed over as autocast would cast it.

    Returns:
        The sum and the normalised tensor. Without a branch the sum is ``x``: whoever reads it from
        here on has the two gradients added in the norm's backward pass.
    """
    scale = None
    if not is_layer_norm(norm):
        if branch is not None:
            x = x + (branch if drop is None else drop(branch))
        return x, norm(x)
    if branch is not None and drop is not None:
        if type(drop) is DropPath and bare(drop):
            scale = drop.scale(branch)
        else:
            branch = drop(branch)
    return add_layer_norm(x, branch, norm.weight, norm.bias, norm.eps, scale=scale,
                          dtype=_normed_dtype(x, cast))


def merge_norm(norm: nn.LayerNorm, x: Tensor, hw: tuple[int, int], *, cast: bool = False) -> Tensor:
    """A layer norm (see :func:`is_layer_norm`) of each 2 x 2 tokens as one.

    Args:
        norm: the norm, over 4 * C channels.
        x: ``(B, H * W, C)``.
        hw: ``(H, W)``; an odd map is padded with zeros at the right and the bottom.
        cast: see :func:`add_norm`.

    Returns:
        ``(B, ceil(H / 2) * ceil(W / 2), 4 * C)``, channels as ``nn.Unfold`` orders them.
    """
    return merge_layer_norm(x, hw, norm.weight, norm.bias, norm.eps, dtype=_normed_dtype(x, cast))


def add_gelu_linear(hidden: Tensor, last: nn.Linear | nn.Conv2d, drop: nn.Module,
                    identity: Tensor) -> Tensor:
    """``identity + drop(last(gelu(hidden)))``, the GELU applied where the last layer reads.

    Args:
        hidden: ``(B, n, K)``.
        last: a linear layer, or a 1 x 1 convolution, from K channels to N.
        drop: stochastic depth, or ``nn.Identity``.
        identity: ``(B, n, N)``.

    Returns:
        ``(B, n, N)``.
    """
    scale = drop.scale(hidden) if isinstance(drop, DropPath) else None
    return gelu_linear(hidden, last.weight.flatten(1), last.bias, identity, scale=scale)
