"""Small functions that several models share."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastdet.utils.types import InitCfg

__all__ = ["eval_batch_norms", "interpolate_as", "pretrained_init_cfg", "sigmoid_geometric_mean"]



def eval_batch_norms(module: nn.Module) -> None:
    """Put every batch normalisation of ``module`` in eval mode: its statistics stay."""
    for m in module.modules():
        if isinstance(m, _BatchNorm):
            m.eval()


def interpolate_as(source: Tensor, target: Tensor | np.ndarray, mode: str = "bilinear",
                   align_corners: bool | None = False) -> Tensor:
    """Resize ``source`` to the height and width of ``target``.

    Args:
        source: ``(N, C, H, W)`` or ``(N, H, W)``.
        target: ``(..., target_h, target_w)``; only its shape is read.
        mode: as in :func:`torch.nn.functional.interpolate`.
        align_corners: as in :func:`torch.nn.functional.interpolate`.

    Returns:
        The resized tensor, ``source`` itself where the sizes agree already.

    Raises:
        ValueError: ``source`` has neither three nor four dimensions.
    """
    if source.dim() not in (3, 4):
        raise ValueError("interpolate_as takes a source of 3 or 4 dimensions, "
                         f"got shape {tuple(source.shape)}")
    size = tuple(target.shape[-2:])
    if tuple(source.shape[-2:]) == size:
        return source
    if source.dim() == 3:
        return F.interpolate(source[:, None], size, mode=mode, align_corners=align_corners)[:, 0]
    return F.interpolate(source, size, mode=mode, align_corners=align_corners)


class _SigmoidGeometricMean(torch.autograd.Function):
    """``sqrt(sigmoid(x) * sigmoid(y))``.

    Autograd's own gradient divides by the root and is 0 / 0 where a sigmoid underflows; the
    derivative ``z * (1 - sigmoid(x)) / 2`` needs no division.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        z = (x.sigmoid() * y.sigmoid()).sqrt()
        ctx.save_for_backward(x, y, z)
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y, z = ctx.saved_tensors
        half = grads[0] * z / 2
        need_x, need_y = ctx.needs_input_grad
        return (half * (-x).sigmoid() if need_x else None,
                half * (-y).sigmoid() if need_y else None)


def sigmoid_geometric_mean(x: Tensor, y: Tensor) -> Tensor:
    """Geometric mean of the sigmoids of two tensors, with a gradient that is finite everywhere.

    Args:
        x: logits of any shape.
        y: logits of the shape of ``x``.

    Returns:
        ``sqrt(sigmoid(x) * sigmoid(y))``.

    Raises:
        ValueError: the shapes differ.
    """
    if x.shape != y.shape:
        raise ValueError("sigmoid_geometric_mean takes two tensors of one shape, "
                         f"got {tuple(x.shape)} and {tuple(y.shape)}")
    return _SigmoidGeometricMean.apply(x, y)


def pretrained_init_cfg(pretrained: str | None, init_cfg: InitCfg,
                        default: InitCfg = None) -> InitCfg:
    """The ``init_cfg`` that the arguments ``pretrained`` and ``init_cfg`` of a backbone mean.

    Args:
        pretrained: a checkpoint's path or address, the deprecated spelling of
            ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        init_cfg: an initialiser's config; ``[]`` and ``{}`` leave the weights as they are drawn.
        default: what holds where both are ``None``.

    Raises:
        ValueError: both are given.
        TypeError: ``pretrained`` is neither a string nor ``None``.
    """
    if pretrained is not None and not isinstance(pretrained, str):
        raise TypeError(f"pretrained must be a string or None, got {type(pretrained).__name__}")
    if pretrained is not None and init_cfg:
        raise ValueError("init_cfg and pretrained cannot be given together, "
                         f"got {init_cfg!r} and {pretrained!r}")
    if pretrained is not None:
        warnings.warn("pretrained is deprecated, use "
                      "init_cfg=dict(type='Pretrained', checkpoint=...)",
                      DeprecationWarning, stacklevel=3)
        return {"type": "Pretrained", "checkpoint": pretrained}
    return default if init_cfg is None else init_cfg
