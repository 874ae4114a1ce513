"""Batch norms folded into the convolutions before them, for inference."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["fuse_conv_bn"]


def _fused(conv: nn.Conv2d, bn: _BatchNorm) -> nn.Conv2d:
    """Put ``bn``, with the statistics it has learnt, into ``conv``."""
    mean, var = bn.running_mean, bn.running_var
    assert mean is not None
    assert var is not None
    factor = torch.rsqrt(var + bn.eps) if bn.weight is None \
        else bn.weight * torch.rsqrt(var + bn.eps)
    bias = -mean if conv.bias is None else conv.bias - mean
    conv.weight = nn.Parameter(conv.weight * factor.view(-1, 1, 1, 1))
    conv.bias = nn.Parameter(bias * factor if bn.bias is None else bias * factor + bn.bias)
    return conv


def fuse_conv_bn(module: nn.Module) -> nn.Module:
    """Fold every batch norm that follows a 2-D convolution into it; an identity takes its place.

    The children of a module count as running in the order in which they were added, as they do in
    blocks and ``Sequential``; a batch norm behind another layer stays.

    Args:
        module: a model that is not trained further; changed in place.

    Returns:
        ``module``.
    """
    conv: nn.Conv2d | None = None
    in_order = getattr(module, "order", ("conv", "norm", "act")) in (
        ("conv", "norm", "act"), ("act", "conv", "norm"))
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            if conv is not None and in_order and child.track_running_stats:
                _fused(conv, child)
                setattr(module, name, nn.Identity())
            conv = None
        elif isinstance(child, nn.Conv2d) and type(child).forward is nn.Conv2d.forward:
            conv = child
        else:
            conv = None
            fuse_conv_bn(child)
    return module
