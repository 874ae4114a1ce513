"""What transformer blocks compute in one pass, where nothing looks in between."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from fastdet.kernels.add_layer_norm import add_layer_norm
from fastdet.kernels.common import autocasting
from fastdet.kernels.gelu_linear import gelu_linear

from .drop import DropPath

__all__ = ["add_gelu_linear", "add_norm", "bare", "cast_dtype", "casts"]


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
    if type(norm) is not nn.LayerNorm or norm.weight is None or norm.bias is None \
            or len(norm.normalized_shape) != 1 or not bare(norm):
        if branch is not None:
            x = x + (branch if drop is None else drop(branch))
        return x, norm(x)
    if branch is not None and drop is not None:
        if type(drop) is DropPath and bare(drop):
            scale = drop.scale(branch)
        else:
            branch = drop(branch)
    dtype = cast_dtype(x) if cast and cast_dtype(x) != x.dtype else None
    return add_layer_norm(x, branch, norm.weight, norm.bias, norm.eps, scale=scale, dtype=dtype)


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
